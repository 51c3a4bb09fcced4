//go:build linux

package main

import (
	"errors"
	"path"

	"golang.org/x/sys/unix"

	"berth/internal/mount"
	"berth/launcher/plan"
)

func (r *root) node(n plan.Node) error {
	parent, err := r.make(path.Dir(n.Path), true, true)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	base := path.Base(n.Path)
	if err := unix.Mknodat(parent, base, n.Mode, int(unix.Mkdev(n.Major, n.Minor))); err != nil {
		return err
	}
	return unix.Fchmodat(parent, base, n.Mode&0o7777, 0) // whatever the umask is
}

func (r *root) link(l plan.Link) error {
	parent, err := r.open(path.Dir(l.Path), true)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	return unix.Symlinkat(l.Target, parent, path.Base(l.Path))
}

// mask covers files with the container's /dev/null and directories with an empty
// file system, one for all. A path that does not exist needs no mask; every other
// failure is one, because a mask that is missing shows the host.
func (r *root) mask(paths []string) error {
	var empty emptyDirectory
	defer empty.close()
	for _, p := range paths {
		target, isDir, err := r.openMaskable(p)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return step("mask "+p, err)
		}
		if isDir {
			err = empty.cover(target)
		} else {
			err = r.coverFile(target)
		}
		unix.Close(target)
		if err != nil {
			return step("mask "+p, err)
		}
	}
	return nil
}

func (r *root) openMaskable(p string) (fd int, isDir bool, err error) {
	if fd, err = r.open(p, true); err != nil {
		return -1, false, err
	}
	if isDir, err = isDirectory(fd); err != nil {
		return -1, false, errors.Join(err, unix.Close(fd))
	}
	return fd, isDir, nil
}

func isDirectory(fd int) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

// emptyDirectory is a file system with nothing in it, made when it is first needed.
type emptyDirectory struct{ fs *mount.Detached }

// cover mounts it on a directory. It lies itself on the first one and is cloned for the
// others: before Linux 6.15 only what is in the mount table can be cloned.
func (e *emptyDirectory) cover(target int) (err error) {
	if e.fs == nil {
		if e.fs, err = mount.New("tmpfs", "masked", []mount.Option{{Key: "mode", Value: "555"}}, mount.ReadOnly); err != nil {
			return err
		}
		return e.fs.AttachAt(target)
	}
	clone, err := mount.CloneFD(e.fs.FD(), false)
	if err != nil {
		return err
	}
	defer clone.Close()
	return clone.AttachAt(target)
}

func (e *emptyDirectory) close() {
	if e.fs != nil {
		e.fs.Close()
	}
}

func (r *root) coverFile(target int) error {
	null, err := r.openNull()
	if err != nil {
		return err
	}
	defer unix.Close(null)
	return cover(target, null, mount.ReadOnly)
}

// cover mounts a clone of something that is mounted, with attributes.
func cover(target, by int, attributes mount.Attr) error {
	clone, err := mount.CloneFD(by, false)
	if err != nil {
		return err
	}
	defer clone.Close()
	if err := clone.Set(attributes, false); err != nil {
		return err
	}
	return clone.AttachAt(target)
}

// openNull opens /dev/null and makes sure that it is it.
func (r *root) openNull() (int, error) {
	fd, err := r.open("/dev/null", true)
	if err != nil {
		return -1, step("open /dev/null", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		return -1, errors.Join(errors.New("/dev/null is not the null device"), unix.Close(fd))
	}
	return fd, nil
}

// readOnly covers a path with a read-only mount of itself.
func (r *root) readOnly(p string) error {
	target, err := r.open(p, true)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return cover(target, target, mount.ReadOnly|mount.NoSuid|mount.NoDev|mount.NoExec)
}
