package backendtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"berth/internal/mount/mounttest"
	"berth/provisioner/backend"
)

// destroying: Destroy always works.
var destroying = []check{
	{"Destroy returns true, then false", nil, func(t *testing.T, s *suite) {
		p := s.place(t)
		rootfs := p.provision(p.layers(someTree)...)
		p.destroy(rootfs, true)
		p.nothingLeft()
		p.destroy(rootfs, false)
		p.destroy(rootfs, false)
	}},
	{"Destroy of what never was returns false", nil, func(t *testing.T, s *suite) {
		p := s.place(t)
		p.destroy(p.rootfs("rootfs"), false)
		if err := os.Remove(p.backendDir()); err != nil {
			t.Fatal(err)
		}
		p.destroy(p.rootfs("rootfs"), false)
		if err := os.Mkdir(p.backendDir(), 0o700); err != nil {
			t.Fatal(err)
		}
	}},
	{"a root filesystem can be made again after Destroy", nil, func(t *testing.T, s *suite) {
		p := s.place(t)
		layers := p.layers(someTree)
		for range 3 {
			rootfs := p.provision(layers...)
			p.shows(rootfs, stacked(someTree))
			if s.Writable {
				if err := removeAll(rootfs, "."); err != nil {
					t.Error(err)
				}
			}
			p.destroy(rootfs, true)
		}
	}},
	{"Destroy leaves the other root filesystems alone", nil, func(t *testing.T, s *suite) {
		p := s.place(t)
		layers := p.layers(someTree)
		first, _ := p.provisionAs("1", layers...)
		second, _ := p.provisionAs("2", layers...)
		p.destroy(first, true)
		p.shows(second, stacked(someTree))
	}},
	{"Destroy leaves the layers alone", nil, func(t *testing.T, s *suite) {
		p := s.place(t)
		layers := p.layers(someTree)
		unchanged := p.unchanged()
		p.destroy(p.provision(layers...), true)
		unchanged()
	}},
	{"open files do not stop Destroy, and stay readable", nil, checkOpenFiles},
	{"a process that works in the root filesystem does not stop Destroy", nil, checkWorkingProcess},
	{"what is mounted in the root filesystem is detached, not emptied", nil, checkMountsInside},
	{"what is mounted on the root filesystem is detached, not emptied", nil, checkMountsOnTop},
	{"immutable and append-only files do not stop Destroy", writable, checkImmutable},
	{"a deep tree does not stop Destroy", writable, checkDeepLeftovers},
	{"Destroy removes what a reboot has left", nil, checkReboot},
	{"Destroy removes what is left when only its end was missing", nil, checkHalfDestroyed},
	{"Destroy works after a Provision that found no layer", nil, checkMissingLayer},
	{"Destroy works after a Provision that found something in its place", nil, checkOccupied},
}

var someTree = Tree{Dir("d"), File("d/file", "content"), File("file", "content"), symlink("link", "d"), Dir("mnt"), File("mnt2", "")}

