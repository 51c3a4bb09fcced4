package provisioner_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/internal/mount/mounttest"
	"berth/internal/testrig"
	"berth/provisioner"
)

func TestRecover(t *testing.T) {
	for _, c := range []struct {
		name                string
		there, known, stays []string
	}{
		{"nothing", nil, nil, nil},
		{"all are known", []string{"a", "b"}, []string{"a", "b"}, []string{"a", "b"}},
		{"none is known", []string{"a", "b", "b.c"}, nil, nil},
		{"some are known", []string{"a", "b", "c"}, []string{"b", "elsewhere"}, []string{"b"}},
		{"a child is not known", []string{"a", "a.b", "a.c", "a.b.d"}, []string{"a", "a.c"}, []string{"a", "a.c"}},
		{"only a grandchild is known", []string{"a", "a.b", "a.b.c", "a.d"}, []string{"a.b.c"}, []string{"a", "a.b", "a.b.c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "overlay")
			for _, at := range c.there {
				b.provision(t, at, "two")
			}
			for range 2 {
				if err := b.recoverAll(t, c.known...); err != nil {
					t.Error(err)
				}
				b.wantContainers(t, c.stays...)
			}
			uses, err := b.Uses()
			if err != nil || len(uses) != len(c.stays) {
				t.Errorf("%d root filesystems are left (%v), want %d", len(uses), err, len(c.stays))
			}
			for _, use := range uses {
				dir := filepath.Join(b.Paths.BackendDir(use.Container, "overlay"), "rootfses")
				rootfses, err := os.ReadDir(dir)
				if err != nil || len(rootfses) != 1 {
					t.Fatalf("%s has %v (%v)", dir, rootfses, err)
				}
				wantFile(t, filepath.Join(dir, rootfses[0].Name()), "two")
			}
		})
	}
}

// A container that is admitted while Recover works is known when it is asked about.
func TestRecoverAsksAfterItHasListed(t *testing.T) {
	b := newBench(t, "fake")
	b.provision(t, "old", "one")
	err := b.Recover(t.Context(), func(asked container.ID) bool {
		if asked == id(t, "old") {
			b.provision(t, "new", "one")
		}
		return asked == id(t, "new")
	})
	if err != nil {
		t.Error(err)
	}
	b.wantContainers(t, "new")
}

func TestRecoverLeavesUnknownFilesAlone(t *testing.T) {
	b := newBench(t, "overlay")
	b.provision(t, "a", "one")
	b.provision(t, "known", "one")
	alone := []string{
		filepath.Join(b.Paths.Root(), "README"),
		filepath.Join(b.Paths.Containers(), "notes"),
		filepath.Join(b.Paths.Containers(), "not an id", "file"),
		filepath.Join(b.Paths.Container(id(t, "known")), "file"),
		filepath.Join(b.Paths.Container(id(t, "known")), "containers", "file"),
	}
	// Those in the directory of a container go with it.
	for _, path := range append([]string{
		filepath.Join(b.Paths.Backends(id(t, "a")), "file"),
		filepath.Join(b.Paths.BackendDir(id(t, "a"), "overlay"), "file"),
		filepath.Join(b.Paths.BackendDir(id(t, "a"), "overlay"), "rootfses", "file"),
		filepath.Join(b.Paths.Container(id(t, "a")), "containers", "file"),
	}, alone...) {
		write(t, path, "not ours")
	}
	if err := b.recoverAll(t, "known"); err != nil {
		t.Error(err)
	}
	b.wantContainers(t, "known")
	b.wantLogged(t, "left alone", alone[0], alone[1], filepath.Dir(alone[2]), alone[3], alone[4])
	for _, path := range alone {
		if content, err := os.ReadFile(path); err != nil || string(content) != "not ours" {
			t.Errorf("%s: %q, %v", path, content, err)
		}
	}
}

