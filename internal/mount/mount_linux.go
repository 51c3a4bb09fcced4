package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// Attr is a set of MOUNT_ATTR_ flags.
type Attr uint64

// The attributes in use.
const (
	ReadOnly Attr = unix.MOUNT_ATTR_RDONLY
	NoDev    Attr = unix.MOUNT_ATTR_NODEV
	NoSuid   Attr = unix.MOUNT_ATTR_NOSUID
	NoExec   Attr = unix.MOUNT_ATTR_NOEXEC
)

// Detached is a mount that is in no mount table yet. Close drops it unless it was
// attached.
type Detached struct {
	fd int
}

// Option is one parameter of a file system; without a Value it is a flag.
type Option struct {
	Key, Value string
}

// fileOption is one parameter that is an open file.
type fileOption struct {
	key string
	fd  int
}

// New makes a file system of the given type. The error has the kernel's messages.
func New(fstype, source string, options []Option, attr Attr) (*Detached, error) {
	return newOf(fstype, source, nil, options, attr)
}

func newOf(fstype, source string, files []fileOption, options []Option, attr Attr) (*Detached, error) {
	fs, err := disk.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open file system type %s: %w", fstype, err)
	}
	defer unix.Close(fs)
	for _, f := range files {
		if err := disk.FsconfigSetFd(fs, f.key, f.fd); err != nil {
			return nil, fmt.Errorf("%s option %s: %w", fstype, f.key, withLog(fs, err))
		}
	}
	for _, o := range append([]Option{{"source", source}}, options...) {
		if o.Value == "" {
			err = disk.FsconfigSetFlag(fs, o.Key)
		} else {
			err = disk.FsconfigSetString(fs, o.Key, o.Value)
		}
		if err != nil {
			return nil, fmt.Errorf("%s option %s=%s: %w", fstype, o.Key, o.Value, withLog(fs, err))
		}
	}
	if err := disk.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("create %s file system: %w", fstype, withLog(fs, err))
	}
	fd, err := disk.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(attr))
	if err != nil {
		return nil, fmt.Errorf("mount %s file system: %w", fstype, withLog(fs, err))
	}
	return &Detached{fd: fd}, nil
}

// withLog adds what the kernel says on the file system's descriptor.
func withLog(fs int, err error) error {
	var lines []string
	buf := make([]byte, 4096)
	for {
		n, readErr := unix.Read(fs, buf)
		if readErr != nil || n <= 0 {
			break
		}
		// Each message is "<e|w|i> text".
		if _, text, ok := strings.Cut(strings.TrimSpace(string(buf[:n])), " "); ok {
			lines = append(lines, text)
		}
	}
	if len(lines) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(lines, "; "))
}

// Clone makes a bind mount of path, which may be a file; with recursive, of the
// mounts below it too.
func Clone(path string, recursive bool) (*Detached, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := disk.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return &Detached{fd: fd}, nil
}

// CloneFD makes a bind mount of what fd is open on; with recursive, of the mounts below
// it too.
func CloneFD(fd int, recursive bool) (*Detached, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	clone, err := disk.OpenTree(fd, "", flags)
	if err != nil {
		return nil, fmt.Errorf("open_tree: %w", err)
	}
	return &Detached{fd: clone}, nil
}

// CloneBelow makes a bind mount of sub below the directory dir, with the mounts below it,
// or of dir itself when there is no sub. Links in sub are followed inside dir and lead
// nowhere else.
func CloneBelow(dir, sub string) (*Detached, error) {
	if sub == "" {
		return Clone(dir, true)
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	fd, err := OpenBelow(root, sub, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s in what is mounted: %w", sub, err)
	}
	defer unix.Close(fd)
	return CloneFD(fd, true)
}

// OpenBelow opens a path as a place (O_PATH), with the directory that dir is open on as its
// root; resolve adds to how (openat2(2)).
func OpenBelow(dir int, path string, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve}
	for {
		fd, err := unix.Openat2(dir, path, &how)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// Received is a detached mount that another process has made.
func Received(fd int) *Detached { return &Detached{fd: fd} }

// MakePrivate cuts the mount at path and those below it off from all others: nothing
// propagates in or out.
func MakePrivate(path string) error {
	err := disk.MountSetattr(unix.AT_FDCWD, path, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE})
	if err != nil {
		return &os.PathError{Op: "mount_setattr", Path: path, Err: err}
	}
	return nil
}

// MakeReadOnly makes the mount at path read-only, and none below it.
func MakeReadOnly(path string) error {
	err := disk.MountSetattr(unix.AT_FDCWD, path, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if err != nil {
		return &os.PathError{Op: "mount_setattr", Path: path, Err: err}
	}
	return nil
}

// Set adds attributes; with recursive, to the mounts below too.
func (d *Detached) Set(attr Attr, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	err := disk.MountSetattr(d.fd, "", flags, &unix.MountAttr{Attr_set: uint64(attr)})
	if err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}

// Attach makes the mount visible at target, whose last component is not followed.
func (d *Detached) Attach(target string) error {
	err := disk.MoveMount(d.fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

// AttachAt makes the mount visible at the file or directory that fd is open on.
func (d *Detached) AttachAt(fd int) error {
	err := disk.MoveMount(d.fd, "", fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// FD returns the descriptor of the mount's root (O_PATH); it is valid until Close.
func (d *Detached) FD() int { return d.fd }

// Close drops the descriptor; a mount that is attached nowhere ends with it.
func (d *Detached) Close() error { return unix.Close(d.fd) }

// ShareFromHost sets the propagation of the mount at target: what the host mounts
// and unmounts below it is seen by copies of it in other namespaces, and the mount
// itself follows its own origin, if it has one (slave, then shared).
func ShareFromHost(target string) error {
	for _, propagation := range []uint64{unix.MS_SLAVE, unix.MS_SHARED} {
		err := disk.MountSetattr(unix.AT_FDCWD, target, 0, &unix.MountAttr{Propagation: propagation})
		if err != nil {
			return &os.PathError{Op: "mount_setattr", Path: target, Err: err}
		}
	}
	return nil
}

// Detach removes every mount on path and those below them, whoever uses them:
// processes that have files open there keep them. No mount there is not an error.
func Detach(path string) error {
	// Mounts may be stacked, and one call takes the topmost.
	for {
		if detached, err := DetachTop(path); !detached {
			return err
		}
	}
}

// DetachTop is Detach of the topmost mount alone, and reports whether there was any.
func DetachTop(path string) (bool, error) {
	err := disk.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return false, nil
	}
	return false, &os.PathError{Op: "umount", Path: path, Err: err}
}
