//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"berth/container"
	"berth/containerizer"
	"berth/internal/follow"
	"berth/launcher/plan"
)

// AttachOutput implements containerizer.Streams.
func (c *Containerizer) AttachOutput(ctx context.Context, id container.ID, stream containerizer.Stream, from containerizer.Position) (io.ReadCloser, error) {
	e, err := c.find(id)
	if err != nil {
		return nil, err
	}
	if err := e.awaitLaunch(ctx); err != nil {
		return nil, err
	}
	made, err := e.launch.recordedStreams()
	if err != nil {
		return nil, fmt.Errorf("attach to the %s of %s: %w", stream, id, err)
	}
	if made.Terminal && stream == containerizer.Stderr {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if !slices.Contains(made.Files, stream) {
		return nil, fmt.Errorf("attach to the %s of %s: %w: it is not a file of the sandbox, but goes where its launch said", stream, id, container.ErrFailedPrecondition)
	}
	r, err := c.follow.Open(follow.Log{Dir: c.Layout.Sandbox(id), Name: string(stream), Files: made.MaxFiles, Ended: e.done}, from == containerizer.FromNow)
	if err != nil {
		return nil, fmt.Errorf("attach to the %s of %s: %w", stream, id, err)
	}
	return output{r}, nil
}

// recordedStreams reads how the streams were made, of a container that may have ended.
func (l *launch) recordedStreams() (streams, error) {
	var m made
	err := readRecord(l.records.Launch(), m.parse)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: it has ended, or was not launched", container.ErrNotFound)
	}
	return m.Streams, err
}

// output is an output in the words of the contract.
type output struct{ *follow.Reader }

func (o output) Read(p []byte) (int, error) {
	n, err := o.Reader.Read(p)
	if errors.Is(err, follow.ErrLost) {
		err = containerizer.ErrLost
	}
	return n, err
}

// AttachInput implements containerizer.Streams.
func (c *Containerizer) AttachInput(ctx context.Context, id container.ID) (_ containerizer.Input, err error) {
	l, err := c.running(ctx, id)
	if err != nil {
		return nil, err
	}
	if !l.made.Streams.Input {
		return nil, fmt.Errorf("attach to the input of %s: %w: it was launched without one", id, container.ErrFailedPrecondition)
	}
	if !l.written.CompareAndSwap(false, true) {
		return nil, fmt.Errorf("attach to the input of %s: %w: somebody is attached to it, and there is one writer at a time", id, container.ErrExists)
	}
	pipe, err := os.OpenFile(l.records.Input(), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		l.written.Store(false)
		return nil, fmt.Errorf("attach to the input of %s: %w", id, orClosed(err))
	}
	return &input{launch: l, pipe: pipe}, nil
}

// input writes to the pipe that is the command's input, or leads to its terminal.
type input struct {
	launch *launch
	pipe   *os.File
	close  sync.Once
}

// Write implements containerizer.Input.
func (i *input) Write(p []byte) (int, error) {
	n, err := i.pipe.Write(p)
	return n, orClosed(err)
}

// orClosed says in the words of the contract that a pipe is not there any more, or that nobody
// reads it.
func orClosed(err error) error {
	for _, closed := range []error{syscall.EPIPE, syscall.ENXIO, syscall.ENOENT} {
		if errors.Is(err, closed) {
			return containerizer.ErrClosed
		}
	}
	return err
}

// CloseWrite implements containerizer.Input. The pipe loses its name last, so that what was
// interrupted can be repeated.
func (i *input) CloseWrite() error {
	if i.launch.made.Streams.Terminal {
		return nil
	}
	err := i.launch.control(plan.Control{CloseInput: true})
	if err == nil {
		err = os.Remove(i.launch.records.Input())
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = i.pipe.Close()
	}
	if err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close the input of %s: %w", i.launch.id, err)
	}
	return nil
}

// Close implements containerizer.Input.
func (i *input) Close() (err error) {
	i.close.Do(func() {
		if err = i.pipe.Close(); errors.Is(err, os.ErrClosed) { // by CloseWrite
			err = nil
		}
		i.launch.written.Store(false)
	})
	return err
}

// Resize implements containerizer.Streams.
func (c *Containerizer) Resize(ctx context.Context, id container.ID, rows, columns uint16) error {
	l, err := c.running(ctx, id)
	if err != nil {
		return err
	}
	if !l.made.Streams.Terminal {
		return fmt.Errorf("resize the terminal of %s: %w: it has none, or one that somebody else holds", id, container.ErrFailedPrecondition)
	}
	if err := l.control(plan.Control{Rows: rows, Columns: columns}); err != nil {
		return fmt.Errorf("resize the terminal of %s: %w", id, err)
	}
	return nil
}

var errControlEnded = fmt.Errorf("%w: the container has ended", container.ErrNotFound)

// control tells berth-init something.
func (l *launch) control(c plan.Control) error {
	// Without the runtime's poller: it is not to wait.
	pipe, err := syscall.Open(l.records.Control(), syscall.O_WRONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.ENOENT) {
		return errControlEnded
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: l.records.Control(), Err: err}
	}
	_, err = syscall.Write(pipe, c.Encode())
	switch {
	case errors.Is(err, syscall.EPIPE):
		err = errControlEnded
	case errors.Is(err, syscall.EAGAIN):
		err = fmt.Errorf("%w: the container's init process does not listen", container.ErrUnavailable)
	}
	return errors.Join(err, syscall.Close(pipe))
}
