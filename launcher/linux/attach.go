//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/atomicfile"
	"berth/launcher"
)

// A record of an init process has the time of its start, too, so that no later process of
// the same number is taken for it.
func (l *Launcher) recordInit(id container.ID, pid int) error {
	began, err := startTime(pid)
	if err != nil {
		return err
	}
	return atomicfile.Write(l.Layout.Container(id).Pid(), fmt.Appendf(nil, "%d %s\n", pid, began), 0o600, false)
}

// startTime returns when a process began, in ticks since the boot (proc_pid_stat(5)).
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	// The name of the program, in parentheses, may have anything in it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const field = 22 - 3 // the first one after the name is the third
	if len(fields) <= field {
		return "", fmt.Errorf("/proc/%d/stat has only %d fields", pid, len(fields))
	}
	return fields[field], nil
}

// openRecorded returns a pidfd of the recorded init process. ErrNotFound: it has ended, or
// nothing that could be read was recorded.
func (l *Launcher) openRecorded(id container.ID) (pid int, pidFD *os.File, err error) {
	gone := fmt.Errorf("the init process of container %s: %w", id, container.ErrNotFound)
	data, err := os.ReadFile(l.Layout.Container(id).Pid())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil, gone
	}
	if err != nil {
		return 0, nil, err
	}
	var began string
	if n, _ := fmt.Sscan(string(data), &pid, &began); n < 2 || pid <= 0 {
		return 0, nil, gone
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return 0, nil, gone
	}
	if err != nil {
		return 0, nil, fmt.Errorf("the init process of container %s: pidfd_open: %w", id, err)
	}
	pidFD = os.NewFile(uintptr(fd), "init process")
	// Only now: what the descriptor stands for can change no more.
	if now, err := startTime(pid); err != nil || now != began {
		return 0, nil, errors.Join(gone, pidFD.Close())
	}
	return pid, pidFD, nil
}

// Attach implements launcher.Launcher.
func (l *Launcher) Attach(_ context.Context, id container.ID) (launcher.Process, error) {
	pid, pidFD, err := l.openRecorded(id)
	if err != nil {
		return nil, err
	}
	group, err := l.Group(id)
	if err != nil {
		return nil, errors.Join(err, pidFD.Close())
	}
	l.groups.Store(id, group)
	a := &attached{pid: pid, pidFD: pidFD, done: make(chan struct{})}
	go a.watch() // ends with the process
	return a, nil
}

// attached is a berth-init that another process has forked.
type attached struct {
	pid   int
	pidFD *os.File
	done  chan struct{}
	err   error
}

func (a *attached) Pid() int { return a.pid }

func (a *attached) Release(context.Context) error { return nil }

// watch closes done when the process has ended.
func (a *attached) watch() {
	defer close(a.done)
	a.err = errors.Join(awaitEnd(a.pidFD), a.pidFD.Close())
}

// awaitEnd waits for the end of a process without a thread of its own, which would cost more
// memory than all else that berth has of a container. The descriptor does not block.
func awaitEnd(pidFD *os.File) error {
	raw, err := pidFD.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
}

// Wait implements launcher.Process.
func (a *attached) Wait(ctx context.Context) error {
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Signal implements launcher.Process.
func (a *attached) Signal(s os.Signal) error {
	number, ok := s.(unix.Signal)
	if !ok {
		return fmt.Errorf("signal %v: %w: it has no number", s, container.ErrInvalid)
	}
	raw, err := a.pidFD.SyscallConn()
	if err != nil {
		return err
	}
	closed := raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), number, nil, 0) })
	if closed != nil || errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %v: the container has ended: %w", s, container.ErrNotFound)
	}
	return err
}