func TestRecoverWithAnUnknownBackend(t *testing.T) {
	b := newBench(t, "fake")
	for _, at := range []string{"a", "b", "c"} {
		b.provision(t, at, "one")
	}
	foreign := filepath.Join(b.Paths.BackendDir(id(t, "b"), "aufs"), "rootfses", "x")
	write(t, filepath.Join(foreign, "file"), "mounted, for all we know")
	if err := b.recoverAll(t); err != nil {
		t.Errorf("this stops the start: %v", err)
	}
	b.wantLogged(t, "not recovered", "container=b ", "destroy the root filesystems of b: ", b.Paths.BackendDir(id(t, "b"), "aufs"), "backend", "not supported on this host")
	b.wantCount(t, provisioner.RecoverErrors, 1)
	b.wantContainers(t, "b")
	if len(b.record(t, "b")) != 1 {
		t.Error("the record of what is left has gone")
	}
	if _, err := os.Stat(filepath.Join(foreign, "file")); err != nil {
		t.Error(err)
	}
	got := b.destroyedContainers(t)
	slices.Sort(got)
	if !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("destroyed %q", got)
	}
	// A new container of that name must not be mixed with it.
	_, err := b.Provision(t.Context(), id(t, "b"), b.Image("one"))
	wantError(t, err, container.ErrFailedPrecondition, "provision b: ", "what is left of an earlier container b cannot be removed", `backend "aufs"`)
	b.provision(t, "d", "one")
	if err := os.RemoveAll(b.Paths.BackendDir(id(t, "b"), "aufs")); err != nil {
		t.Fatal(err)
	}
	b.provision(t, "b", "one")
	if len(b.record(t, "b")) != 1 {
		t.Errorf("the record is %v", b.record(t, "b"))
	}
}

