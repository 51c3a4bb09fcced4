package mount

import (
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// RemoveAll removes the tree at path and reports whether there was any. It never
// goes through a mount: what is mounted on the tree or in it is detached first.
//
// Nothing that a container can leave in a tree stops it: it clears the flags
// "immutable" and "append only", and has few directories open however deep they lie.
func RemoveAll(path string) (existed bool, err error) {
	// Mostly it is a directory of which only that is left.
	switch err := disk.Rmdir(path); {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOENT):
		return false, nil
	}
	parent, err := disk.Openat(unix.AT_FDCWD, filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(parent)
	var st unix.Stat_t
	err = disk.Fstatat(parent, filepath.Base(path), &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	r := remover{}
	return true, r.remove(parent, entry{filepath.Base(path), st.Mode&unix.S_IFMT == unix.S_IFDIR}, 0)
}

// maxOpen bounds the directories that a remover has open.
const maxOpen = 100

// remover removes one tree.
type remover struct {
	top     int // the root of the tree
	dirents [2 << 10]byte
}

// entry is one of a directory.
type entry struct {
	name string
	dir  bool // when that is known
}

// remove removes an entry of the directory parent, and what stands against it.
func (r *remover) remove(parent int, e entry, depth int) error {
	name := e.name
	for {
		op, err := r.try(parent, e, depth)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EBUSY):
			if detached, detachErr := DetachTop(procPath(parent) + "/" + name); !detached {
				return errors.Join(pathError(op, parent, name, err), detachErr)
			}
		case errors.Is(err, unix.EPERM):
			if changed, thawErr := thaw(parent, name, depth); !changed {
				return errors.Join(pathError(op, parent, name, err), thawErr)
			}
		default:
			return pathError(op, parent, name, err)
		}
	}
}

// try returns with an error what it is that did not succeed with the entry itself, or
// nothing when the error is one of what lies below.
func (r *remover) try(parent int, e entry, depth int) (op string, err error) {
	name := e.name
	if !e.dir {
		if err = disk.Unlinkat(parent, name, 0); !errors.Is(err, unix.EISDIR) {
			return "unlink", err
		}
	}
	// Most directories that are made for a container stay empty.
	switch err = disk.Unlinkat(parent, name, unix.AT_REMOVEDIR); {
	case errors.Is(err, unix.ENOTDIR): // any more
		return "unlink", disk.Unlinkat(parent, name, 0)
	case !errors.Is(err, unix.ENOTEMPTY):
		return "rmdir", err
	}
	if depth == maxOpen {
		// Further up, its turn comes in the next round.
		return "rename", disk.Renameat2(parent, name, r.top, rand.Text(), 0)
	}
	fd, err := disk.Openat2(parent, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return "open", err
	}
	defer unix.Close(fd)
	if depth == 0 {
		r.top = fd
	}
	return r.empty(parent, name, fd, depth+1)
}

// empty removes what is in the directory name, all that it can, and then the directory,
// which fd is open on. The error is why the first of those that stayed did.
func (r *remover) empty(parent int, name string, fd, depth int) (op string, err error) {
	removed := 0
	for {
		entries, listErr := r.list(fd)
		switch {
		case listErr != nil:
			return "list", listErr
		case len(entries) == 0 && err != nil:
			return "", err
		case len(entries) == 0 && removed == 0:
			return "rmdir", disk.Unlinkat(parent, name, unix.AT_REMOVEDIR)
		case len(entries) == 0:
			// Removals may have moved names to where it had been read.
			if _, err := disk.Seek(fd, 0, io.SeekStart); err != nil {
				return "seek", err
			}
			removed = 0
		}
		for _, e := range entries {
			if removeErr := r.remove(fd, e, depth); removeErr == nil {
				removed++
			} else if err == nil {
				err = removeErr
			}
		}
		if err != nil || removed == 0 {
			continue
		}
		if err := disk.Unlinkat(parent, name, unix.AT_REMOVEDIR); !errors.Is(err, unix.ENOTEMPTY) {
			return "rmdir", err
		}
	}
}

// list reads some of the entries of a directory, none at its end.
func (r *remover) list(fd int) (entries []entry, err error) {
	dirents, err := disk.ReadDirents(fd, r.dirents[:])
	for _, e := range dirents {
		entries = append(entries, entry{e.Name, e.Kind == unix.DT_DIR})
	}
	return entries, err
}

// thaw clears the flags that keep an entry of the directory parent from being
// removed, and reports whether there were any. Depth 0 says that parent is not of
// the tree.
func thaw(parent int, name string, depth int) (changed bool, err error) {
	if depth > 0 {
		if changed, err = clearFlags(parent); err != nil {
			return false, pathError("clear flags", parent, "", err)
		}
	}
	var st unix.Stat_t
	if err := disk.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return changed, pathError("stat", parent, name, err)
	}
	// To open a device or a FIFO would have effects of its own.
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return changed, nil
	}
	fd, err := disk.Openat(parent, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return changed, pathError("open", parent, name, err)
	}
	defer unix.Close(fd)
	cleared, err := clearFlags(fd)
	return cleared || changed, pathError("clear flags", parent, name, err)
}

// clearFlags clears the flags of ioctl_iflags(2) that forbid changes.
func clearFlags(fd int) (changed bool, err error) {
	const immutable, appendOnly = 0x10, 0x20
	flags, err := disk.Flags(fd)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) { // the file system has none
		return false, nil
	}
	if err != nil || flags&(immutable|appendOnly) == 0 {
		return false, err
	}
	err = disk.SetFlags(fd, flags&^(immutable|appendOnly))
	return err == nil, err
}

// procPath names what fd is open on, for calls that only take paths.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// pathError finds out the path of an entry, which a remover does not keep, unless the
// error has one.
func pathError(op string, parent int, name string, err error) error {
	if op == "" || err == nil {
		return err
	}
	dir, linkErr := os.Readlink(procPath(parent))
	if linkErr != nil {
		dir = "..."
	}
	return &os.PathError{Op: op, Path: filepath.Join(dir, name), Err: err}
}
