package copy

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const opaqueXattr = "trusted.overlay.opaque"

// applier puts one layer over what is in the root filesystem already.
type applier struct {
	ctx  context.Context
	root int
	// links has, for each inode of the layer with several names, the first name that
	// was copied, below the root.
	links  map[uint64]string
	buffer []byte
}

// directory applies the entries of the layer's directory source to target.
func (a *applier) directory(source, target int, path string) error {
	if err := context.Cause(a.ctx); err != nil {
		return err
	}
	if isOpaque(source) {
		if err := empty(target); err != nil {
			return fmt.Errorf("%s: remove what the layer hides: %w", path, err)
		}
	}
	names, err := readNames(source)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, name := range names {
		if err := a.entry(source, target, name, path+"/"+name); err != nil {
			return err
		}
	}
	// Last: what was made in the directory has changed its times, and its mode might
	// forbid it to another than root.
	var st unix.Stat_t
	if err := unix.Fstat(source, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := copyAttributes(source, target, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// entry applies one entry; the context of an error is its path.
func (a *applier) entry(source, target int, name, path string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(source, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return a.subdirectory(source, target, name, path)
	}
	if err := a.file(source, target, name, path, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// subdirectory merges a directory with the one that is there, or replaces what is
// there and is none.
func (a *applier) subdirectory(source, target int, name, path string) error {
	from, err := unix.Openat(source, name, openDirectory, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(from)
	to, err := openOrMake(target, name)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(to)
	return a.directory(from, to, path)
}

func openOrMake(parent int, name string) (int, error) {
	fd, err := unix.Openat(parent, name, openDirectory, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		if err := unix.Unlinkat(parent, name, 0); err != nil {
			return -1, err
		}
		err = unix.ENOENT
	}
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	if err := unix.Mkdirat(parent, name, 0o700); err != nil {
		return -1, err
	}
	return unix.Openat(parent, name, openDirectory, 0)
}

// file copies what is not a directory. Whatever has its name goes first.
func (a *applier) file(source, target int, name, path string, st *unix.Stat_t) error {
	if err := remove(target, name); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFCHR && st.Rdev == 0 {
		return nil // a whiteout has done its work
	}
	if st.Nlink > 1 {
		if first, ok := a.links[st.Ino]; ok {
			return unix.Linkat(a.root, first, target, name, 0)
		}
		a.links[st.Ino] = path
	}
	switch kind {
	case unix.S_IFREG:
		return a.regular(source, target, name, st)
	case unix.S_IFLNK:
		link, err := readlink(source, name)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(link, target, name); err != nil {
			return err
		}
	default:
		if err := unix.Mknodat(target, name, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	return copyAttributesAt(source, target, name, st)
}

func (a *applier) regular(source, target int, name string, st *unix.Stat_t) (err error) {
	from, err := unix.Openat(source, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := unix.Openat(target, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(to)) }()
	if err := copyContent(from, to, st.Size, a.buffer); err != nil {
		return err
	}
	return copyAttributes(from, to, st)
}

func isOpaque(dir int) bool {
	var value [1]byte
	n, err := unix.Fgetxattr(dir, opaqueXattr, value[:])
	return err == nil && n == 1 && value[0] == 'y'
}

// empty removes everything in the directory dir.
func empty(dir int) error {
	names, err := readNames(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := remove(dir, name); err != nil {
			return err
		}
	}
	return nil
}

// remove removes name and, if it is a directory, everything in it; a name that does
// not exist is removed already.
func remove(parent int, name string) error {
	err := unix.Unlinkat(parent, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	dir, err := unix.Openat(parent, name, openDirectory, 0)
	if err != nil {
		return err
	}
	err = empty(dir)
	unix.Close(dir)
	if err != nil {
		return err
	}
	return unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
}

// readNames lists a directory by a descriptor of its own, so that dir itself stays
// at its beginning.
func readNames(dir int) ([]string, error) {
	fd, err := unix.Openat(dir, ".", openDirectory, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	return f.Readdirnames(-1)
}

func readlink(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
