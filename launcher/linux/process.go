//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/launcher"
	"berth/launcher/plan"
)

// process is a berth-init that this process has forked.
type process struct {
	pid     int
	process *os.Process
	release *os.File // write end
	report  *os.File // read end

	reap sync.Once
	done chan struct{}
	err  error
}

func (p *process) Pid() int { return p.pid }

func (p *process) closeChannels() error {
	return errors.Join(p.release.Close(), p.report.Close())
}

// abandon ends a process that was not released: the end of the pipe tells it.
func (p *process) abandon(ctx context.Context) error {
	return errors.Join(p.closeChannels(), p.Wait(ctx))
}

// Release implements launcher.Process.
func (p *process) Release(ctx context.Context) error {
	defer p.closeChannels()
	// Whether the command was executed before ctx ended, the pipe says at once.
	stop := context.AfterFunc(ctx, func() { _ = p.report.SetReadDeadline(time.Now().Add(moment)) })
	defer stop()
	if _, err := p.release.Write([]byte{1}); err != nil {
		return fmt.Errorf("release the container's init process: %w", err)
	}
	report, err := plan.DecodeReport(p.report)
	switch {
	case err == io.EOF: // closed once the command was executed
		return nil
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("wait for the container's init process: %w", err)
	}
	return &launcher.StartError{Message: report.Message, Code: report.Code}
}

// moment is how long Release looks for what has happened already.
const moment = 100 * time.Millisecond

// Wait implements launcher.Process.
func (p *process) Wait(ctx context.Context) error {
	p.reap.Do(func() {
		p.done = make(chan struct{})
		go func() { // ends with the process
			defer close(p.done)
			if err := p.awaitEnd(); err != nil {
				p.err = err
				return
			}
			_, p.err = p.process.Wait() // which has ended
		}()
	})
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// awaitEnd waits until there is something to reap.
func (p *process) awaitEnd() error {
	fd, err := unix.PidfdOpen(p.pid, unix.PIDFD_NONBLOCK) // of a child that nobody else reaps
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	pidFD := os.NewFile(uintptr(fd), "init process")
	return errors.Join(awaitEnd(pidFD), pidFD.Close())
}

// Signal implements launcher.Process.
func (p *process) Signal(s os.Signal) error {
	err := p.process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %v: the container has ended: %w", s, container.ErrNotFound)
	}
	return err
}
