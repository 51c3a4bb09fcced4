package provisioner_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/internal/testrig"
	"berth/provisioner"
)

func TestProvisionAndDestroy(t *testing.T) {
	for _, backendName := range []string{"overlay", "copy", "bind"} {
		t.Run(backendName, func(t *testing.T) {
			b := newBench(t, backendName)
			b.wantDestroyed(t, "c", false)
			rootfs := b.provision(t, "c", "one")
			wantFile(t, rootfs.Path, "one")
			if want := filepath.Join(b.Paths.Container(id(t, "c")), "backends", backendName, "rootfses"); filepath.Dir(rootfs.Path) != want {
				t.Errorf("the root filesystem is %s, want it in %s", rootfs.Path, want)
			}
			if real, err := filepath.EvalSymlinks(rootfs.Path); err != nil || real != rootfs.Path {
				t.Errorf("the root filesystem is %s, really %s (%v)", rootfs.Path, real, err)
			}
			if rootfs.Image.Reference != "one" || rootfs.Config == nil {
				t.Errorf("made of %+v with the configuration %v", rootfs.Image, rootfs.Config)
			}
			for _, dir := range rootfs.Ephemeral {
				if !strings.HasPrefix(dir, b.Paths.Container(id(t, "c"))+"/") {
					t.Errorf("the ephemeral volume %s is not of the container", dir)
				}
			}
			b.wantContainers(t, "c")
			b.wantDestroyed(t, "c", true)
			wantNoFile(t, b.Paths.Container(id(t, "c")))
			b.wantContainers(t)
			b.wantDestroyed(t, "c", false)
			if _, err := b.Layers.Info(images["one"].DiffIDs()[0], "tree"); err != nil {
				t.Errorf("the layer went with the container: %v", err)
			}
		})
	}
}

// A container has its own root filesystem and those of its image volumes.
func TestSeveralRootfses(t *testing.T) {
	b := newBench(t, "overlay")
	want := make(map[string][]image.Digest)
	for _, name := range []string{"two", "one", "two"} {
		rootfs := b.provision(t, "c", name)
		wantFile(t, rootfs.Path, topFile(name))
		want[filepath.Base(rootfs.Path)] = images[name].DiffIDs()
		if got := b.record(t, "c"); !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("recorded are %v, want %v", got, want)
		}
	}
	if len(want) != 3 {
		t.Errorf("only %d root filesystems", len(want))
	}
	uses, err := b.Uses()
	if err != nil || len(uses) != 3 {
		t.Errorf("uses are %+v, %v", uses, err)
	}
	for _, use := range uses {
		if use.Container != id(t, "c") || use.Backend != "overlay" || !slices.Equal(use.Layers, images[use.Image].DiffIDs()) {
			t.Errorf("a use is %+v", use)
		}
	}
	b.wantDestroyed(t, "c", true)
	b.wantContainers(t)
}

func TestRecordedBeforeMade(t *testing.T) {
	b := newBench(t, "fake")
	made := 0
	b.fake.onMake = func(_ context.Context, rootfs string) error {
		made++
		rec := b.record(t, "c")
		if !slices.Equal(rec[filepath.Base(rootfs)], images["two"].DiffIDs()) || len(rec) != made {
			t.Errorf("when the root filesystem %s is made, recorded are %v", rootfs, rec)
		}
		return nil
	}
	b.provision(t, "c", "two")
	b.provision(t, "c", "two")
	if made != 2 {
		t.Errorf("the backend was asked %d times", made)
	}
}

func TestLayersOfAContainerSurviveTheSweep(t *testing.T) {
	for _, c := range []struct {
		name  string
		fails error
	}{{"provisioned", nil}, {"half made", errors.New("out of luck")}} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "fake")
			b.fake.onMake = func(context.Context, string) error { return c.fails }
			for _, at := range []string{"a", "a.b"} { // that of a child counts, too
				if _, err := b.Provision(t.Context(), id(t, at), b.Image("two")); !errors.Is(err, c.fails) {
					t.Fatal(err)
				}
				if err := b.Stores[v1.Image_DOCKER].Remove(t.Context(), b.Image("two")); err != nil {
					t.Fatal(err)
				}
			}
			if n := b.sweep(t); n != 0 {
				t.Errorf("a sweep took %d layers of containers", n)
			}
			b.wantDestroyed(t, "a.b", true)
			if n := b.sweep(t); n != 0 {
				t.Errorf("a sweep took %d layers of the parent", n)
			}
			b.wantDestroyed(t, "a", true)
			if n := b.sweep(t); n != 2 {
				t.Errorf("a sweep took %d layers that nobody has, want 2", n)
			}
		})
	}
}

