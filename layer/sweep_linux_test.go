package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"berth/image"
	"berth/internal/disk"
	"berth/internal/filelock"
)

// decision makes a Decision that is given to a Sweep.
func decision(d Decision) func(map[image.Digest]bool) (Decision, error) {
	return func(map[image.Digest]bool) (Decision, error) { return d, nil }
}

func set(ids ...image.Digest) map[image.Digest]bool {
	all := make(map[image.Digest]bool)
	for _, id := range ids {
		all[id] = true
	}
	return all
}

func TestSweepTellsWhatTheLeasesHold(t *testing.T) {
	s := newStore(t, testLimits)
	held, other := addLayer(t, s, archive(specimen...)).DiffID, addLayer(t, s, archive(file("a", ""))).DiffID
	l := newLease(t, s)
	defer release(t, l)
	hold(t, l, held)
	for name, sweep := range map[string]func(context.Context, func(map[image.Digest]bool) (Decision, error)) (Swept, error){
		"sweepable": s.Sweepable, "sweep": s.Sweep,
	} {
		told := false
		_, err := sweep(context.Background(), func(leased map[image.Digest]bool) (Decision, error) {
			told = leased[held] && !leased[other]
			return Decision{Keep: set(held, other)}, nil
		})
		if err != nil || !told {
			t.Errorf("%s: %v, told what is held: %v", name, err, told)
		}
	}
}

// Others wait for a sweep only while it decides and renames. So no disk has to turn then.
func TestNobodyWaitsForADiskThatASweepWaitsFor(t *testing.T) {
	s := newStore(t, testLimits)
	gone := addLayer(t, s, archive(specimen...)).DiffID
	locked := false
	free := func(when string) {
		lock, err := filelock.Try(filepath.Join(s.Dir(), "lock"), filelock.Shared)
		if err != nil {
			t.Errorf("%s: %v", when, err)
			return
		}
		if err := lock.Unlock(); err != nil {
			t.Error(err)
		}
	}
	var steps []string
	var nested sync.Mutex
	restore := disk.Intercept(func(step disk.Step) error {
		if !nested.TryLock() {
			return nil // of free
		}
		defer nested.Unlock()
		switch step.Op {
		case "fsync", "syncfs", "remove":
			if locked {
				t.Errorf("%s %s while others wait", step.Op, step.Path)
			}
			free(step.Op)
		case disk.Reached:
			locked = step.Path == "sweep: decided"
			steps = append(steps, step.Path)
		}
		return nil
	})
	swept, err := s.Sweep(context.Background(), func(map[image.Digest]bool) (Decision, error) {
		return Decision{Settle: func() error {
			free("settle")
			steps = append(steps, "settling")
			if _, err := os.Lstat(s.layerDir(gone)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the layer is there while it settles: %v", err)
			}
			return nil
		}}, nil
	})
	restore()
	if err != nil || len(swept.Layers) != 1 {
		t.Errorf("swept %+v, %v", swept, err)
	}
	want := []string{"sweep: decided", "sweep: moved away", "settling", "sweep: settled", "sweep: synced", "sweep: removed"}
	if !slices.Equal(steps, want) {
		t.Errorf("the steps were %q", steps)
	}
}

func TestSweepThatTakesNothingSettles(t *testing.T) {
	s := newStore(t, testLimits)
	settled := false
	swept, err := s.Sweep(context.Background(), decision(Decision{Settle: func() error { settled = true; return nil }}))
	if err != nil || !settled || swept.Layers != nil || swept.Bytes != 0 {
		t.Errorf("swept %+v, %v; settled: %v", swept, err, settled)
	}
}

// When records may be back after a power cut, so must be their layers.
func TestSweepThatCannotSettlePutsTheLayersBack(t *testing.T) {
	s := newStore(t, testLimits)
	var ids []image.Digest
	for i := range 3 {
		ids = append(ids, addLayer(t, s, archive(file(fmt.Sprint(i), ""))).DiffID)
	}
	supersede(t, s, archive(file("0", "")))
	before := look(t, s.layers())
	broken := errors.New("disk is broken")
	swept, err := s.Sweep(context.Background(), decision(Decision{
		Keep: set(ids[0]), Settle: func() error { return broken },
	}))
	if !errors.Is(err, broken) || swept.Layers != nil || swept.Bytes != 0 {
		t.Errorf("swept %+v, %v", swept, err)
	}
	wantTree(t, look(t, s.layers()), before)
	wantNothingIn(t, s.staging())
	wantNothingIn(t, s.leases())
	for _, id := range ids {
		wantClean(t, s, id)
	}
}

// Who has fetched a layer meanwhile keeps it.
func TestALayerThatIsBackAlreadyStays(t *testing.T) {
	s := newStore(t, testLimits)
	blob := archive(specimen...)
	id := addLayer(t, s, blob).DiffID
	broken := errors.New("disk is broken")
	_, err := s.Sweep(context.Background(), decision(Decision{Settle: func() error {
		addLayer(t, s, blob)
		return broken
	}}))
	if !errors.Is(err, broken) {
		t.Error(err)
	}
	wantClean(t, s, id)
	recoverStore(t, s)
	wantNothingIn(t, s.staging())
}