func checkOpenFiles(t *testing.T, s *suite) {
	p := s.place(t)
	rootfs := p.provision(p.layers(someTree)...)
	f, err := os.Open(rootfs + "/d/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir, err := os.Open(rootfs + "/d")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var unlinked *os.File
	if s.Writable {
		if unlinked, err = os.OpenFile(rootfs+"/new", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
			t.Fatal(err)
		}
		defer unlinked.Close()
		if err := os.Remove(rootfs + "/new"); err != nil {
			t.Fatal(err)
		}
	}
	p.destroy(rootfs, true)
	p.nothingLeft()
	content := make([]byte, 100)
	if n, _ := f.ReadAt(content, 0); string(content[:n]) != "content" {
		t.Errorf("the open file has %q", content[:n])
	}
	if s.Writable {
		if _, err := unlinked.WriteString("still here"); err != nil {
			t.Error(err)
		}
	}
	p.destroy(rootfs, false)
}

func checkWorkingProcess(t *testing.T, s *suite) {
	p := s.place(t)
	rootfs := p.provision(p.layers(someTree)...)
	process := exec.Command("sleep", "1000")
	process.Dir = rootfs + "/d"
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	defer process.Wait()
	defer process.Process.Kill()
	p.destroy(rootfs, true)
	p.nothingLeft()
	p.destroy(rootfs, false)
}

// checkMountsInside: a host's directory that is mounted in the root filesystem must
// never be taken for a part of it.
func checkMountsInside(t *testing.T, s *suite) {
	p := s.place(t)
	canary := filepath.Join(p.dir, "canary")
	tree := Tree{Dir("sub"), File("file", "canary"), File("sub/file", "canary")}
	tree.Write(t, canary)
	rootfs := p.provision(p.layers(someTree)...)
	mounttest.Mount(t, "tmpfs", rootfs+"/d", "")
	for _, target := range []string{"/d", "/mnt", "/mnt"} {
		bind(t, canary, rootfs+target)
	}
	mounttest.Mount(t, "tmpfs", rootfs+"/mnt/sub", "")
	bind(t, canary+"/file", rootfs+"/mnt2")
	bind(t, canary+"/file", rootfs+"/mnt2")
	p.destroy(rootfs, true)
	p.nothingLeft()
	p.destroy(rootfs, false)
	if diff := cmp.Diff(stacked(tree), read(t, canary)); diff != "" {
		t.Errorf("what was mounted has changed (-want +got):\n%s", diff)
	}
}

func checkMountsOnTop(t *testing.T, s *suite) {
	p := s.place(t)
	canary := filepath.Join(p.dir, "canary")
	tree := Tree{Dir("sub"), File("file", "canary")}
	tree.Write(t, canary)
	rootfs := p.provision(p.layers(someTree)...)
	bind(t, rootfs, rootfs)
	bind(t, canary, rootfs)
	mounttest.Mount(t, "tmpfs", rootfs+"/sub", "")
	p.destroy(rootfs, true)
	p.nothingLeft()
	p.destroy(rootfs, false)
	if diff := cmp.Diff(stacked(tree), read(t, canary)); diff != "" {
		t.Errorf("what was mounted has changed (-want +got):\n%s", diff)
	}
}

func bind(t *testing.T, from, to string) {
	t.Helper()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("bind %s to %s: %v", from, to, err)
	}
}

func checkImmutable(t *testing.T, s *suite) {
	p := s.place(t)
	rootfs := p.provision(p.layers(someTree)...)
	if err := errors.Join(os.Mkdir(rootfs+"/new", 0o755), os.Mkdir(rootfs+"/new/dir", 0o755), os.WriteFile(rootfs+"/new/dir/file", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		flag int
	}{{"/d/file", immutableFlag}, {"/file", appendOnlyFlag}, {"/new/dir/file", immutableFlag}, {"/new/dir", immutableFlag}, {"/new", appendOnlyFlag}} {
		if err := setFlag(rootfs+c.path, c.flag); err != nil {
			t.Fatal(err)
		}
	}
	p.destroy(rootfs, true)
	p.nothingLeft()
}

// Flags of ioctl_iflags(2).
const immutableFlag, appendOnlyFlag = 0x10, 0x20

func setFlag(path string, flag int) error {
	err := setFlagOf(path, unix.O_RDONLY, flag)
	if errors.Is(err, unix.ENOTTY) { // as long as it lies in a layer whose file system has no flags
		err = setFlagOf(path, unix.O_RDWR, flag)
	}
	return err
}

func setFlagOf(path string, open, flag int) error {
	fd, err := unix.Open(path, open|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags)|flag)
	}
	if err != nil {
		return fmt.Errorf("set a flag of %s: %w", path, err)
	}
	return nil
}

