package processes

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"berth/container"
)

// Handle stands for one process, whatever becomes of its number. It is to be closed.
type Handle struct {
	ID
	fd *os.File // a pidfd

	ending
}

// OpenChild returns a handle of a child of this process that nobody has waited for: its number
// is its own. Its start is not in the ID.
func OpenChild(pid int) (*Handle, error) {
	id := ID{Pid: pid}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, gone(id)
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: pidfd_open: %w", pid, err)
	}
	return &Handle{ID: id, fd: os.NewFile(uintptr(fd), "process"), ending: newEnding()}, nil
}

// Open returns a handle of a process. ErrNotFound: it has ended.
func Open(id ID) (*Handle, error) {
	h, err := OpenChild(id.Pid)
	if err != nil {
		return nil, err
	}
	h.ID = id
	// Only now: what the descriptor stands for can change no more.
	if now, err := find(id.Pid); err != nil || now.ID != id {
		return nil, errors.Join(gone(id), h.fd.Close())
	}
	return h, nil
}

// File is the pidfd; it is the handle's.
func (h *Handle) File() *os.File { return h.fd }

// Close gives the handle up. Nobody may wait any more.
func (h *Handle) Close() error { return h.fd.Close() }

// Signal sends a signal. ErrNotFound: the process has ended.
func (h *Handle) Signal(s os.Signal) error {
	number, ok := s.(unix.Signal)
	if !ok {
		return fmt.Errorf("signal %v: %w: it has no number", s, container.ErrInvalid)
	}
	raw, err := h.fd.SyscallConn()
	if err != nil {
		return err
	}
	closed := raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), number, nil, 0) })
	if closed != nil || errors.Is(err, unix.ESRCH) {
		return gone(h.ID)
	}
	return err
}

// Await waits for the end of the process without a thread of its own, which would cost more
// memory than all else that berth has of a container.
func (h *Handle) Await() error {
	raw, err := h.fd.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool { // which does not block
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
}
