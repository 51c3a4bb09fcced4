//go:build linux

// Package mesos is the containerizer that composes: a provisioner for the root
// filesystem, isolators for one aspect of isolation each, a launcher for the
// processes. phases.go has the whole launch.
package mesos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"syscall"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/internal/filelock"
	"berth/isolator"
	"berth/launcher"
	"berth/provisioner"
	"berth/state"
)

// Fetcher brings into a sandbox what a command wants there.
type Fetcher interface {
	// Fetch fetches the URIs of config's command into the directory sandbox, for a user, and
	// returns when they are there or ctx has ended.
	Fetch(ctx context.Context, config *v1.ContainerConfig, sandbox string, uid, gid uint32) error
}

// Options are what a Containerizer is made of.
type Options struct {
	Layout      state.Layout
	Provisioner *provisioner.Provisioner
	Launcher    launcher.Launcher
	// Isolators are prepared in this order and cleaned up in the reverse one.
	Isolators []isolator.Isolator
	// Fetcher may be nil: then a command with URIs is refused.
	Fetcher Fetcher
	// SandboxDirectory is where a container with an image finds its sandbox.
	SandboxDirectory string
	Log              *slog.Logger
}

// Containerizer implements containerizer.Containerizer.
type Containerizer struct {
	Options

	mu         sync.Mutex
	containers map[container.ID]*entry
}

var _ containerizer.Containerizer = (*Containerizer)(nil)

// entry is a container that this process has launched or is launching.
type entry struct {
	launch *launch
	cancel context.CancelCauseFunc
	// launched is closed when the launch has ended, done when nothing is left of the
	// container; termination and err are set before.
	launched, done chan struct{}
	termination    container.Termination
	err            error
}

// New returns the containerizer.
func New(o Options) *Containerizer {
	return &Containerizer{Options: o, containers: make(map[container.ID]*entry)}
}

func (c *Containerizer) lockRuntime(ctx context.Context) (*filelock.Lock, error) {
	return filelock.Acquire(ctx, c.Layout.RuntimeLock(), filelock.Exclusive)
}

// errDestroyed ends a launch whose container is being destroyed.
var errDestroyed = errors.New("the container was destroyed during its launch")

// Launch implements containerizer.Containerizer.
func (c *Containerizer) Launch(ctx context.Context, id container.ID, req containerizer.Request) error {
	if _, nested := id.Parent(); nested {
		return fmt.Errorf("launch %s: nested containers: %w", id, container.ErrNotSupported)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	e := &entry{launch: c.newLaunch(id), cancel: cancel, launched: make(chan struct{}), done: make(chan struct{})}
	e.launch.req = req
	if err := c.add(id, e); err != nil {
		return err
	}
	if err := e.launch.run(ctx, e.launch.phases()); err != nil {
		e.err = err
		c.remove(id, e)
		close(e.launched)
		close(e.done)
		return err
	}
	close(e.launched)
	go c.supervise(e) // ends with the container
	return nil
}

func (c *Containerizer) add(id container.ID, e *entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.containers[id]; ok {
		return fmt.Errorf("launch %s: %w", id, container.ErrExists)
	}
	c.containers[id] = e
	return nil
}

// remove takes an entry out; there may be a new one of the same id already.
func (c *Containerizer) remove(id container.ID, e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.containers[id] == e {
		delete(c.containers, id)
	}
}

func (c *Containerizer) find(id container.ID) (*entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.containers[id]
	if !ok {
		return nil, fmt.Errorf("container %s: %w", id, container.ErrNotFound)
	}
	return e, nil
}

// supervise waits for the end of a running container and destroys what is left.
func (c *Containerizer) supervise(e *entry) {
	l := e.launch
	ctx := context.Background()
	go func() {
		select {
		case <-l.watch.first: // an isolator ends the container
			if err := l.end(ctx); err != nil {
				l.log.Error("end a container that exceeded a limit", slog.Any("error", err))
			}
		case <-e.done:
		}
	}()
	waitErr := l.process.Wait(ctx)
	// Before the cgroup goes, which has the cause.
	limitation, watchErr := l.watch.end()
	status, statusErr := l.readStatus()
	e.termination = container.Termination{Status: status, Limitation: limitation}
	if limitation != nil {
		e.termination.Message = limitation.Message
	}
	e.err = errors.Join(waitErr, watchErr, statusErr, l.undoAll(ctx))
	close(e.done)
}

// maxStatus bounds what is read of a status, which has five digits at most. A container
// that can reach the file by /proc/1/fd may have written anything.
const maxStatus = 16

// readStatus reads what the init process left. Without it the init process was itself
// killed, and all others with it.
func (l *launch) readStatus() (*syscall.WaitStatus, error) {
	killed := syscall.WaitStatus(syscall.SIGKILL)
	file, err := os.Open(l.records.Status())
	if errors.Is(err, fs.ErrNotExist) {
		return &killed, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the exit status of %s: %w", l.id, err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxStatus))
	if err == nil && len(text) == 0 {
		return &killed, nil
	}
	var number uint64
	if err == nil {
		number, err = strconv.ParseUint(string(text), 10, 16)
	}
	if err != nil {
		return nil, fmt.Errorf("read the exit status of %s: %w", l.id, err)
	}
	status := syscall.WaitStatus(number)
	return &status, nil
}

// Wait implements containerizer.Containerizer.
func (c *Containerizer) Wait(ctx context.Context, id container.ID) (container.Termination, error) {
	e, err := c.find(id)
	if err != nil {
		return container.Termination{}, err
	}
	select {
	case <-e.done:
		c.remove(id, e)
		return e.termination, e.err
	case <-ctx.Done():
		return container.Termination{}, context.Cause(ctx)
	}
}

// Kill implements containerizer.Containerizer.
func (c *Containerizer) Kill(ctx context.Context, id container.ID, signal os.Signal) error {
	l, err := c.launched(ctx, id)
	if err != nil {
		return err
	}
	return l.process.Signal(signal)
}

// Stop implements containerizer.Containerizer.
func (c *Containerizer) Stop(ctx context.Context, id container.ID) error {
	l, err := c.launched(ctx, id)
	if err != nil {
		return err
	}
	return l.process.Signal(cmp.Or(l.info.StopSignal, syscall.SIGTERM))
}

// launched waits until a container has a process.
func (c *Containerizer) launched(ctx context.Context, id container.ID) (*launch, error) {
	e, err := c.find(id)
	if err != nil {
		return nil, err
	}
	select {
	case <-e.launched:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if e.launch.process == nil {
		return nil, fmt.Errorf("signal container %s: %w: its launch has failed", id, container.ErrNotFound)
	}
	return e.launch, nil
}

// Destroy implements containerizer.Containerizer.
func (c *Containerizer) Destroy(ctx context.Context, id container.ID) (bool, error) {
	e, err := c.find(id)
	if err != nil {
		return c.destroyRecorded(ctx, id)
	}
	e.cancel(errDestroyed)
	select {
	case <-e.launched:
	case <-ctx.Done():
		return true, context.Cause(ctx)
	}
	if err := e.launch.end(ctx); err != nil {
		return true, err
	}
	select {
	case <-e.done: // by supervise, or by the failed launch
	case <-ctx.Done():
		return true, context.Cause(ctx)
	}
	if e.launch.left != nil { // and disowned
		return c.destroyRecorded(ctx, id)
	}
	return true, nil
}