// checkDeepLeftovers: a container may make a tree that is deeper than any limit on
// paths and open files.
func checkDeepLeftovers(t *testing.T, s *suite) {
	p := s.place(t)
	rootfs := p.provision(p.layers(someTree)...)
	dir, err := unix.Open(rootfs, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range 5000 {
		if err == nil {
			err = unix.Mkdirat(dir, "a directory", 0o755)
		}
		if err == nil {
			var next int
			next, err = unix.Openat(dir, "a directory", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			unix.Close(dir)
			dir = next
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(dir)
	p.destroy(rootfs, true)
	p.nothingLeft()
}

// unmountAll is what a reboot does to the place.
func (p *place) unmountAll() {
	p.t.Helper()
	var err error
	for _, point := range slices.Backward(p.mounts()) { // what is mounted in others first
		err = errors.Join(err, unix.Unmount(point, 0))
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func checkReboot(t *testing.T, s *suite) {
	p := s.place(t)
	rootfs := p.provision(p.layers(someTree)...)
	if s.Writable {
		if err := os.WriteFile(rootfs+"/new", nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p.unmountAll()
	p.destroy(rootfs, true)
	p.nothingLeft()
	p.destroy(rootfs, false)
}

// checkHalfDestroyed: the root filesystem is gone, its scratch may not be.
func checkHalfDestroyed(t *testing.T, s *suite) {
	p := s.place(t)
	rootfs := p.provision(p.layers(someTree)...)
	p.unmountAll()
	if err := os.RemoveAll(rootfs); err != nil {
		t.Fatal(err)
	}
	names, err := readNames(filepath.Join(p.backendDir(), "scratch"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	p.destroy(rootfs, len(names) > 0)
	p.nothingLeft()
	p.destroy(rootfs, false)
}

func checkMissingLayer(t *testing.T, s *suite) {
	p := s.place(t)
	layers := p.layers(someTree)
	missing := backend.Layer{Path: filepath.Join(p.dir, "layers", "missing")}
	stacks := [][]backend.Layer{{missing}}
	if s.MaxLayers != 1 {
		stacks = append(stacks, []backend.Layer{layers[0], missing}, []backend.Layer{missing, layers[0]})
	}
	for i, stack := range stacks {
		rootfs := p.rootfs(fmt.Sprint(i))
		err := p.backend.Provision(context.Background(), stack, rootfs, p.backendDir())
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the error is %v", err)
		}
		if _, err := p.backend.Destroy(context.Background(), rootfs, p.backendDir()); err != nil {
			t.Error(err)
		}
		p.nothingLeft()
		p.destroy(rootfs, false)
	}
}

func checkOccupied(t *testing.T, s *suite) {
	for _, occupied := range []struct {
		by   string
		make func(rootfs string) error
	}{
		{"an empty directory", func(rootfs string) error { return os.Mkdir(rootfs, 0o755) }},
		{"a directory", func(rootfs string) error { return os.MkdirAll(rootfs+"/d/e", 0o755) }},
		{"a file", func(rootfs string) error { return os.WriteFile(rootfs, nil, 0o644) }},
		{"a symbolic link", func(rootfs string) error { return os.Symlink("..", rootfs) }},
	} {
		t.Run(occupied.by, func(t *testing.T) {
			p := s.place(t)
			layers := p.layers(someTree)
			rootfs := p.rootfs("rootfs")
			if err := errors.Join(os.Mkdir(filepath.Dir(rootfs), 0o700), occupied.make(rootfs)); err != nil {
				t.Fatal(err)
			}
			before := readTree(t, rootfs, true)
			if err := p.backend.Provision(context.Background(), layers, rootfs, p.backendDir()); !errors.Is(err, os.ErrExist) {
				t.Errorf("the error is %v", err)
			}
			if diff := cmp.Diff(before, readTree(t, rootfs, true)); diff != "" {
				t.Errorf("what is there has changed (-before +after):\n%s", diff)
			}
			p.destroy(rootfs, true)
			p.nothingLeft()
		})
	}
	t.Run("another root filesystem", func(t *testing.T) {
		p := s.place(t)
		layers := p.layers(someTree)
		rootfs := p.provision(layers...)
		if err := p.backend.Provision(context.Background(), layers, rootfs, p.backendDir()); !errors.Is(err, os.ErrExist) {
			t.Errorf("the error is %v", err)
		}
		p.shows(rootfs, stacked(someTree))
		p.destroy(rootfs, true)
	})
}
