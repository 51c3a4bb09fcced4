//go:build !linux

package processes

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"berth/container"
)

// Handle stands for one process. It is to be closed.
type Handle struct {
	ID

	ending
}

// Open returns a handle of a process. ErrNotFound: it has ended.
func Open(id ID) (*Handle, error) {
	h := &Handle{ID: id, ending: newEnding()}
	return h, h.alive()
}

// OpenChild returns a handle of a child of this process that nobody has waited for.
func OpenChild(pid int) (*Handle, error) {
	now, err := find(pid)
	if err != nil {
		return nil, err
	}
	return Open(now.ID)
}

func (h *Handle) alive() error {
	if now, err := find(h.Pid); err != nil || now.ID != h.ID || now.Dead {
		return gone(h.ID)
	}
	return nil
}

// Close gives the handle up.
func (h *Handle) Close() error { return nil }

// Signal sends a signal. ErrNotFound: the process has ended. That its number becomes
// another one's between the look and the signal cannot be excluded here.
func (h *Handle) Signal(s os.Signal) error {
	number, ok := s.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal %v: %w: it has no number", s, container.ErrInvalid)
	}
	if err := h.alive(); err != nil {
		return err
	}
	err := syscall.Kill(h.Pid, number)
	if errors.Is(err, syscall.ESRCH) {
		return gone(h.ID)
	}
	return err
}

// Await waits for the end of the process: the kernel tells of it (kqueue(2), EVFILT_PROC).
func (h *Handle) Await() error {
	queue, err := unix.Kqueue()
	if err != nil {
		return fmt.Errorf("kqueue: %w", err)
	}
	defer unix.Close(queue)
	var exit unix.Kevent_t
	unix.SetKevent(&exit, h.Pid, unix.EVFILT_PROC, unix.EV_ADD|unix.EV_ONESHOT)
	exit.Fflags = unix.NOTE_EXIT
	if _, err := unix.Kevent(queue, []unix.Kevent_t{exit}, nil, nil); errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return fmt.Errorf("kevent: %w", err)
	}
	if h.alive() != nil {
		return nil
	}
	for {
		if _, err := unix.Kevent(queue, nil, make([]unix.Kevent_t, 1), nil); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
