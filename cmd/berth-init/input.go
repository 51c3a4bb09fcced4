//go:build linux

package main

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"berth/internal/pty"
	"berth/launcher/plan"
)

// typeBuffer is how much is typed at a time.
const typeBuffer = 4 << 10

// startInput keeps the input of the command open, or types at its terminal, and does what
// the pipe of Controls says, all of it while the command runs. What that pipe says may come from the
// container, through /proc/1/fd: it is about the container's own.
func startInput(p plan.Plan, files plan.Files, s *streams) error {
	if !p.Input && s.kept == nil {
		return errors.Join(files.Input.Close(), files.Control.Close())
	}
	pipe, err := polled(files.Control)
	if err != nil {
		return step("open the control pipe", err)
	}
	conn, err := pipe.SyscallConn()
	if err != nil {
		return step("open the control pipe", err)
	}
	c := &controls{pipe: conn, input: files.Input, terminal: s.kept}
	switch {
	case p.Input && s.kept == nil:
		if err := s.leaveInput(); err != nil {
			return step("leave the input to the command", err)
		}
	case p.Input:
		if c.input, err = polled(files.Input); err != nil {
			return step("open the input", err)
		}
		go c.typeInput()
	}
	go c.obey()
	return nil
}

// leaveInput has the command alone read the input: who writes it is to know when nobody does.
// In its place this process has one that has ended.
func (s *streams) leaveInput() error {
	theirs, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return err
	}
	s.take(0, os.NewFile(uintptr(theirs), "input"))
	ended, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	return errors.Join(unix.Dup3(int(ended.Fd()), 0, 0), ended.Close(), writer.Close())
}

// polled returns the file as one that keeps no thread waiting.
func polled(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(unix.SetNonblock(fd, true), f.Close()); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// controls are what the pipe of Controls says, about the input or the terminal of the command.
type controls struct {
	pipe     syscall.RawConn
	input    *os.File
	terminal *terminal // or nil

	mu sync.Mutex // of who does what has been said
}

// typeInput types what comes by the input at the terminal, each after what was said before it was
// sent.
func (c *controls) typeInput() {
	buffer := make([]byte, typeBuffer)
	for {
		n, err := c.input.Read(buffer)
		if err != nil {
			return
		}
		_ = c.pipe.Control(func(fd uintptr) { c.do(int(fd)) })
		if _, err := c.terminal.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// obey does what is said, until nobody can say anything.
func (c *controls) obey() {
	_ = c.pipe.Read(func(fd uintptr) (ended bool) { return c.do(int(fd)) })
}

// do does what has been said. A size that the terminal does not take is that of a command that
// has ended.
func (c *controls) do(pipe int) (ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var text [plan.ControlSize]byte
		n, err := unix.Read(pipe, text[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || n < len(text):
			return !errors.Is(err, unix.EAGAIN)
		}
		switch said := plan.DecodeControl(text); {
		case c.terminal == nil && said.CloseInput:
			c.input.Close()
		case c.terminal != nil && !said.CloseInput:
			_ = c.terminal.Resize(pty.Size{Rows: said.Rows, Columns: said.Columns})
		}
	}
}
