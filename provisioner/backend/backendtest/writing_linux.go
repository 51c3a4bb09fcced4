package backendtest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// writing: what a container does in its root filesystem.
var writing = append(writingChecks(),
	check{"nothing that a container tries with overlayfs's own marks reaches a layer", writable, checkMarks},
	check{"whatever a container does, the layer store finds its layers whole", nil, checkStore},
	check{"what is written lies in the ephemeral directories", writable, checkEphemeral},
	check{"a read-only backend has no ephemeral directories", readOnly, checkNoEphemeral},
	check{"root filesystems of the same layers know nothing of each other", writable, checkIndependence},
)

// written is what writings write to.
var written = []Tree{
	{Dir("d"), File("d/a", "base"), Dir("d/e"), File("d/e/b", "base"), File("hidden", "base")},
	{Dir("d"), File("d/c", "top"), File("file", "top").xattr("user.x", "layer"), hardLink("file2", "file"), symlink("link", "file"),
		Dir("dir"), Dir("empty"), File("large", pattern(100_000)), fifo("fifo")},
}

// writings are what a container may do below its root.
var writings = []struct {
	what string
	do   func(root string) error
}{
	{"make a file", func(root string) error { return os.WriteFile(root+"/new", []byte("new"), 0o644) }},
	{"make a file in a directory", func(root string) error { return os.WriteFile(root+"/d/e/new", []byte("new"), 0o644) }},
	{"write", func(root string) error { return writeAt(root+"/file", unix.O_WRONLY, 0) }},
	{"write through a symbolic link", func(root string) error { return writeAt(root+"/link", unix.O_WRONLY, 0) }},
	{"write to a hard link", func(root string) error { return writeAt(root+"/file2", unix.O_WRONLY, 0) }},
	{"write into the middle", func(root string) error { return writeAt(root+"/large", unix.O_RDWR, 50_000) }},
	{"append", func(root string) error { return writeAt(root+"/file", unix.O_WRONLY|unix.O_APPEND, -1) }},
	{"empty on opening", func(root string) error { return writeAt(root+"/file", unix.O_WRONLY|unix.O_TRUNC, 0) }},
	{"truncate", func(root string) error { return os.Truncate(root+"/large", 10) }},
	{"lengthen", func(root string) error { return os.Truncate(root+"/file", 1<<20) }},
	{"punch a hole", func(root string) error {
		return withFile(root+"/large", func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 65536)
		})
	}},
	{"write through memory", func(root string) error { return withFile(root+"/large", writeMapped) }},
	{"write through /proc to a file that is open for reading", func(root string) error {
		return withOpen(root+"/file", func(proc string) error { return writeAt(proc, unix.O_WRONLY, 0) })
	}},
	{"truncate through /proc", func(root string) error {
		return withOpen(root+"/large", func(proc string) error { return os.Truncate(proc, 1) })
	}},
	{"link through /proc, then write", func(root string) error {
		return withOpen(root+"/file", func(proc string) error {
			return errors.Join(unix.Linkat(unix.AT_FDCWD, proc, unix.AT_FDCWD, root+"/d/linked", unix.AT_SYMLINK_FOLLOW), writeAt(root+"/d/linked", unix.O_WRONLY, 0))
		})
	}},
	{"chmod, chown, date and set an attribute by a descriptor for reading", func(root string) error {
		return withOpen(root+"/file", func(proc string) error {
			return errors.Join(unix.Chmod(proc, 0o600), os.Chown(proc, 5, 6), unix.Utimes(proc, make([]unix.Timeval, 2)), unix.Setxattr(proc, "user.new", []byte("new"), 0))
		})
	}},
	{"allocate", func(root string) error {
		return withFile(root+"/file", func(fd int) error { return unix.Fallocate(fd, 0, 0, 1<<20) })
	}},
	{"make immutable", func(root string) error { return setFlag(root+"/large", immutableFlag) }},
	{"make a file without a name, then give it one", func(root string) error {
		fd, err := unix.Open(root+"/d", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Linkat(unix.AT_FDCWD, procPath(fd), unix.AT_FDCWD, root+"/d/new", unix.AT_SYMLINK_FOLLOW)
	}},
	{"exchange two files", func(root string) error {
		return unix.Renameat2(unix.AT_FDCWD, root+"/file", unix.AT_FDCWD, root+"/d/a", unix.RENAME_EXCHANGE)
	}},
	{"unlink a file", func(root string) error { return os.Remove(root + "/file") }},
	{"unlink a link", func(root string) error { return os.Remove(root + "/link") }},
	{"remove an empty directory", func(root string) error { return unix.Rmdir(root + "/empty") }},
	{"remove a directory with all in it", func(root string) error { return removeAll(root, "d") }},
	{"remove everything", func(root string) error { return removeAll(root, ".") }},
	{"replace a directory", func(root string) error {
		return errors.Join(removeAll(root, "d"), os.Mkdir(root+"/d", 0o755))
	}},
	{"rename a file", func(root string) error { return os.Rename(root+"/file", root+"/d/renamed") }},
	{"rename a file over another", func(root string) error { return os.Rename(root+"/d/a", root+"/file") }},
	{"rename a directory", func(root string) error {
		err := os.Rename(root+"/d", root+"/renamed")
		if errors.Is(err, unix.EXDEV) {
			return nil // overlayfs may leave it to the caller to copy what it has to
		}
		return err
	}},
	{"link", func(root string) error { return os.Link(root+"/file", root+"/d/linked") }},
	{"link, then write", func(root string) error {
		return errors.Join(os.Link(root+"/file", root+"/d/linked"), writeAt(root+"/d/linked", unix.O_WRONLY, 0))
	}},
	{"make a directory", func(root string) error { return os.Mkdir(root+"/d/new", 0o755) }},
	{"make a symbolic link", func(root string) error { return os.Symlink("file", root+"/d/new") }},
	{"make a device", func(root string) error { return unix.Mknod(root+"/d/new", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) }},
	{"make a socket", func(root string) error { return unix.Mknod(root+"/d/new", unix.S_IFSOCK|0o600, 0) }},
	{"chmod a file", func(root string) error { return unix.Chmod(root+"/file", 0o4700) }},
	{"chmod a directory", func(root string) error { return unix.Chmod(root+"/d/e", 0o700) }},
	{"chmod the root", func(root string) error { return unix.Chmod(root, 0o700) }},
	{"chown a file", func(root string) error { return os.Chown(root+"/file", 5, 6) }},
	{"chown a link", func(root string) error { return os.Lchown(root+"/link", 5, 6) }},
	{"chown a FIFO", func(root string) error { return os.Chown(root+"/fifo", 5, 6) }},
	{"date a file", func(root string) error { return unix.Utimes(root+"/file", make([]unix.Timeval, 2)) }},
	{"date the root", func(root string) error { return unix.Utimes(root, make([]unix.Timeval, 2)) }},
	{"set an attribute", func(root string) error { return unix.Setxattr(root+"/file", "user.x", []byte("changed"), 0) }},
	{"set an attribute of a directory", func(root string) error { return unix.Setxattr(root+"/d", "user.new", []byte("new"), 0) }},
	{"set an attribute of the root", func(root string) error { return unix.Setxattr(root, "user.new", []byte("new"), 0) }},
	{"remove an attribute", func(root string) error { return unix.Removexattr(root+"/file", "user.x") }},
}

