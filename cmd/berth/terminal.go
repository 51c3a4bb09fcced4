//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/term"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/pty"
)

// terminal joins berth's own terminal, if it has one, with that of the container.
type terminal struct {
	// receiver gets the master when the container has been launched; sender goes with the
	// request. Of a container of the agent there are none.
	receiver, sender *os.File
	interactive      bool
	keys             io.Reader // what the user types; nil: os.Stdin

	master master
	cooked *term.State // how the user's terminal was; nil: it was not changed
	copied chan error  // has the end of the output
	stop   chan struct{}
	follow sync.WaitGroup
}

// master speaks for the user at the container's terminal, as a pty.Master does.
type master interface {
	io.ReadWriteCloser
	Resize(pty.Size) error
	Finish()
}

// newTerminal returns what stands between both terminals. The size of the container's, if
// info does not say it, is that of berth's own.
func newTerminal(interactive bool, info *v1.TTYInfo) (*terminal, error) {
	if interactive && !term.IsTerminal(int(os.Stdin.Fd())) {
		return nil, fmt.Errorf("-t with -i: %w: berth's standard input is no terminal; leave out -t to give the command what comes from a pipe or a file", container.ErrFailedPrecondition)
	}
	if size, ok := ownSize(); ok && info.WindowSize == nil {
		info.WindowSize = &v1.TTYInfo_WindowSize{Rows: proto.Uint32(uint32(size.Rows)), Columns: proto.Uint32(uint32(size.Columns))}
	}
	return &terminal{interactive: interactive}, nil
}

// ownSize is that of the terminal at which the user sits.
func ownSize() (pty.Size, bool) {
	for _, f := range []*os.File{os.Stdout, os.Stdin, os.Stderr} {
		if columns, rows, err := term.GetSize(int(f.Fd())); err == nil {
			return pty.Size{Rows: uint16(rows), Columns: uint16(columns)}, true
		}
	}
	return pty.Size{}, false
}

// joinSent joins the terminal that the container's init process has sent.
func (t *terminal) joinSent() error {
	// The init process has closed its own by now.
	if err := t.sender.Close(); err != nil {
		return err
	}
	m, err := pty.Receive(t.receiver)
	if err != nil {
		return err
	}
	return t.join(m)
}

// join begins to copy, once the container was launched. The caller owes a part.
func (t *terminal) join(m master) error {
	t.master = m
	changes := make(chan os.Signal, 8)
	// Caught, SIGPIPE is an error of the write: it must not end berth before the user's
	// terminal is as it was.
	signal.Notify(changes, syscall.SIGWINCH, syscall.SIGPIPE)
	if t.interactive {
		signal.Notify(changes, syscall.SIGTSTP, syscall.SIGCONT)
		if err := t.raw(); err != nil {
			signal.Stop(changes)
			return err
		}
	}
	t.resize() // before any key; and it may have changed since the request
	if t.interactive {
		// Ends with berth: a read of a terminal cannot be cut short.
		go t.copyKeys()
	}
	t.copied, t.stop = make(chan error, 1), make(chan struct{})
	t.follow.Go(func() { t.followChanges(changes) })
	go func() { t.copied <- t.copyOutput() }()
	return nil
}

func (t *terminal) copyKeys() {
	keys := t.keys
	if keys == nil {
		keys = os.Stdin
	}
	_, _ = io.Copy(t.master, keys)
}

// raw has the user's terminal send every key on. It waits, as a job that was stopped, while
// berth is in the background.
func (t *terminal) raw() error {
	before, err := term.MakeRaw(int(os.Stdin.Fd()))
	if err != nil {
		return fmt.Errorf("have the terminal send every key: %w", err)
	}
	if t.cooked == nil {
		t.cooked = before
	}
	return nil
}

// restore makes the user's terminal what it was, also from the background.
func (t *terminal) restore() error {
	if t.cooked == nil {
		return nil
	}
	signal.Ignore(syscall.SIGTTOU)
	defer signal.Reset(syscall.SIGTTOU)
	err := term.Restore(int(os.Stdin.Fd()), t.cooked)
	if errors.Is(err, syscall.EIO) { // the window was closed
		return nil
	}
	return err
}

// copyOutput copies until the container's terminal ends. When nobody reads any more, the
// container's terminal is hung up, as it is when a window is closed.
func (t *terminal) copyOutput() error {
	buffer := make([]byte, 32<<10)
	for {
		n, err := t.master.Read(buffer)
		if _, err := os.Stdout.Write(buffer[:n]); err != nil {
			return errors.Join(fmt.Errorf("write what the container says: %w", err), t.master.Close())
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the container's terminal: %w", err)
		}
	}
}

// followChanges follows the size of the user's terminal and the job control of the shell
// that berth was started from.
func (t *terminal) followChanges(changes chan os.Signal) {
	defer signal.Stop(changes)
	for {
		select {
		case <-t.stop:
			return
		case s := <-changes:
			switch s {
			case syscall.SIGWINCH:
				t.resize()
			case syscall.SIGTSTP: // sent by somebody: a key would have gone to the container
				_ = t.restore()
				_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
			case syscall.SIGCONT: // the shell may have changed the terminal meanwhile
				_ = t.raw()
				t.resize()
			}
		}
	}
}

// resize gives the container's terminal the size of berth's own. The container may have
// just ended.
func (t *terminal) resize() {
	if size, ok := ownSize(); ok {
		_ = t.master.Resize(size)
	}
}

// part ends the copying, after the container has ended and all that it wrote is written,
// and makes the user's terminal what it was. It may be repeated, and called whatever has
// become of the launch.
func (t *terminal) part() error {
	var errs []error
	if t.copied != nil {
		t.master.Finish()
		if err := <-t.copied; err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.EIO) {
			errs = append(errs, err)
		}
		close(t.stop)
		t.follow.Wait()
		t.copied = nil
	}
	return errors.Join(append(errs, t.restore())...)
}
