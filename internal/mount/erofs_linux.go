package mount

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// EROFS is an index with the file that has its data.
type EROFS struct {
	Index  string // the EROFS image
	Device string // what its extra device is
}

// Mount mounts the file system, read-only, straight from the two files, which the mount
// keeps open. Before Linux 6.12, or without CONFIG_EROFS_FS_BACKED_BY_FILE, it goes by loop
// devices. ENODEV: the kernel has no EROFS.
func (e EROFS) Mount() (*Detached, error) {
	d, err := e.mount()
	if errors.Is(err, unix.ENOTBLK) {
		return e.MountByLoop()
	}
	return d, err
}

// mount names the files by their descriptors where the paths are too long for fsconfig(2).
func (e EROFS) mount() (_ *Detached, err error) {
	for _, path := range []*string{&e.Index, &e.Device} {
		if len(*path) <= maxString {
			continue
		}
		f, err := disk.Open(*path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		*path = procPath(int(f.Fd()))
	}
	return newErofs(e.Index, e.Device)
}

func newErofs(index, device string) (*Detached, error) {
	// Without "ro" the kernel wants to write to a loop device.
	return New("erofs", index, []Option{{"ro", ""}, {"device", device}}, ReadOnly)
}

// MountByLoop is Mount by a loop device for each of the files. They go with the mount.
func (e EROFS) MountByLoop() (_ *Detached, err error) {
	var devices []string
	for _, path := range []string{e.Index, e.Device} {
		loop, err := attachLoop(path)
		if err != nil {
			return nil, fmt.Errorf("loop device of %s: %w", path, err)
		}
		// The mount has it open, or nobody, and then it is free again.
		defer loop.Close()
		devices = append(devices, loop.Name())
	}
	return newErofs(devices[0], devices[1])
}

// attachLoop returns an open loop device of the file, which lasts as long as anybody has it
// open.
func attachLoop(path string) (*disk.File, error) {
	backing, err := disk.Open(path)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := disk.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR}}
	for {
		number, err := disk.LoopGetFree(int(control.Fd()))
		if err != nil {
			return nil, fmt.Errorf("get a free one: %w", err)
		}
		loop, err := disk.OpenFile("/dev/loop"+strconv.Itoa(number), os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		err = disk.LoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) { // somebody else was faster
			return nil, fmt.Errorf("configure %s: %w", loop.Name(), err)
		}
	}
}

// EROFSNeedsLoop reports whether Mount goes by loop devices on this kernel.
func EROFSNeedsLoop() bool {
	// Any file will do: what mounts files finds that it is no EROFS.
	made, err := New("erofs", "/proc/self/exe", []Option{{"ro", ""}}, ReadOnly)
	if err == nil {
		made.Close()
	}
	return errors.Is(err, unix.ENOTBLK)
}

// IsRoot reports whether something is mounted at path, whose last component is not followed.
func IsRoot(path string) (bool, error) {
	st, err := disk.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0)
	if err != nil {
		return false, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