// Between the store's answer and the record of the container, nothing but the lease
// keeps the layers. The provisioner asks the backend for its form before and after.
func TestLayersAreHeldUntilTheyAreRecorded(t *testing.T) {
	b := newBench(t, "fake")
	swept := -1
	b.fake.onForm = func() {
		if err := b.Stores[v1.Image_DOCKER].Remove(t.Context(), b.Image("two")); err == nil {
			swept = b.sweep(t)
		}
	}
	b.provision(t, "c", "two")
	b.fake.onForm = nil
	if swept != 0 {
		t.Errorf("a sweep took %d layers, want none", swept)
	}
	if leases, err := os.ReadDir(filepath.Join(b.Layers.Dir(), "leases")); err != nil || len(leases) != 0 {
		t.Errorf("afterwards there are still the leases %v (%v)", leases, err)
	}
}

func TestSweepLeavesTheLayersOfRecordedImages(t *testing.T) {
	b := newBench(t, "fake")
	b.provision(t, "c", "two")
	b.wantDestroyed(t, "c", true)
	if n := b.sweep(t); n != 0 {
		t.Errorf("a sweep took %d layers of an image that is recorded", n)
	}
}

func TestProvisionThatFails(t *testing.T) {
	testrig.RequireRoot(t)
	unlucky := errors.New("out of luck")
	appc := &v1.Image{Type: v1.Image_APPC.Enum()}
	for _, c := range []struct {
		name    string
		backend string
		img     func(*bench) *v1.Image
		class   error
		says    []string
		exists  bool // a part of it
	}{
		{"by the backend", "fake", func(b *bench) *v1.Image { return b.Image("one") }, unlucky, []string{"provision c: ", "out of luck"}, true},
		{"by the rule of bind", "bind", func(b *bench) *v1.Image { return b.Image("two") }, container.ErrInvalid, []string{"provision c: bind backend: ", "exactly one layer", "has 2"}, true},
		{"for an unknown image", "copy", func(b *bench) *v1.Image { return b.Image("unheard") }, container.ErrNotFound, []string{"unheard"}, false},
		{"for a type without a store", "copy", func(*bench) *v1.Image { return appc }, container.ErrNotSupported, []string{"provision c: ", "APPC", "--image_providers"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, c.backend)
			b.fake.onMake = func(context.Context, string) error { return unlucky }
			rootfs, err := b.Provision(t.Context(), id(t, "c"), c.img(b))
			if rootfs != nil {
				t.Errorf("got %+v besides the error", rootfs)
			}
			wantError(t, err, c.class, c.says...)
			b.wantDestroyed(t, "c", c.exists)
			b.wantContainers(t)
			b.fake.onMake = nil
			b.provision(t, "c", "one")
		})
	}
}

func TestNewWithoutItsBackend(t *testing.T) {
	_, err := provisioner.New(provisioner.Options{Backend: "zfs"})
	wantError(t, err, container.ErrNotFound, `provisioner backend "zfs"`)
}

// What a newer berth has recorded is not changed, and no layer of it goes.
func TestRecordOfANewerVersion(t *testing.T) {
	b := newBench(t, "fake")
	b.provision(t, "other", "one")
	if err := b.Stores[v1.Image_DOCKER].Remove(t.Context(), b.Image("one")); err != nil {
		t.Fatal(err)
	}
	b.wantDestroyed(t, "other", true) // now its layer is nobody's
	record := b.Paths.Layers(id(t, "c"))
	const newer = `{"version": 2, "rootfses": ["of another form"]}`
	write(t, record, newer)

	_, err := b.Provision(t.Context(), id(t, "c"), b.Image("two"))
	says := []string{"record of the layers of c", "of version 2", "this berth knows version 1"}
	wantError(t, err, container.ErrNotSupported, append(says, "provision c: ")...)
	_, err = b.Uses()
	wantError(t, err, container.ErrNotSupported, says...)
	swept, err := b.Sweep(t.Context())
	wantError(t, err, container.ErrNotSupported, says...)
	if len(swept.Layers) > 0 {
		t.Errorf("swept %v", swept)
	}
	if got, err := os.ReadFile(record); err != nil || string(got) != newer {
		t.Errorf("the record is now %s (%v)", got, err)
	}
	wantNoFile(t, b.Paths.Backends(id(t, "c")))
	if _, err := b.Layers.Info(images["one"].DiffIDs()[0], "tree"); err != nil {
		t.Error(err)
	}
	b.wantDestroyed(t, "c", true) // which goes by the tree
	if n := b.sweep(t); n != 1 {
		t.Errorf("then a sweep took %d layers", n)
	}
}

