package copy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/mount/mounttest"
	"berth/provisioner/backend"
	"berth/provisioner/backend/backendtest"
)

// On a file system with reflinks a root filesystem takes no space of its own for the
// contents of files.
func TestBlocksAreShared(t *testing.T) {
	const size = 32 << 20
	content := make([]byte, size)
	rand.Read(content)
	for fstype, shared := range map[string]bool{"xfs": true, "btrfs": true, "ext4": false} {
		t.Run(fstype, func(t *testing.T) {
			dir := mounttest.FileSystem(t, fstype)
			layer := backendtest.Tree{backendtest.File("large", string(content))}.Write(t, filepath.Join(dir, "layer"))
			before := freeSpace(t, dir)
			if err := New().Provision(t.Context(), []backend.Layer{layer}, filepath.Join(dir, "rootfs"), dir); err != nil {
				t.Fatal(err)
			}
			if taken := before - freeSpace(t, dir); shared != (taken < size/4) {
				t.Errorf("the root filesystem takes %d bytes, the file has %d", taken, size)
			}
		})
	}
}

func freeSpace(t *testing.T, dir string) int64 {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	if err := errors.Join(unix.Syncfs(fd), unix.Fstatfs(fd, &st)); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bfree) * st.Bsize
}

var errStop = errors.New("stop")

func TestALongCopyIsInterrupted(t *testing.T) {
	dir := mounttest.FileSystem(t, "ext4")
	const files, untilStop = 2000, 100
	tree := backendtest.Tree{}
	for i := range files {
		tree = append(tree, backendtest.File(fmt.Sprint(i), "content"))
	}
	layer := tree.Write(t, filepath.Join(dir, "layer"))
	rootfs := filepath.Join(dir, "rootfs")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var dated atomic.Int32
	restore := disk.Intercept(func(step disk.Step) error {
		if step.Op == "utimensat" && dated.Add(1) == untilStop {
			cancel(errStop)
		}
		return nil
	})
	defer restore()
	err := New().Provision(ctx, []backend.Layer{layer}, rootfs, dir)
	if !errors.Is(err, errStop) {
		t.Errorf("the error is %v", err)
	}
	if n := dated.Load(); n > files/2 {
		t.Errorf("%d files were copied, it was to stop after %d", n, untilStop)
	}
	if existed, err := New().Destroy(t.Context(), rootfs, dir); !existed || err != nil {
		t.Errorf("Destroy returned %v, %v", existed, err)
	}
}

// A single file can be long, too.
func TestALongFileIsInterrupted(t *testing.T) {
	from, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errStop)
	f := file{from: int(from.Fd()), to: int(to.Fd())}
	if err := f.copyRange(ctx, 0, 1<<40, make([]byte, 4096)); !errors.Is(err, errStop) {
		t.Errorf("the error is %v", err)
	}
}

// A disk that is full, or a layer that is damaged, ends all that was begun.
func TestAFailureEndsTheCopy(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := mounttest.Dir(t)
	mounttest.Mount(t, "tmpfs", dir, "size=40m")
	tree := backendtest.Tree{}
	for i := range 30 {
		tree = append(tree, backendtest.File(fmt.Sprint(i), string(make([]byte, 1<<20))))
	}
	layer := tree.Write(t, filepath.Join(dir, "layer"))
	rootfs := filepath.Join(dir, "rootfs")
	if err := New().Provision(t.Context(), []backend.Layer{layer}, rootfs, dir); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("the error is %v", err)
	}
	if existed, err := New().Destroy(t.Context(), rootfs, dir); !existed || err != nil {
		t.Errorf("Destroy returned %v, %v", existed, err)
	}
}
