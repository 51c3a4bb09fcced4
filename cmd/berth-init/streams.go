//go:build linux

package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"berth/internal/mount"
	"berth/internal/pty"
	"berth/launcher/plan"
)

// streams are the standard streams of the command.
type streams struct {
	files    [3]uintptr
	terminal *os.File   // what all of them are, or nil
	kept     *terminal  // that, if this process is to keep it
	given    []*os.File // those that only the command needs
}

// standardStreams are those of this process.
func standardStreams() streams { return streams{files: [3]uintptr{0, 1, 2}} }

// take makes a file a stream of the command alone.
func (s *streams) take(stream int, f *os.File) {
	s.files[stream] = f.Fd()
	s.given = append(s.given, f)
}

// close closes what only the command needs.
func (s *streams) close() error {
	var errs []error
	for _, f := range s.given {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// terminal is a pseudo terminal that this process keeps. The end of the command is kept
// open, too: a command that has closed its own can open it again, and is heard.
type terminal struct {
	*pty.Master
	peer *os.File
}

// Close closes both ends.
func (t *terminal) Close() error { return errors.Join(t.Master.Close(), t.peer.Close()) }

// terminal makes the terminal of the container, of its own devpts, and keeps the master or
// sends it out. On the way out nothing of the container's is looked at: who receives it has
// only a descriptor, whose other end cannot be changed.
func (r *root) terminal(p plan.Plan, s *streams, sender *os.File) error {
	size := pty.Size{Rows: p.Terminal.Rows, Columns: p.Terminal.Columns}
	master, peer, err := pty.Open(r.fd, p.Terminal.Multiplexer, size, p.Command.UID)
	if err != nil {
		return err
	}
	defer master.Close()
	if p.Terminal.Console != "" {
		if err := step("mount "+p.Terminal.Console, r.console(p.Terminal.Console, peer)); err != nil {
			return err
		}
	}
	s.terminal = peer
	for stream := range s.files {
		s.files[stream] = peer.Fd()
	}
	if p.Terminal.Kept {
		return s.keep(master)
	}
	s.given = []*os.File{peer}
	return pty.Send(sender, master)
}

// keep makes the terminal one of this process.
func (s *streams) keep(master *os.File) error {
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	m, err := pty.NewMaster(fd)
	if err != nil {
		return err
	}
	s.kept = &terminal{m, s.terminal}
	return nil
}

// console mounts the open terminal, not what has its name.
func (r *root) console(path string, terminal *os.File) error {
	d, err := mount.CloneFD(int(terminal.Fd()), false)
	if err != nil {
		return err
	}
	defer d.Close()
	target, err := r.make(path, false, true)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return d.AttachAt(target)
}
