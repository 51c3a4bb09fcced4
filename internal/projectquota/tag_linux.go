package projectquota

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// attributes is struct fsxattr.
type attributes struct {
	flags      uint32
	extentSize uint32
	extents    uint32
	project    uint32
	cowExtent  uint32
	_          [8]byte
}

const (
	getAttributes = 0x801c581f // FS_IOC_FSGETXATTR
	setAttributes = 0x401c5820 // FS_IOC_FSSETXATTR
	inherit       = 0x200      // FS_XFLAG_PROJINHERIT
)

// PlaceTag is where a test may end this process: before each file that becomes a project's.
const PlaceTag = "project quota: a file becomes the project's"

// Tag makes a directory, and all directories and files in it, those of a project; what is
// made in it later is so by itself. Links are not followed.
func Tag(dir string, p Project) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err // of the others, nothing is to be counted
		}
		return tag(root, name, p, d.IsDir())
	})
	if err != nil {
		return fmt.Errorf("make %s that of project %d: %w", dir, p, err)
	}
	return nil
}

func tag(root *os.Root, name string, p Project, directory bool) (err error) {
	f, err := root.OpenFile(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	a, err := attributesOf(f)
	if err != nil {
		return err
	}
	if err := disk.At(PlaceTag); err != nil {
		return err
	}
	a.project = uint32(p)
	if directory {
		a.flags |= inherit
	}
	return ioctl(f, setAttributes, &a)
}

// Of returns the project of a directory.
func Of(dir string) (_ Project, err error) {
	f, err := os.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	a, err := attributesOf(f)
	return Project(a.project), err
}

func attributesOf(f *os.File) (a attributes, err error) { return a, ioctl(f, getAttributes, &a) }

func ioctl(f *os.File, request uintptr, a *attributes) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(a))); errno != 0 {
		return &os.PathError{Op: "ioctl", Path: f.Name(), Err: errno}
	}
	return nil
}
