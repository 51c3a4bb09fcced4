//go:build linux

package mem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
	fd, err := openNotifier(dir, "memory.oom_control", "")
	if err != nil {
		return nil, err
	}
	return &events{os.NewFile(uintptr(fd), "oom events"), counted}, nil
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

// openNotifier returns an eventfd that counts what a file of v1 notifies of.
func openNotifier(dir cgroup.Dir, file, argument string) (int, error) {
	control, err := os.Open(filepath.Join(dir.Path(), file))
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: %w", container.ErrNotFound, err)
	}
	if err != nil {
		return -1, err
	}
	defer control.Close() // the registration holds the cgroup's file by itself
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, fmt.Errorf("eventfd: %w", err)
	}
	if err := dir.Write("cgroup.event_control", strings.TrimSpace(fmt.Sprintf("%d %d %s", fd, control.Fd(), argument))); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// openNotified opens a file of whose changes the kernel tells who polls it (cgroup-v2.rst,
// "memory.events"). Not by inotify: a user may have 128 instances of that, where nobody has
// raised the bound, and there can be more containers.
func openNotified(path string) (*events, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w: %w", container.ErrNotFound, err)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
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
