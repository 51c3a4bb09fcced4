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

// events is a file that becomes readable when something happens to a cgroup's memory:
// an eventfd on v1, inotify on v2.
type events struct {
	file *os.File
}

func openEvents(dir cgroup.Dir) (*events, error) {
	if dir.Version() == cgroup.V2 {
		return openInotify(filepath.Join(dir.Path(), "memory.events"))
	}
	return openEventfd(dir)
}

// openEventfd registers for OOM notifications (cgroup-v1/memory.rst, section 10).
func openEventfd(dir cgroup.Dir) (*events, error) {
	fd, err := openNotifier(dir, "memory.oom_control", "")
	if err != nil {
		return nil, err
	}
	return &events{os.NewFile(uintptr(fd), "oom events")}, nil
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

// openInotify watches a file whose changes the kernel reports as modifications
// (cgroup-v2.rst, "memory.events").
func openInotify(path string) (*events, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify_init1: %w", err)
	}
	e := &events{os.NewFile(uintptr(fd), "memory events")}
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY|unix.IN_DELETE_SELF); err != nil {
		return nil, errors.Join(&os.PathError{Op: "inotify_add_watch", Path: path, Err: err}, e.close())
	}
	return e, nil
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
	// An event of inotify has no name here, and a counter eight bytes.
	buffer := make([]byte, 16*unix.SizeofInotifyEvent)
	_, err := e.file.Read(buffer)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false, nil
	}
	return err == nil, err
}

func (e *events) close() error { return e.file.Close() }
