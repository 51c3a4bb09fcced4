package copy

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"berth/internal/attributes"
	"berth/internal/disk"
)

// applier puts one layer over what is in the root filesystem already.
//
// It uses names only as single components below open directories, so that no link of
// a layer, nor of a lower one, can lead it anywhere.
type applier struct {
	root int
	// links has, for each inode of the layer with several names, the first name that
	// was copied, below the root.
	links map[uint64]string
	// implied are the directories that keep the attributes they have.
	implied map[string]bool
	files   chan<- file
}

// directory is a directory of the layer, and what becomes of it.
type directory struct {
	source, target int
	path           string // below the root, for errors and links
	// merged: target was there before the layer, and may have anything in it.
	merged bool
}

func (d directory) join(name string) string {
	if d.path == "" {
		return name
	}
	return d.path + "/" + name
}

// apply applies the layer at path.
func (a *applier) apply(ctx context.Context, path string) error {
	source, err := disk.Open(path)
	if err != nil {
		return err
	}
	defer source.Close()
	return a.contents(ctx, directory{source: int(source.Fd()), target: a.root, merged: true})
}

// contents applies the entries of a directory, then its attributes.
func (a *applier) contents(ctx context.Context, d directory) error {
	wanted, err := a.attributes(d)
	if err != nil {
		return fmt.Errorf("%q: %w", d.path, err)
	}
	if d.merged {
		if err := d.prepare(); err != nil {
			return fmt.Errorf("%q: %w", d.path, err)
		}
	}
	names, err := readNames(d.source)
	if err != nil {
		return fmt.Errorf("%q: %w", d.path, err)
	}
	for _, name := range names {
		if err := a.entry(ctx, d, name); err != nil {
			return err
		}
	}
	// Last: what was made in the directory has changed its times.
	if err := wanted.Give(attributes.Open(d.target)); err != nil {
		return fmt.Errorf("%q: %w", d.path, err)
	}
	return nil
}

// attributes returns what a directory is to have: the layer's attributes, or those that
// it has already.
func (a *applier) attributes(d directory) (attributes.Attributes, error) {
	if d.merged && a.implied[d.name()] {
		return attributes.Of(attributes.Open(d.target))
	}
	return attributes.Of(attributes.Open(d.source))
}

// name is the path as backend.Layer.Implied has it.
func (d directory) name() string {
	if d.path == "" {
		return "."
	}
	return d.path
}

// prepare removes what lower layers have in a merged directory if this one hides it,
// and their attributes of it: a default access control list, for one, would be
// inherited by what is made in the directory next.
func (d directory) prepare() error {
	opaque, err := attributes.IsOpaque(attributes.Open(d.source))
	if err != nil {
		return err
	}
	if opaque {
		if err := empty(d.target); err != nil {
			return fmt.Errorf("remove what the layer hides: %w", err)
		}
	}
	return attributes.Clear(attributes.Open(d.target))
}

// entry applies one entry; the context of an error is its path.
func (a *applier) entry(ctx context.Context, d directory, name string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var st unix.Stat_t
	if err := disk.Fstatat(d.source, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("%q: %w", d.join(name), err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return a.subdirectory(ctx, d, name)
	}
	if err := a.file(ctx, d, name, &st); err != nil {
		return fmt.Errorf("%q: %w", d.join(name), err)
	}
	return nil
}

// subdirectory merges a directory with the one that is there, or replaces what is
// there and is none.
func (a *applier) subdirectory(ctx context.Context, d directory, name string) error {
	sub := directory{path: d.join(name)}
	var err error
	if sub.source, err = disk.Openat(d.source, name, openDirectory, 0); err != nil {
		return fmt.Errorf("%q: %w", sub.path, err)
	}
	defer unix.Close(sub.source)
	if sub.target, sub.merged, err = d.openOrMake(name); err != nil {
		return fmt.Errorf("%q: %w", sub.path, err)
	}
	defer unix.Close(sub.target)
	return a.contents(ctx, sub)
}

// openOrMake opens the directory name of the target, and reports whether it was there.
func (d directory) openOrMake(name string) (fd int, existed bool, err error) {
	if d.merged {
		fd, err := disk.Openat(d.target, name, openDirectory, 0)
		switch {
		case err == nil:
			return fd, true, nil
		case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			if err := disk.Unlinkat(d.target, name, 0); err != nil {
				return -1, false, err
			}
		case !errors.Is(err, unix.ENOENT):
			return -1, false, err
		}
	}
	if err := disk.Mkdirat(d.target, name, 0o700); err != nil {
		return -1, false, err
	}
	fd, err = disk.Openat(d.target, name, openDirectory, 0)
	return fd, false, err
}

// file makes what is not a directory. Whatever has its name goes first.
func (a *applier) file(ctx context.Context, d directory, name string, st *unix.Stat_t) error {
	if d.merged {
		if err := remove(d.target, name); err != nil {
			return err
		}
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFCHR && st.Rdev == 0 {
		return nil // a whiteout has done its work
	}
	if st.Nlink > 1 {
		if first, ok := a.links[st.Ino]; ok {
			return disk.Linkat(a.root, first, d.target, name, 0)
		}
		a.links[st.Ino] = d.join(name)
	}
	switch kind {
	case unix.S_IFREG:
		return a.regular(ctx, d, name, st)
	case unix.S_IFLNK:
		link, err := readlink(d.source, name)
		if err != nil {
			return err
		}
		if err := disk.Symlinkat(link, d.target, name); err != nil {
			return err
		}
	default:
		if err := disk.Mknodat(d.target, name, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	return attributes.Copy(attributes.At(d.source, name), attributes.At(d.target, name))
}

// regular makes a file for the fillers.
func (a *applier) regular(ctx context.Context, d directory, name string, st *unix.Stat_t) error {
	from, err := disk.Openat(d.source, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	to, err := disk.Openat(d.target, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, st.Mode&0o777)
	if err != nil {
		unix.Close(from)
		return err
	}
	f := file{from: from, to: to, st: *st, path: d.join(name)}
	select {
	case a.files <- f:
		return nil
	case <-ctx.Done():
		f.close()
		return context.Cause(ctx)
	}
}