// A power cut may leave a record that is no JSON: its launch was interrupted.
func TestTornRecord(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "torn": `{"version": 1, "rootfses": {"x": {"backe`, "zeros": "\x00\x00\x00\x00", "without root filesystems": `{"version": 1, "rootfses": null}`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "fake")
			write(t, b.Paths.Layers(id(t, "c")), content)
			if uses, err := b.Uses(); err != nil || len(uses) != 0 {
				t.Errorf("uses are %v, %v", uses, err)
			}
			rootfs := b.provision(t, "c", "one")
			if rec := b.record(t, "c"); len(rec) != 1 || rec[filepath.Base(rootfs.Path)] == nil {
				t.Errorf("recorded are %v", rec)
			}
			write(t, b.Paths.Layers(id(t, "c")), content)
			if err := b.recoverAll(t); err != nil {
				t.Error(err)
			}
			b.wantContainers(t)
		})
	}
}

// What is JSON and yet no record was not torn by a power cut: nobody knows what it is.
func TestRecordThatIsNone(t *testing.T) {
	b := newBench(t, "fake")
	write(t, b.Paths.Layers(id(t, "c")), `{"version": 1, "rootfses": "none"}`)
	_, err := b.Sweep(t.Context())
	wantError(t, err, nil, "record of the layers of c", "rootfses")
}

// What a container writes is found after a restart, too: a scheduler needs it.
func TestEphemeralVolumesAreRecorded(t *testing.T) {
	for backendName, want := range map[string]int{"overlay": 2, "copy": 1, "bind": 0} {
		t.Run(backendName, func(t *testing.T) {
			b := newBench(t, backendName)
			made := []*provisioner.Rootfs{b.provision(t, "c", "one"), b.provision(t, "c", "one"), b.provision(t, "c.child", "one")}
			uses, err := b.open(t, filepath.Dir(filepath.Dir(b.Paths.Root())), "copy").Uses()
			if err != nil || len(uses) != len(made) {
				t.Fatalf("uses are %+v, %v", uses, err)
			}
			for _, rootfs := range made {
				at := slices.IndexFunc(uses, func(u provisioner.Use) bool { return u.Rootfs == rootfs.Path })
				if at < 0 {
					t.Fatalf("%s is not among %+v", rootfs.Path, uses)
				}
				if got := uses[at].Ephemeral; !slices.Equal(got, rootfs.Ephemeral) || len(got) != want {
					t.Errorf("recorded are %q, returned were %q", got, rootfs.Ephemeral)
				}
				for _, dir := range uses[at].Ephemeral {
					if _, err := os.Stat(dir); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// Whatever step of a provision fails, nothing of it stays after the Destroy that is owed,
// and the next one finds all that it needs.
func TestProvisionAfterAFaultAtAnyStep(t *testing.T) {
	b := newBench(t, "overlay")
	b.provision(t, "other", "two")
	for reached, n := true, 1; reached && !t.Failed(); n++ {
		var steps atomic.Int64
		restore := disk.Intercept(func(disk.Step) error {
			if steps.Add(1) == int64(n) {
				return syscall.EIO
			}
			return nil
		})
		_, err := b.Provision(t.Context(), id(t, "c"), b.Image("two"))
		reached = steps.Load() >= int64(n)
		restore()
		if err != nil && !errors.Is(err, syscall.EIO) {
			t.Errorf("the fault at step %d: %v", n, err)
		}
		if _, err := b.Destroy(t.Context(), id(t, "c")); err != nil {
			t.Errorf("after the fault at step %d: %v", n, err)
		}
		b.wantContainers(t, "other")
		wantFile(t, b.provision(t, "c", "two").Path, "two")
		b.wantDestroyed(t, "c", true)
	}
}
