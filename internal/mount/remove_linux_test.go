package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/mount/mounttest"
)

func TestRemoveAll(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string) error
		want bool // there was something
	}{
		{"nothing", func(*testing.T, string) error { return nil }, false},
		{"a file", func(_ *testing.T, path string) error { return os.WriteFile(path, nil, 0) }, true},
		{"a link to a directory", func(_ *testing.T, path string) error { return os.Symlink("../outside", path) }, true},
		{"a FIFO", func(_ *testing.T, path string) error { return unix.Mkfifo(path, 0o600) }, true},
		{"a closed directory", func(_ *testing.T, path string) error { return os.MkdirAll(path+"/a/b", 0) }, true},
		{"a tree with links out of it", func(_ *testing.T, path string) error {
			return errors.Join(os.MkdirAll(path+"/a", 0o755), os.Symlink("../../outside", path+"/a/l"), os.Symlink("a", path+"/l"))
		}, true},
		{"a large directory", func(_ *testing.T, path string) error {
			err := os.Mkdir(path, 0o755)
			for i := range 5000 {
				err = errors.Join(err, os.WriteFile(fmt.Sprintf("%s/%0200d", path, i), nil, 0o600))
			}
			return err
		}, true},
		{"a deep tree with something at each level", func(_ *testing.T, path string) error { return makeDeep(path, 1000) }, true},
		{"a mount point", func(t *testing.T, path string) error {
			return errors.Join(os.MkdirAll(path+"/a", 0o755), bindOutside(path), bindOutside(path))
		}, true},
		{"a tree with mounts in it", func(t *testing.T, path string) error {
			return errors.Join(os.MkdirAll(path+"/a/b", 0o755), bindOutside(path+"/a"), bindOutside(path+"/a"), os.MkdirAll(path+"/b/c", 0o755), bindOutside(path+"/b/c"))
		}, true},
		{"a file that another is mounted on", func(t *testing.T, path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), unix.Mount(filepath.Dir(path)+"/../outside/file", path, "", unix.MS_BIND, ""))
		}, true},
		{"an immutable file", func(_ *testing.T, path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), setFlag(path, unix.STATX_ATTR_IMMUTABLE))
		}, true},
		{"append-only directories", func(_ *testing.T, path string) error {
			return errors.Join(os.MkdirAll(path+"/a/b", 0o700), setFlag(path+"/a/b", unix.STATX_ATTR_APPEND), setFlag(path+"/a", unix.STATX_ATTR_APPEND), setFlag(path, unix.STATX_ATTR_APPEND))
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			mounttest.RequireRoot(t)
			dir := mounttest.Dir(t)
			mkdirs(t, dir+"/in", dir+"/outside/dir")
			if err := os.WriteFile(dir+"/outside/file", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			path := dir + "/in/path"
			if err := c.make(t, path); err != nil {
				t.Fatal(err)
			}
			if existed, err := RemoveAll(path); existed != c.want || err != nil {
				t.Errorf("RemoveAll returned %v, %v, want %v", existed, err, c.want)
			}
			if left, err := filepath.Glob(dir + "/in/*"); left != nil || err != nil {
				t.Errorf("%q is left, %v", left, err)
			}
			if outside, err := filepath.Glob(dir + "/outside/*"); len(outside) != 2 || err != nil {
				t.Errorf("outside is %q, %v", outside, err)
			}
			if points, err := mounttest.Points(dir); len(points) > 0 || err != nil {
				t.Errorf("%q is mounted, %v", points, err)
			}
			if existed, err := RemoveAll(path); existed || err != nil {
				t.Errorf("the second RemoveAll returned %v, %v", existed, err)
			}
		})
	}
}

// bindOutside mounts a directory that must keep what it has.
func bindOutside(target string) error {
	root, _, _ := strings.Cut(target, "/in/")
	return unix.Mount(root+"/outside", target, "", unix.MS_BIND, "")
}

// setFlag sets the flag of chattr(1); its numbers are those of statx(2).
func setFlag(path string, flag uint32) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|flag))
}

func makeDeep(path string, levels int) error {
	dir, err := unix.Open(filepath.Dir(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	name := filepath.Base(path)
	for range levels {
		if err != nil {
			return err
		}
		var next int
		err = unix.Mkdirat(dir, name, 0o755)
		if err == nil {
			next, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		if err == nil {
			err = errors.Join(unix.Symlinkat("x", next, "link"), unix.Mkdirat(next, "empty", 0o755))
		}
		unix.Close(dir)
		dir, name = next, "directory"
	}
	return errors.Join(err, unix.Close(dir))
}

func TestRemoveAllSaysWhatItCannotRemove(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := mounttest.Dir(t)
	mkdirs(t, dir+"/in")
	mounttest.Mount(t, "tmpfs", dir+"/in", "")
	mkdirs(t, dir+"/in/path/a")
	if err := unix.Mount("", dir+"/in", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	existed, err := RemoveAll(dir + "/in/path")
	if !existed || !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), dir+"/in/path") {
		t.Errorf("RemoveAll returned %v, %v", existed, err)
	}
	if err := unix.Mount("", dir+"/in", "", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	if existed, err := RemoveAll(dir + "/in/path"); !existed || err != nil {
		t.Errorf("after the mending RemoveAll returned %v, %v", existed, err)
	}
}