func TestSweepLeavesUnknownFilesAlone(t *testing.T) {
	s := newStore(t, testLimits)
	gone, kept := addLayer(t, s, archive(specimen...)).DiffID, addLayer(t, s, archive(file("a", ""))).DiffID
	unknown := []string{
		filepath.Join(s.layers(), "notes"),
		filepath.Join(s.layers(), ".hidden"),
		filepath.Join(s.layerDir(gone), "notes"),
		filepath.Join(s.layerDir(kept), "notes"),
		filepath.Join(s.leases(), "notes"),
		filepath.Join(s.staging(), "notes"),
		filepath.Join(s.staging(), "notes.d"),
	}
	slices.Sort(unknown)
	for _, path := range unknown {
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	swept, err := s.Sweep(context.Background(), keep(kept))
	if err != nil || !slices.Equal(swept.Layers, []image.Digest{gone}) {
		t.Errorf("swept %+v, %v", swept, err)
	}
	recoverStore(t, s)
	found, err := s.Unknown()
	slices.Sort(found)
	if err != nil || !slices.Equal(found, unknown) {
		t.Errorf("unknown are %q, %v, want %q", found, err, unknown)
	}
	if ids, err := s.List(); err != nil || !slices.Equal(ids, []image.Digest{kept}) {
		t.Errorf("listed %v, %v", ids, err)
	}
	// It does not stand in the way of the layer.
	addLayer(t, s, archive(specimen...))
	wantClean(t, s, gone)
}

func TestWhatIsOursIsNotUnknown(t *testing.T) {
	s := newStore(t, testLimits)
	addLayer(t, s, archive(specimen...))
	supersede(t, s, archive(specimen...))
	l := newLease(t, s)
	defer release(t, l)
	if _, err := l.Unpack(context.Background(), Tree, "", bytes.NewReader(archive(file("a", "")))); err != nil {
		t.Fatal(err)
	}
	dead := addLayer(t, s, archive(file("b", ""))).DiffID
	sw := &sweeping{store: s, lease: l}
	if _, err := sw.move(s.layerDir(dead), nil); err != nil {
		t.Fatal(err)
	}
	if found, err := s.Unknown(); err != nil || len(found) != 0 {
		t.Errorf("unknown are %q, %v", found, err)
	}
}

func TestSweepThatIsCancelledIsTakenUpByRecover(t *testing.T) {
	s := newStore(t, testLimits)
	for i := range 3 {
		addLayer(t, s, archive(file(fmt.Sprint(i), "")))
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	restore := disk.Intercept(func(step disk.Step) error {
		if step.Op == "remove" {
			cancel(enough) // the tree whose turn it is is removed whole
		}
		return nil
	})
	swept, err := s.Sweep(ctx, keepNothing)
	restore()
	if !errors.Is(err, enough) || len(swept.Layers) != 3 || swept.Bytes == 0 {
		t.Errorf("swept %+v, %v", swept, err)
	}
	if n := count(t, s.staging()); n != 2 {
		t.Errorf("%d layers are left to Recover, want 2", n)
	}
	recoverStore(t, s)
	wantEmpty(t, s)
}

// To remove something on a full disk nothing has to be written.
func TestSweepOfAFullDisk(t *testing.T) {
	needRoot(t)
	for _, fstype := range []string{"ext4", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			size := map[string]string{"ext4": "8M", "btrfs": "128M"}[fstype]
			mnt := mountNew(t, fstype, size)
			s := openStore(t, filepath.Join(mnt, "store"), DefaultLimits)
			addLayer(t, s, archive(specimen...))
			closeStore(t, s)
			fill(t, mnt)
			if fstype == "ext4" {
				fillDirectories(t, mnt)
			}
			swept, err := openStore(t, s.Dir(), DefaultLimits).Sweep(context.Background(), keepNothing)
			if err != nil || len(swept.Layers) != 1 {
				t.Errorf("swept %+v, %v", swept, err)
			}
			wantEmpty(t, s)
		})
	}
}

// fill takes all space below dir, to the last block.
func fill(t *testing.T, dir string) {
	t.Helper()
	for i, size := range []int{1 << 20, 4096, 1} {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint("filler", i)), os.O_CREATE|os.O_WRONLY|os.O_SYNC, 0o600)
		if err != nil {
			return // no room for its name
		}
		defer f.Close()
		block := make([]byte, size)
		for {
			if _, err := f.Write(block); err != nil || size == 1 {
				break
			}
		}
	}
}

// fillDirectories takes the room in directories and all inodes.
func fillDirectories(t *testing.T, dir string) {
	t.Helper()
	for i := 0; ; i++ {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprint("fillers", i)), 0o700); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			return
		}
	}
}

func TestASweepThatWasKilledLeavesNoLayerInPart(t *testing.T) {
	for _, place := range []string{
		"sweep: decided", "sweep: moved away", "sweep: settled", "sweep: synced", "sweep: removed", "the third removal",
	} {
		t.Run(place, func(t *testing.T) {
			s := newStore(t, testLimits)
			ids := []image.Digest{addLayer(t, s, archive(specimen...)).DiffID, addLayer(t, s, archive(file("a", ""))).DiffID}
			dies(t, s, place)
			for _, id := range ids {
				if s.visible(id, Tree) {
					wantClean(t, s, id)
				}
			}
			recoverStore(t, s)
			wantNothingIn(t, s.staging())
			wantNothingIn(t, s.leases())
			sweep(t, s)
			wantEmpty(t, s)
		})
	}
}

// dies runs a process that sweeps until it is killed at a place.
func dies(t *testing.T, s *Store, place string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"=die at "+place, storeEnv+"="+s.Dir())
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.Exited() {
		t.Fatalf("it was not killed at %q: %v: %s", place, err, out)
	}
}

func dieAt(s *Store, place string) error {
	removals := 0
	disk.Intercept(func(step disk.Step) error {
		if step.Op == "remove" {
			if removals++; removals == 3 {
				step.Path = "the third removal"
			}
		}
		if step.Path == place {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
		return nil
	})
	_, err := s.Sweep(context.Background(), keepNothing)
	return err
}
