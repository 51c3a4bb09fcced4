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
	parent, err := disk.Open(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer parent.Close()
	var st unix.Stat_t
	err = disk.Fstatat(int(parent.Fd()), filepath.Base(path), &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	r := remover{}
	return true, r.remove(int(parent.Fd()), filepath.Base(path), 0)
}

// maxOpen bounds the directories that a remover has open.
const maxOpen = 100

// remover removes one tree.
type remover struct {
	top int // the root of the tree
}

// remove removes the entry name of the directory parent, and what stands against it.
func (r *remover) remove(parent int, name string, depth int) error {
	for {
		err := r.try(parent, name, depth)
		switch {
		case errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EXDEV), errors.Is(err, unix.EBUSY):
			if detached, detachErr := detachTop(procPath(parent) + "/" + name); !detached {
				return errors.Join(err, detachErr)
			}
		case errors.Is(err, unix.EPERM):
			if !thaw(parent, name, depth) {
				return err
			}
		default:
			return err
		}
	}
}

func (r *remover) try(parent int, name string, depth int) error {
	err := disk.Unlinkat(parent, name, 0)
	if !errors.Is(err, unix.EISDIR) {
		return pathError("unlink", parent, name, err)
	}
	if depth == maxOpen {
		// Further up, its turn comes in the next round.
		return pathError("rename", parent, name, unix.Renameat(parent, name, r.top, rand.Text()))
	}
	fd, err := disk.Openat2(parent, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return pathError("open", parent, name, err)
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	if depth == 0 {
		r.top = fd
	}
	for {
		removed, err := r.empty(dir, depth+1)
		if err != nil {
			return err
		}
		err = disk.Unlinkat(parent, name, unix.AT_REMOVEDIR)
		if !errors.Is(err, unix.ENOTEMPTY) || removed == 0 {
			return pathError("rmdir", parent, name, err)
		}
	}
}

// empty removes the entries of dir, all that it can. It returns their number, and
// why the first of the others stayed.
func (r *remover) empty(dir *os.File, depth int) (removed int, err error) {
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	for {
		names, readErr := dir.Readdirnames(1000)
		for _, name := range names {
			if removeErr := r.remove(int(dir.Fd()), name, depth); removeErr == nil {
				removed++
			} else if err == nil {
				err = removeErr
			}
		}
		if errors.Is(readErr, io.EOF) {
			return removed, err
		}
		if readErr != nil {
			return removed, errors.Join(err, readErr)
		}
	}
}

// thaw clears the flags that keep an entry of the directory parent from being
// removed, and reports whether there were any. Depth 0 says that parent is not of
// the tree.
func thaw(parent int, name string, depth int) (changed bool) {
	if depth > 0 {
		changed = clearFlags(parent)
	}
	var st unix.Stat_t
	if disk.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return changed
	}
	// To open a device or a FIFO would have effects of its own.
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return changed
	}
	fd, err := disk.Openat(parent, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return changed
	}
	defer unix.Close(fd)
	return clearFlags(fd) || changed
}

// clearFlags clears the flags of ioctl_iflags(2) that forbid changes.
func clearFlags(fd int) bool {
	const immutable, appendOnly = 0x10, 0x20
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&(immutable|appendOnly) == 0 {
		return false
	}
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags&^(immutable|appendOnly))) == nil
}

// procPath names what fd is open on, for calls that only take paths.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// pathError finds out the path of an entry, which a remover does not keep.
func pathError(op string, parent int, name string, err error) error {
	if err == nil {
		return nil
	}
	dir, linkErr := os.Readlink(procPath(parent))
	if linkErr != nil {
		dir = "..."
	}
	return &os.PathError{Op: op, Path: filepath.Join(dir, name), Err: err}
}
