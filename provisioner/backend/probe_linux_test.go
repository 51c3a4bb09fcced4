package backend_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/disk"
	"berth/internal/mount/mounttest"
	"berth/provisioner/backend"
	"berth/provisioner/backend/bind"
	"berth/provisioner/backend/copy"
	"berth/provisioner/backend/erofs"
	"berth/provisioner/backend/overlay"
)

// clean checks that no Probe has left anything in the directories.
func clean(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		left, err := filepath.Glob(filepath.Join(dir, ".probe-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("the probe has left %q, %v", left, err)
		}
		points, err := mounttest.Points(dir)
		for _, p := range points {
			if strings.Contains(p, ".probe-") {
				t.Errorf("the probe has left a mount at %s", p)
			}
		}
		if err != nil {
			t.Error(err)
		}
	}
}

func mkdir(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// tmpfs mounts one with the directories root and layers.
func tmpfs(t *testing.T, options string) (dir string) {
	t.Helper()
	mounttest.RequireRoot(t)
	dir = mounttest.Dir(t)
	mounttest.Mount(t, "tmpfs", dir, options)
	mkdir(t, dir+"/root", dir+"/layers")
	return dir
}

func TestProbe(t *testing.T) {
	ext4 := mounttest.FileSystem(t, "ext4")
	untyped := mounttest.FileSystem(t, "ext4", "-O", "^filetype")
	memory := tmpfs(t, "")
	full := mounttest.FileSystem(t, "ext4", "-N", "100")
	fill(t, full)
	readOnly := tmpfs(t, "")
	if err := unix.Mount("", readOnly, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	nested := filepath.Join(ext4, "nested")
	mkdir(t, nested+"/lower", nested+"/upper", nested+"/work", nested+"/merged")
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", nested)
	if err := unix.Mount("overlay", nested+"/merged", "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	notSupported := func(err error) bool { return errors.Is(err, container.ErrNotSupported) }
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	for _, c := range []struct {
		on           string
		backend      backend.Backend
		root, layers string
		fails        func(error) bool
		says         string
	}{
		{"overlay on ext4", overlay.New(), ext4, ext4, nil, ""},
		{"copy on ext4", copy.New(), ext4, ext4, nil, ""},
		{"bind on ext4", bind.New(nil), ext4, ext4, nil, ""},
		{"erofs on ext4", erofs.New(ext4 + "/mounts"), ext4, ext4, nil, ""},
		{"erofs, layers on tmpfs", erofs.New(ext4 + "/mounts"), ext4, memory, nil, ""},
		{"erofs, layers without entry types", erofs.New(ext4 + "/mounts"), ext4, untyped, nil, ""},
		{"erofs on an overlay", erofs.New(ext4 + "/mounts"), nested + "/merged", ext4, is(unix.EINVAL), "fit to hold an overlay's upper directory"},
		{"erofs of layers on an overlay", erofs.New(ext4 + "/mounts"), ext4, nested + "/merged", nil, ""},
		{"overlay on tmpfs", overlay.New(), memory, memory, nil, ""},
		{"overlay on tmpfs, layers on ext4", overlay.New(), memory, ext4, nil, ""},
		{"copy on an overlay", copy.New(), nested + "/merged", nested + "/merged", nil, ""},
		{"overlay where root filesystems have no entry types", overlay.New(), untyped, ext4, notSupported, "d_type"},
		{"overlay where layers have no entry types", overlay.New(), ext4, untyped, notSupported, "d_type"},
		{"copy without entry types", copy.New(), untyped, untyped, nil, ""},
		{"overlay of layers on an overlay", overlay.New(), ext4, nested + "/merged", nil, ""},
		{"overlay on an overlay", overlay.New(), nested + "/merged", ext4, is(unix.EINVAL), "fit to hold an overlay's upper directory"},
		{"overlay, read-only", overlay.New(), readOnly + "/root", ext4, is(unix.EROFS), "read-only file system"},
		{"copy, read-only", copy.New(), readOnly + "/root", ext4, is(unix.EROFS), "read-only file system"},
		{"layers read-only", overlay.New(), ext4, readOnly + "/layers", is(unix.EROFS), "write layers in " + readOnly + "/layers"},
		{"overlay on a full disk", overlay.New(), full, ext4, is(unix.ENOSPC), "no space left on device"},
		{"copy on a full disk", copy.New(), full, ext4, is(unix.ENOSPC), "no space left on device"},
		{"layers on a full disk", copy.New(), ext4, full, is(unix.ENOSPC), "write layers in " + full},
		{"nowhere", copy.New(), ext4 + "/missing", ext4, is(os.ErrNotExist), "missing"},
	} {
		t.Run(c.on, func(t *testing.T) {
			err := backend.Probe(t.Context(), c.backend, c.root, c.layers)
			switch {
			case c.fails == nil && err != nil:
				t.Error(err)
			case c.fails != nil && (err == nil || !c.fails(err) || !strings.Contains(err.Error(), c.says)):
				t.Errorf("the error is %v, and should say %q", err, c.says)
			}
			clean(t, c.root, c.layers)
		})
	}
}

// fill leaves a file system no inode.
func fill(t *testing.T, dir string) {
	t.Helper()
	var err error
	for n := 0; err == nil; n++ {
		if n%1000 == 0 {
			err = os.MkdirAll(fmt.Sprintf("%s/%d", dir, n/1000), 0o700)
		}
		if err == nil {
			err = unix.Mknod(fmt.Sprintf("%s/%d/%d", dir, n/1000, n), unix.S_IFREG|0o600, 0)
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// Whichever step fails, or is the last before the process is killed, nothing is left once
// RecoverProbes was called.
func TestAProbeThatFailsOrIsKilledLeavesNothing(t *testing.T) {
	dir := mounttest.FileSystem(t, "ext4")
	root, layers := dir+"/root", dir+"/layers"
	mkdir(t, root, layers)
	for _, b := range []backend.Backend{overlay.New(), copy.New(), bind.New(nil), erofs.New(dir + "/mounts")} {
		for _, killed := range []bool{false, true} {
			for n := 1; ; n++ {
				var steps atomic.Int32
				restore := disk.Intercept(func(disk.Step) error {
					if step := int(steps.Add(1)); step == n || killed && step > n {
						return unix.EIO
					}
					return nil
				})
				err := backend.Probe(t.Context(), b, root, layers)
				restore()
				if int(steps.Load()) < n {
					if err != nil {
						t.Errorf("%T: without a fault: %v", b, err)
					}
					break
				}
				if err != nil && !errors.Is(err, unix.EIO) {
					t.Errorf("%T: when step %d failed, the error was %v", b, n, err)
				}
				if err := backend.RecoverProbes(root, layers); err != nil {
					t.Errorf("%T: after step %d: %v", b, n, err)
				}
				clean(t, root, layers)
			}
		}
	}
}

func TestProbesDoNotDisturbOneAnother(t *testing.T) {
	dir := mounttest.FileSystem(t, "ext4")
	var all sync.WaitGroup
	for n := range 16 {
		b := []backend.Backend{overlay.New(), copy.New()}[n%2]
		all.Go(func() {
			if err := errors.Join(backend.Probe(t.Context(), b, dir, dir), backend.RecoverProbes(dir)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	clean(t, dir)
}
