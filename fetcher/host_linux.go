package fetcher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/disk"
)

// user is whom files are for, by the ids of the container, which are those of the range on
// the host.
type user struct {
	uid, gid uint32
	ids      container.IDRange
}

// onHost returns who the user is for the files of the host.
func (u user) onHost() user {
	return user{uid: u.ids.OnHost(u.uid), gid: u.ids.OnHost(u.gid)}
}

// openHost opens a regular file of the host with the rights of a user. ErrNotFound,
// ErrDenied; ErrInvalid: it is something else, which is not opened.
func openHost(path string, as user) (f *disk.File, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with the goroutine, and its rights with it.
		runtime.LockOSThread()
		if err = become(as); err == nil {
			f, err = openRegular(path)
		}
	}()
	<-done
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %w", container.ErrNotFound, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: it is opened as user %d, group %d of the host, who is the container's user: %w", container.ErrDenied, as.uid, as.gid, err)
	}
	return f, err
}

// become gives this thread, and no other, the rights of a user over files. A thread whose
// file system user is not 0 has none of the capabilities that override permissions.
func become(as user) error {
	if as.uid == 0 || os.Geteuid() != 0 {
		return nil
	}
	// Of this thread: that of package unix is for all of them.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return os.NewSyscallError("setgroups", errno)
	}
	// They return the id from before, and no error.
	_ = unix.Setfsgid(int(as.gid))
	_ = unix.Setfsuid(int(as.uid))
	if now, _ := unix.SetfsuidRetUid(-1); now != int(as.uid) {
		return fmt.Errorf("setfsuid %d: %w", as.uid, unix.EPERM)
	}
	return nil
}

// openRegular looks before it opens: to open a FIFO can block, and a device can have an
// effect.
func openRegular(path string) (*disk.File, error) {
	place, err := disk.Openat(unix.AT_FDCWD, path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer disk.Close(place)
	var st unix.Stat_t
	if err := disk.Fstatat(place, "", &st, unix.AT_EMPTY_PATH); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%w: it is not a regular file", container.ErrInvalid)
	}
	return disk.Open("/proc/self/fd/" + strconv.Itoa(place))
}
