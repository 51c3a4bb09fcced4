package initproc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"berth/container"
	"berth/internal/processes"
	"berth/launcher"
	"berth/launcher/plan"
)

// Process is a berth-init that this process has forked. It implements launcher.Process.
type Process struct {
	process *os.Process
	release *os.File // write end
	report  *os.File // read end

	end end
}

// Pid implements launcher.Process.
func (p *Process) Pid() int { return p.process.Pid }

func (p *Process) closeChannels() error {
	var errs []error
	for _, f := range []*os.File{p.release, p.report} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Abandon ends a process that was not released: the end of the pipe tells it.
func (p *Process) Abandon(ctx context.Context) error {
	return errors.Join(p.closeChannels(), p.Wait(ctx))
}

// Release implements launcher.Process.
func (p *Process) Release(ctx context.Context) error {
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
func (p *Process) Wait(ctx context.Context) error {
	return p.end.wait(ctx, func() error {
		err := p.awaitEnd()
		if err == nil {
			_, err = p.process.Wait() // which has ended
		}
		return err
	})
}

// end is that of a process, for which several may wait.
type end struct {
	awaited atomic.Bool
	done    chan struct{}
	err     error
}

func newEnd() end { return end{done: make(chan struct{})} }

// wait returns when await has returned, which is called once, or ctx has ended. Of a container
// that idles somebody waits all the time, who never gives up: so that one awaits the end itself,
// as a goroutine more is memory for each container.
func (e *end) wait(ctx context.Context, await func() error) error {
	if e.awaited.CompareAndSwap(false, true) {
		take := func() { // ends with the process
			defer close(e.done)
			e.err = await()
		}
		if ctx.Done() == nil {
			take()
		} else {
			go take()
		}
	}
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// awaitEnd waits until there is something to reap, of a child that nobody else reaps.
func (p *Process) awaitEnd() error {
	h, err := processes.OpenChild(p.Pid())
	if err != nil {
		return err
	}
	return errors.Join(h.Await(), h.Close())
}

// Signal implements launcher.Process.
func (p *Process) Signal(s os.Signal) error {
	err := p.process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		return ended(s)
	}
	return err
}

func ended(s os.Signal) error {
	return fmt.Errorf("signal %v: the container has ended: %w", s, container.ErrNotFound)
}

// attached is a berth-init that another process has forked and released.
type attached struct {
	handle *processes.Handle
	end    end
}

// Pid implements launcher.Process.
func (a *attached) Pid() int { return a.handle.Pid }

// Release implements launcher.Process.
func (a *attached) Release(context.Context) error { return nil }

// Wait implements launcher.Process.
func (a *attached) Wait(ctx context.Context) error {
	return a.end.wait(ctx, func() error { return errors.Join(a.handle.Await(), a.handle.Close()) })
}

// Signal implements launcher.Process.
func (a *attached) Signal(s os.Signal) error {
	err := a.handle.Signal(s)
	if errors.Is(err, container.ErrNotFound) {
		return ended(s)
	}
	return err
}
