//go:build linux

package main

import (
	"errors"
	"io"
	"os"

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
	control, err := polled(files.Control)
	if err != nil {
		return step("open the control pipe", err)
	}
	input := files.Input
	if p.Input && s.kept == nil {
		if err := s.leaveInput(); err != nil {
			return step("leave the input to the command", err)
		}
	}
	if p.Input && s.kept != nil {
		if input, err = polled(input); err != nil {
			return step("open the input", err)
		}
		go typeAt(s.kept, input)
	}
	go obey(control, input, s.kept)
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

// typeAt types what comes by the pipe.
func typeAt(t *terminal, typed *os.File) {
	buffer := make([]byte, typeBuffer)
	for {
		n, err := typed.Read(buffer)
		if err != nil {
			return
		}
		if _, err := t.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// obey does what the Controls say. A size that the terminal does not take is that of a
// command that has ended.
func obey(control, input *os.File, t *terminal) {
	var text [plan.ControlSize]byte
	for {
		if _, err := io.ReadFull(control, text[:]); err != nil {
			return
		}
		switch c := plan.DecodeControl(text); {
		case t == nil && c.CloseInput:
			input.Close()
		case t != nil && !c.CloseInput:
			_ = t.Resize(pty.Size{Rows: c.Rows, Columns: c.Columns})
		}
	}
}