func writingChecks() (checks []check) {
	for _, w := range writings {
		checks = append(checks,
			check{"never in a layer: " + w.what, writable, func(t *testing.T, s *suite) {
				p := s.place(t)
				layers := p.layers(written...)
				unchanged := p.unchanged()
				rootfs := p.provision(layers...)
				if err := w.do(rootfs); err != nil {
					t.Error(err)
				}
				unchanged()
				p.destroy(rootfs, true)
				unchanged()
			}},
			check{"refused with EROFS: " + w.what, readOnly, func(t *testing.T, s *suite) {
				p := s.place(t)
				layers := p.layers(append(written[0], written[1][1:]...))
				unchanged := p.unchanged()
				if err := w.do(p.provision(layers...)); !errors.Is(err, unix.EROFS) {
					t.Errorf("the error is %v", err)
				}
				unchanged()
			}})
	}
	return checks
}

func withFile(path string, do func(fd int) error) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(do(int(f.Fd())), f.Close())
}

// withOpen opens a file for reading, and names it as /proc does.
func withOpen(path string, do func(proc string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return do(procPath(int(f.Fd())))
}

// writeAt writes at an offset, or with -1 where the file is.
func writeAt(path string, flags int, offset int64) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if offset < 0 {
		_, err = unix.Write(fd, []byte("written"))
	} else {
		_, err = unix.Pwrite(fd, []byte("written"), offset)
	}
	return errors.Join(err, unix.Fsync(fd))
}

