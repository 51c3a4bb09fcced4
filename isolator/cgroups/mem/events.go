//go:build linux

package mem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/cgroup"
)

// events is a file by which the kernel tells that something has happened to a cgroup's memory.
type events struct {
	file *os.File
	// happened takes up what was told, if anything was.
	happened func(fd int) (bool, error)
}

func openEvents(dir cgroup.Dir) (*events, error) {
	if dir.Version() == cgroup.V2 {
		return openNotified(filepath.Join(dir.Path(), "memory.events"))
	}
	return openEventfd(dir)
}

// openEventfd registers for OOM notifications (cgroup-v1/memory.rst, section 10).
func openEventfd(dir cgroup.Dir) (*events, error) {
	fds, err := openNotifiers(dir, "memory.oom_control", "")
	if err != nil {
		return nil, err
	}
	return &events{os.NewFile(uintptr(fds[0]), "oom events"), counted}, nil
}

// counted reads an eventfd.
func counted(fd int) (bool, error) {
	var count [8]byte
	_, err := unix.Read(fd, count[:])
	if errors.Is(err, unix.EAGAIN) {
		return false, nil
	}
	return err == nil, err
}

// openNotifiers returns eventfds that count what a file of v1 notifies of, one for each argument.
// ErrNotFound: there is no such file.
func openNotifiers(dir cgroup.Dir, file string, arguments ...string) (fds []int, err error) {
	source, err := open(dir.Path()+"/"+file, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(source) // a registration holds the cgroup's file by itself
	control, err := open(dir.Path()+"/cgroup.event_control", unix.O_WRONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(control)
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(fds))
		}
	}()
	for _, argument := range arguments {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return fds, fmt.Errorf("eventfd: %w", err)
		}
		fds = append(fds, fd)
		if _, err := unix.Write(control, fmt.Appendf(nil, "%d %d %s", fd, source, argument)); err != nil {
			return fds, &os.PathError{Op: "write", Path: dir.Path() + "/cgroup.event_control", Err: err}
		}
	}
	return fds, nil
}

// open opens a file of a cgroup. ErrNotFound: there is none.
func open(path string, flags int) (fd int, err error) {
	fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w: %w", container.ErrNotFound, err)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

func closeAll(fds []int) error {
	var errs []error
	for _, fd := range fds {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}

// openNotified opens a file of whose changes the kernel tells who polls it (cgroup-v2.rst,
// "memory.events"). Not by inotify: a user may have 128 instances of that, where nobody has
// raised the bound, and there can be more containers.
func openNotified(path string) (*events, error) {
	fd, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	e := &events{os.NewFile(uintptr(fd), path), notified}
	if err := takeUp(fd); err != nil { // that it is new is an event, too
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

// notified reports whether the file has changed since it was read.
func notified(fd int) (bool, error) {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
	n, err := unix.Poll(poll, 0)
	switch {
	case errors.Is(err, unix.EINTR):
		return false, nil
	case err != nil || n == 0:
		return false, err
	}
	return true, takeUp(fd)
}

// takeUp reads the file, of which only that it was read counts.
func takeUp(fd int) error {
	_, err := unix.Pread(fd, make([]byte, 1), 0)
	if errors.Is(err, unix.ENODEV) { // the cgroup is gone, as who looks at it sees
		return nil
	}
	return err
}

// A kill is looked for so many times, at such a distance, after an event.
const (
	looks     = 100
	lookPause = 10 * time.Millisecond
)

// wait reports whether there was an event before ctx ended or, if another look is due
// soon, before that.
func (e *events) wait(ctx context.Context, soon bool) (bool, error) {
	var deadline time.Time // none
	if soon {
		deadline = time.Now().Add(lookPause)
	}
	if err := e.file.SetReadDeadline(deadline); err != nil {
		return false, err
	}
	// A deadline in the past ends the read.
	stop := context.AfterFunc(ctx, func() { e.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := e.file.SyscallConn()
	if err != nil {
		return false, err
	}
	var event bool
	var failure error
	// The runtime calls this, too, when it has been told that there may be something.
	err = raw.Read(func(fd uintptr) bool {
		event, failure = e.happened(int(fd))
		return event || failure != nil
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false, nil
	}
	return event, errors.Join(err, failure)
}

func (e *events) close() error { return e.file.Close() }
