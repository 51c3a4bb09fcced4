package layer

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"berth/image"
	"berth/internal/disk"
)

// supersede puts a new copy of a layer in the place of the visible one.
func supersede(t testing.TB, s *Store, blob []byte) image.Digest {
	t.Helper()
	l := newLease(t, s)
	defer release(t, l)
	id := image.DigestOf(blob)
	l.Supersede(Tree, id)
	if absent, err := l.Hold(context.Background(), Tree, []image.Digest{id}); err != nil || len(absent) != 1 {
		t.Fatalf("absent is %v, %v; want what is to be superseded", absent, err)
	}
	if _, err := l.Unpack(context.Background(), Tree, id, bytes.NewReader(blob)); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if absent, err := l.Hold(context.Background(), Tree, []image.Digest{id}); err != nil || len(absent) != 0 {
		t.Errorf("absent after the commit: %v, %v", absent, err)
	}
	return id
}

// superseded returns the paths of the replaced copies of a layer.
func superseded(t *testing.T, s *Store, id image.Digest) (paths []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(s.layerDir(id), supersededPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// Containers stand on the old copy; all others find a whole one at every moment.
func TestSupersedeUnderARunningContainer(t *testing.T) {
	s := newStore(t, testLimits)
	blob := archive(specimen...)
	id := addLayer(t, s, blob).DiffID
	flipByte(t, s, id)
	path := s.Path(id, Tree)
	broken, err := os.ReadFile(filepath.Join(path, "d/file"))
	if err != nil {
		t.Fatal(err)
	}
	rootfs := t.TempDir()
	lower := strings.ReplaceAll(path, ":", `\:`) + ":" + t.TempDir()
	if err := unix.Mount("overlay", rootfs, "overlay", unix.MS_RDONLY, "lowerdir="+lower); err != nil {
		t.Fatal("mount an overlay: ", err)
	}
	defer func() {
		if err := unix.Unmount(rootfs, 0); err != nil {
			t.Error(err)
		}
	}()

	var reading sync.WaitGroup
	done := make(chan struct{})
	reading.Go(func() {
		for {
			if _, err := os.Lstat(filepath.Join(path, "d/file")); err != nil {
				t.Errorf("a reader finds: %v", err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	supersede(t, s, blob)
	close(done)
	reading.Wait()

	wantClean(t, s, id)
	if got, err := os.ReadFile(filepath.Join(rootfs, "d/file")); err != nil || !bytes.Equal(got, broken) {
		t.Errorf("the container has %.20q, %v; want what it had", got, err)
	}
	swept, err := s.Sweep(context.Background(), decision(Decision{Keep: set(id), InUse: set(id)}))
	if err != nil || swept.Layers != nil || swept.Bytes != 0 || len(superseded(t, s, id)) != 1 {
		t.Errorf("swept %+v, %v; the old copies are %v", swept, err, superseded(t, s, id))
	}
	if _, err := os.ReadFile(filepath.Join(rootfs, "d/empty")); err != nil {
		t.Error(err)
	}
}

func TestSupersededCopiesAreSweptWhenNobodyUsesThem(t *testing.T) {
	s := newStore(t, testLimits)
	info := addLayer(t, s, archive(specimen...))
	id := supersede(t, s, archive(specimen...))
	supersede(t, s, archive(specimen...))
	l := newLease(t, s)
	if err := l.Keep(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	for _, spare := range []Decision{{Keep: set(id)}, {InUse: set(id)}} {
		swept, err := s.Sweep(context.Background(), decision(spare))
		if err != nil || swept.Bytes != 0 || len(superseded(t, s, id)) != 2 {
			t.Errorf("swept %+v, %v while a lease holds the layer", swept, err)
		}
	}
	release(t, l)
	if ids, err := s.List(); err != nil || len(ids) != 1 {
		t.Errorf("listed %v, %v", ids, err)
	}
	would, err := s.Sweepable(context.Background(), keep(id))
	if err != nil || would.Layers != nil || would.Bytes != 2*info.Disk {
		t.Errorf("a sweep would remove %+v, %v; want two copies of %d bytes", would, err, info.Disk)
	}
	swept, err := s.Sweep(context.Background(), keep(id))
	if err != nil || swept.Layers != nil || swept.Bytes != would.Bytes {
		t.Errorf("swept %+v, %v", swept, err)
	}
	wantClean(t, s, id)
	wantWhole(t, s)
	if left := superseded(t, s, id); len(left) != 0 {
		t.Errorf("left are %v", left)
	}

	supersede(t, s, archive(specimen...))
	swept, err = s.Sweep(context.Background(), keepNothing)
	if err != nil || len(swept.Layers) != 1 || swept.Bytes != 2*info.Disk {
		t.Errorf("swept %+v, %v; want the layer and its copy", swept, err)
	}
	wantEmpty(t, s)
}

// Whatever has become of a layer, it can be mended.
func TestSupersedeMends(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(s *Store, d damage)
	}{
		{"nothing", func(*Store, damage) {}},
		{"an absent layer", func(s *Store, d damage) { d.must(os.RemoveAll(filepath.Dir(d.form))) }},
		{"an absent form", func(s *Store, d damage) { d.must(os.RemoveAll(d.form)) }},
		{"an empty form", func(s *Store, d damage) { d.must(os.RemoveAll(d.form)); d.must(os.Mkdir(d.form, 0o700)) }},
		{"a file in the place of the form", func(s *Store, d damage) {
			d.must(os.RemoveAll(d.form))
			d.must(os.WriteFile(d.form, nil, 0o600))
		}},
		{"a file in the place of the layer", func(s *Store, d damage) {
			d.must(os.RemoveAll(filepath.Dir(d.form)))
			d.must(os.WriteFile(filepath.Dir(d.form), nil, 0o600))
		}},
		{"a link in the place of the form", func(s *Store, d damage) {
			d.must(os.RemoveAll(d.form))
			d.must(os.Symlink("/nowhere", d.form))
		}},
		{"no tree", func(s *Store, d damage) { d.remove(contentDir) }},
		{"no record", func(s *Store, d damage) { d.remove(infoFile) }},
		{"a record of garbage", func(s *Store, d damage) { d.write(infoFile, "\x00\x01{") }},
		{"no epoch", func(s *Store, d damage) { d.remove(epochFile) }},
		{"a directory for the epoch", func(s *Store, d damage) { d.remove(epochFile); d.must(os.Mkdir(d.path(epochFile), 0o700)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t, testLimits)
			blob := archive(specimen...)
			id := addLayer(t, s, blob).DiffID
			c.damage(s, damage{t, s, s.formDir(id, Tree)})
			supersede(t, s, blob)
			wantClean(t, s, id)
			sweep := func() {
				if _, err := s.Sweep(context.Background(), keep(id)); err != nil {
					t.Error(err)
				}
			}
			sweep()
			wantWhole(t, s)
			if left := superseded(t, s, id); len(left) != 0 {
				t.Errorf("left are %v", left)
			}
		})
	}
}

// What a shutdown has made of a layer is found by its next use, without a repair.
func TestUseAfterAnUncleanShutdownMends(t *testing.T) {
	for name, damage := range map[string]func(d damage){
		"a file in the place of the form": func(d damage) {
			d.must(os.RemoveAll(d.form))
			d.must(os.WriteFile(d.form, nil, 0o600))
		},
		"an empty form": func(d damage) { d.must(os.RemoveAll(d.form)); d.must(os.Mkdir(d.form, 0o700)) },
		"a file for a layer": func(d damage) {
			dir := filepath.Dir(d.form)
			d.must(os.RemoveAll(dir))
			d.must(os.WriteFile(dir, nil, 0o600))
		},
		"an epoch of garbage":   func(d damage) { d.write(epochFile, "x") },
		"a tree without a file": func(d damage) { d.remove("fs/d/file") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, testLimits)
			id := addLayer(t, s, archive(specimen...)).DiffID
			crash(t, s)
			damage(newDamage(t, s, id))
			if err := get(s, archive(specimen...)); err != nil {
				t.Error(err)
			}
			wantClean(t, s, id)
		})
	}
}

func newDamage(t *testing.T, s *Store, id image.Digest) damage {
	return damage{t, s, s.formDir(id, Tree)}
}

// get gets a layer as an image store does.
func get(s *Store, blob []byte) (err error) {
	ctx := context.Background()
	l, err := s.Lease(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	id := image.DigestOf(blob)
	absent, err := l.Hold(ctx, Tree, []image.Digest{id})
	if err != nil || len(absent) == 0 {
		return err
	}
	if _, err := l.Unpack(ctx, Tree, id, bytes.NewReader(blob)); err != nil {
		return err
	}
	return l.Commit(ctx)
}

// At whatever step a repair is killed, there is a whole copy or the broken one.
func TestTheBrokenCopyIsNeverWhereItIsRemoved(t *testing.T) {
	s := newStore(t, testLimits)
	blob := archive(specimen...)
	id := addLayer(t, s, blob).DiffID
	old, err := os.Stat(s.Path(id, Tree))
	if err != nil {
		t.Fatal(err)
	}
	reached := 0
	restore := disk.Intercept(func(step disk.Step) error {
		if strings.HasPrefix(step.Path, "repair: ") {
			reached++
			if !isAmong(t, old, append(superseded(t, s, id), s.formDir(id, Tree))) {
				t.Errorf("%s: the old copy is neither visible nor kept", step.Path)
			}
		}
		return nil
	})
	supersede(t, s, blob)
	restore()
	if reached != 2 {
		t.Errorf("%d places were reached", reached)
	}
}

func isAmong(t *testing.T, want os.FileInfo, forms []string) bool {
	t.Helper()
	for _, form := range forms {
		if got, err := os.Stat(filepath.Join(form, contentDir)); err == nil && os.SameFile(got, want) {
			return true
		}
	}
	return false
}

func TestTwoSupersedeTheSameLayer(t *testing.T) {
	s := newStore(t, testLimits)
	blob := archive(specimen...)
	id := addLayer(t, s, blob).DiffID
	flipByte(t, s, id)
	var all sync.WaitGroup
	for range 4 {
		own := openStore(t, s.Dir(), testLimits)
		all.Go(func() {
			l := newLease(t, own)
			defer release(t, l)
			l.Supersede(Tree, id)
			if _, err := l.Unpack(context.Background(), Tree, id, bytes.NewReader(blob)); err != nil {
				t.Error(err)
			}
			if err := l.Commit(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	wantClean(t, s, id)
	if _, err := s.Sweep(context.Background(), keep(id)); err != nil {
		t.Error(err)
	}
	wantWhole(t, s)
}

// Where names cannot be exchanged, the old one goes before the new one comes.
func TestSupersedeWithoutAnExchange(t *testing.T) {
	s := newStore(t, testLimits)
	blob := archive(specimen...)
	id := addLayer(t, s, blob).DiffID
	flipByte(t, s, id)
	exchanges := 0
	restore := disk.Intercept(func(step disk.Step) error {
		if step.Op == "rename" && step.Path == s.formDir(id, Tree) {
			if exchanges++; exchanges == 1 {
				return unix.EINVAL
			}
		}
		return nil
	})
	supersede(t, s, blob)
	restore()
	wantClean(t, s, id)
	if len(superseded(t, s, id)) != 1 {
		t.Errorf("the old copies are %v", superseded(t, s, id))
	}
}