func writeMapped(fd int) error {
	memory, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(memory, "written")
	return errors.Join(unix.Msync(memory, unix.MS_SYNC), unix.Munmap(memory))
}

// removeAll removes the entries of a directory of root and, unless it is ".", the
// directory. What is listed must be there.
func removeAll(root, path string) error {
	dir := filepath.Join(root, path)
	names, err := readNames(dir)
	for _, name := range names {
		if err == nil {
			if err = os.Remove(filepath.Join(dir, name)); errors.Is(err, unix.ENOTEMPTY) {
				err = removeAll(dir, name)
			}
		}
	}
	if err != nil || path == "." {
		return err
	}
	return os.Remove(dir)
}

// checkMarks: a container may make what overlayfs takes for a whiteout or an opaque
// directory, if it is let. It may lose its own view of what it has then, nothing else.
func checkMarks(t *testing.T, s *suite) {
	p := s.place(t)
	layers := p.layers(written...)
	unchanged := p.unchanged()
	rootfs := p.provision(layers...)
	unix.Mknod(rootfs+"/d/new", unix.S_IFCHR, 0)
	unix.Mknod(rootfs+"/new", unix.S_IFCHR, 0)
	for _, name := range []string{"opaque", "redirect", "origin", "metacopy", "whiteout", "impure", "nlink"} {
		for _, path := range []string{"", "/d", "/d/e", "/file", "/dir"} {
			for _, value := range []string{"y", "/d/e", ""} {
				unix.Setxattr(rootfs+path, "trusted.overlay."+name, []byte(value), 0)
				unix.Setxattr(rootfs+path, "user.overlay."+name, []byte(value), 0)
			}
		}
	}
	unix.Renameat2(unix.AT_FDCWD, rootfs+"/file", unix.AT_FDCWD, rootfs+"/d/moved", unix.RENAME_WHITEOUT)
	os.WriteFile(rootfs+"/.wh.large", nil, 0o600)
	os.WriteFile(rootfs+"/d/.wh..wh..opq", nil, 0o600)
	unchanged()
	p.destroy(rootfs, true)
	unchanged()
	p.shows(p.provision(layers...), stacked(written...))
}

// checkEphemeral: a disk quota counts what is in the ephemeral directories.
func checkEphemeral(t *testing.T, s *suite) {
	p := s.place(t)
	rootfs, ephemeral := p.provisionAs("rootfs", p.layers(Tree{Dir("d"), File("d/a", "layer")})...)
	for _, dir := range ephemeral {
		if !strings.HasPrefix(dir, p.backendDir()+"/") {
			t.Errorf("%s is not in the directory of the backend", dir)
		}
	}
	for _, name := range []string{"new", "d/other", "d/a"} {
		if err := os.WriteFile(filepath.Join(rootfs, name), []byte("what is written"), 0o644); err != nil {
			t.Fatal(err)
		}
		count := 0
		for _, dir := range ephemeral {
			filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error {
				if content, err := os.ReadFile(path); err == nil && string(content) == "what is written" && filepath.Base(path) == filepath.Base(name) {
					count++
				}
				return nil
			})
		}
		if count == 0 {
			t.Errorf("%s is not in %q", name, ephemeral)
		}
	}
}

func checkNoEphemeral(t *testing.T, s *suite) {
	p := s.place(t)
	if _, ephemeral := p.provisionAs("rootfs", p.layers(Tree{})...); len(ephemeral) > 0 {
		t.Errorf("they are %q", ephemeral)
	}
}

func checkIndependence(t *testing.T, s *suite) {
	p, other := s.place(t), s.place(t)
	layers := p.layers(written...)
	before := stacked(written...)
	first, _ := p.provisionAs("first", layers...)
	second, _ := p.provisionAs("second", layers...)
	third := other.provision(layers...)
	if err := errors.Join(removeAll(first, "d"), writeAt(first+"/file", unix.O_WRONLY, 0)); err != nil {
		t.Fatal(err)
	}
	p.shows(second, before)
	p.shows(third, before)
	p.destroy(first, true)
	p.shows(second, before)
	p.destroy(second, true)
	p.shows(third, before)
}
