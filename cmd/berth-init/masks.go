//go:build linux

package main

import (
	"errors"

	"golang.org/x/sys/unix"

	"berth/internal/mount"
)

// mask covers files with the container's /dev/null and directories with an empty
// file system. A path that does not exist needs no mask; every other
// failure is one, because a mask that is missing shows the host.
func (r *root) mask(paths []string) error {
	file, directory := mask{make: r.cloneNull}, mask{make: newEmpty}
	defer file.close()
	defer directory.close()
	for _, p := range paths {
		target, isDir, err := r.openMaskable(p)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return step("mask "+p, err)
		}
		by := &file
		if isDir {
			by = &directory
		}
		err = by.cover(target)
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

// mask is a mount that covers many places, made when it is first needed.
type mask struct {
	make func() (*mount.Detached, error)
	made *mount.Detached
}

// cover lays it on a place. It lies itself on the first one and is cloned for the
// others: before Linux 6.15 only what is in the mount table can be cloned.
func (m *mask) cover(target int) (err error) {
	if m.made == nil {
		if m.made, err = m.make(); err != nil {
			return err
		}
		return m.made.AttachAt(target)
	}
	clone, err := mount.CloneFD(m.made.FD(), false)
	if err != nil {
		return err
	}
	defer clone.Close()
	return clone.AttachAt(target)
}

func (m *mask) close() {
	if m.made != nil {
		m.made.Close()
	}
}

// newEmpty makes a file system with nothing in it.
func newEmpty() (*mount.Detached, error) {
	return mount.New("tmpfs", "masked", []mount.Option{{Key: "mode", Value: "555"}}, mount.ReadOnly)
}

// cloneNull makes a mount of the container's /dev/null.
func (r *root) cloneNull() (*mount.Detached, error) {
	null, err := r.openNull()
	if err != nil {
		return nil, err
	}
	defer unix.Close(null)
	return cloneWith(null, mount.ReadOnly)
}

// cloneWith clones something that is mounted, with attributes.
func cloneWith(fd int, attributes mount.Attr) (*mount.Detached, error) {
	clone, err := mount.CloneFD(fd, false)
	if err != nil {
		return nil, err
	}
	if err := clone.Set(attributes, false); err != nil {
		return nil, errors.Join(err, clone.Close())
	}
	return clone, nil
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
	clone, err := cloneWith(target, mount.ReadOnly|mount.NoSuid|mount.NoDev|mount.NoExec)
	if err != nil {
		return err
	}
	defer clone.Close()
	return clone.AttachAt(target)
}