// Whatever a kill has left of a container goes: without a record, without a backend,
// with scratch only, with a record that was not renamed yet.
func TestRecoverOfHalfMadeContainers(t *testing.T) {
	b := newBench(t, "overlay")
	write(t, filepath.Join(b.Paths.Container(id(t, "torn")), ".layers.123"), `{"ver`)
	for _, dir := range []string{
		b.Paths.Container(id(t, "empty")),
		b.Paths.Backends(id(t, "backendless")),
		b.Paths.BackendDir(id(t, "rootless"), "overlay"),
		filepath.Join(b.Paths.BackendDir(id(t, "scratch"), "overlay"), "scratch", "x", "upper"),
		filepath.Join(b.Paths.BackendDir(id(t, "unmounted"), "overlay"), "rootfses", "x"),
	} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.recoverAll(t); err != nil {
		t.Error(err)
	}
	b.wantContainers(t)
	if left, err := os.ReadDir(b.Paths.Containers()); err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestBackendsAreAskedToDestroyWhatHasOnlyScratch(t *testing.T) {
	b := newBench(t, "fake")
	if err := os.MkdirAll(filepath.Join(b.Paths.BackendDir(id(t, "c"), "fake"), "scratch", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.wantDestroyed(t, "c", true)
	if got := b.destroyedContainers(t); !slices.Equal(got, []string{"c"}) {
		t.Errorf("destroyed %q", got)
	}
}

func TestRecoverTakesUpTheLayerStore(t *testing.T) {
	b := newBench(t, "fake")
	lease := rand.Text()
	dead := filepath.Join(b.Layers.Dir(), "staging", lease)
	write(t, filepath.Join(dead, "1", "fs", "file"), "x")
	write(t, filepath.Join(b.Layers.Dir(), "leases", lease), string(image.DigestOf(nil)))
	if err := b.recoverAll(t); err != nil {
		t.Error(err)
	}
	wantNoFile(t, dead)
}

// After a reboot nothing is mounted any more, and nobody knows a container.
func TestRecoverAfterAReboot(t *testing.T) {
	for _, backendName := range []string{"overlay", "copy", "bind"} {
		t.Run(backendName, func(t *testing.T) {
			b := newBench(t, backendName)
			for _, at := range []string{"a", "a.b", "c"} {
				b.provision(t, at, "one")
				b.provision(t, at, "one")
			}
			if err := mounttest.DetachBelow(b.Paths.Root()); err != nil {
				t.Fatal(err)
			}
			if err := b.recoverAll(t); err != nil {
				t.Error(err)
			}
			b.wantContainers(t)
			b.wantLogged(t)
			b.wantCount(t, provisioner.RecoverErrors, 0)
			b.provision(t, "a", "one")
		})
	}
}

// What cannot be listed may hold what a known container uses: it is left alone, and the
// others are recovered.
func TestRecoverWhereADirectoryCannotBeRead(t *testing.T) {
	b := newBench(t, "copy")
	for _, at := range []string{"a", "b", "b.known", "c"} {
		b.provision(t, at, "one")
	}
	broken := filepath.Join(b.Paths.Container(id(t, "b")), "containers")
	var once atomic.Bool
	restore := disk.Intercept(func(s disk.Step) error {
		if s.Op == "list" && s.Path == broken && once.CompareAndSwap(false, true) {
			return syscall.EIO
		}
		return nil
	})
	err := b.recoverAll(t, "b.known")
	restore()
	if err != nil {
		t.Error(err)
	}
	b.wantContainers(t, "b", "b.known")
	b.wantLogged(t, "not recovered", "container=b ", "input/output error")

	restore = disk.Intercept(func(s disk.Step) error {
		if s.Op == "list" && s.Path == b.Paths.Containers() {
			return syscall.EIO
		}
		return nil
	})
	err = b.recoverAll(t, "b.known")
	restore()
	wantError(t, err, syscall.EIO, "recover provisioner: ")
	b.wantContainers(t, "b", "b.known")
}

func TestRecoverThatIsCancelled(t *testing.T) {
	b := newBench(t, "fake")
	b.provision(t, "a", "one")
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := b.Recover(ctx, func(container.ID) bool { cancel(enough); return false })
	wantError(t, err, enough, "recover provisioner: ")
	b.wantCount(t, provisioner.RecoverErrors, 0)
	if err := b.recoverAll(t); err != nil {
		t.Error(err)
	}
	b.wantContainers(t)
}

func TestRecoverRemovesWhatAKilledProbeHasLeft(t *testing.T) {
	b := newBench(t, "overlay")
	dead := filepath.Join(b.Paths.Root(), ".probe-dead")
	write(t, filepath.Join(dead, "rootfses", "probe", "file"), "x")
	if err := b.recoverAll(t); err != nil {
		t.Error(err)
	}
	wantNoFile(t, dead)
	b.wantLogged(t)
}

// Those that stay are looked at, and nothing is done to them.
func TestRecoverOfManyContainers(t *testing.T) {
	b := newBench(t, "overlay")
	var known []string
	for n := range 40 {
		at := fmt.Sprintf("c%d", n)
		b.provision(t, at, "two")
		if n%2 == 0 {
			known = append(known, at)
		}
	}
	if err := b.recoverAll(t, known...); err != nil {
		t.Error(err)
	}
	b.wantContainers(t, known...)
	for _, at := range known {
		for rootfs := range maps.Keys(b.record(t, at)) {
			wantFile(t, filepath.Join(b.Paths.BackendDir(id(t, at), "overlay"), "rootfses", rootfs), "two")
		}
	}
}

// Of children that go at the same time, the last one takes their empty parent with it.
func TestRecoverOfAFamily(t *testing.T) {
	b := newBench(t, "copy")
	for n := range 10 {
		b.provision(t, fmt.Sprintf("p.c%d", n), "one")
	}
	if err := b.recoverAll(t, "p"); err != nil {
		t.Error(err)
	}
	b.wantContainers(t)
}

// BenchmarkRecover is of 1000 containers, which all stay, or which all go: a kill has left
// them with their mounts.
func BenchmarkRecover(b *testing.B) {
	const containers = 1000
	for _, stay := range []bool{true, false} {
		b.Run(fmt.Sprintf("stay=%v", stay), func(b *testing.B) {
			bench := newBenchIn(b, testrig.LoopFS(b, "ext4", 1024), "overlay")
			known := func(container.ID) bool { return stay }
			defer func() {
				if err := bench.recoverAll(b); err != nil {
					b.Error(err)
				}
			}()
			for b.Loop() {
				b.StopTimer()
				for n := range containers {
					at := fmt.Sprintf("c%d", n)
					if _, err := os.Stat(bench.Paths.Container(id(b, at))); err != nil {
						rootfs := bench.provision(b, at, "two")
						if err := os.WriteFile(filepath.Join(rootfs.Path, "written"), []byte(at), 0o600); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.StartTimer()
				if err := bench.Recover(b.Context(), known); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
