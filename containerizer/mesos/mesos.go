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
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/internal/follow"
	"berth/isolator"
	"berth/launcher"
	"berth/provisioner"
	"berth/state"
)

// Fetcher brings into a sandbox what a command wants there.
type Fetcher interface {
	// Fetch fetches the URIs of config's command into the directory sandbox, for a user of a
	// container with these ids, and returns when they are there or ctx has ended.
	Fetch(ctx context.Context, config *v1.ContainerConfig, sandbox string, uid, gid uint32, ids container.IDRange) error
}

// Ranges chooses who the users of containers with user namespaces are on the host.
type Ranges interface {
	// Choose returns the range that is asked for, or else one that overlaps none of taken,
	// which others have. ErrInvalid: the range is none for a container. ErrUnavailable: all are
	// taken. ErrFailedPrecondition: the host has none.
	Choose(asked *v1.UserNamespaceInfo, taken []container.IDRange) (container.IDRange, error)
}

// Options are what a Containerizer is made of.
type Options struct {
	Layout      state.Layout
	Provisioner *provisioner.Provisioner
	Launcher    launcher.Launcher
	// Isolators are prepared in this order and cleaned up in the reverse one.
	Isolators []isolator.Isolator
	// Check refuses, before anything is made for it, a request that would not be carried out
	// whole, and an update likewise; nil: none is.
	Check func(*isolator.Container) error
	// Fetcher may be nil: then a command with URIs is refused.
	Fetcher Fetcher
	// Ranges may be nil: then user namespaces are refused.
	Ranges Ranges
	// SandboxDirectory is where a container with an image finds its sandbox.
	SandboxDirectory string
	// Agent: Recover takes up again the containers whose keeper is the agent. One process
	// at a time may be it.
	Agent bool
	// Observe is told what has happened, one event at a time of each container; nil: nobody
	// is. It must not wait.
	Observe func(containerizer.Event)
	Log     *slog.Logger
}

// Containerizer implements containerizer.Containerizer.
type Containerizer struct {
	Options

	follow follow.Hub

	turn chan struct{} // who of this process may have the lock of the runtime directory

	mu         sync.Mutex
	containers map[container.ID]*entry
	// ids are the records of ids that this process has written of containers whose keeper it
	// still is.
	ids map[container.ID]idsRecord
}

var _ containerizer.Containerizer = (*Containerizer)(nil)

// entry is a container that this process looks after.
type entry struct {
	launch *launch
	cancel context.CancelCauseFunc
	// launched is closed when the launch has ended, done when nothing is left of the
	// container; termination and err are set before.
	launched, done chan struct{}
	termination    container.Termination
	ended          time.Time
	err            error

	// Of these the Containerizer's mu has the say. No child comes to be added to a
	// container that is closing.
	children []*entry
	closing  bool
}

func newEntry(l *launch, cancel context.CancelCauseFunc) *entry {
	return &entry{launch: l, cancel: cancel, launched: make(chan struct{}), done: make(chan struct{})}
}

// awaitLaunch returns when the launch has ended, or with the cause of the end of ctx.
func (e *entry) awaitLaunch(ctx context.Context) error {
	select {
	case <-e.launched:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// New returns the containerizer.
func New(o Options) *Containerizer {
	if o.Check == nil {
		o.Check = func(*isolator.Container) error { return nil }
	}
	return &Containerizer{Options: o, turn: make(chan struct{}, 1), containers: make(map[container.ID]*entry), ids: make(map[container.ID]idsRecord)}
}

// errDestroyed ends a launch whose container is being destroyed.
var errDestroyed = errors.New("the container was destroyed during its launch")

// Launch implements containerizer.Containerizer.
func (c *Containerizer) Launch(ctx context.Context, id container.ID, req containerizer.Request) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	e := newEntry(c.newLaunch(id), cancel)
	e.launch.req = req
	if err := c.add(e); err != nil {
		return fmt.Errorf("launch %s: %w", id, err)
	}
	if err := e.launch.run(ctx, e.launch.phases()); err != nil {
		e.err = err
		c.remove(e)
		c.tell(containerizer.Event{Kind: containerizer.LaunchFailed, ID: id, Err: err})
		close(e.launched)
		close(e.done)
		return err
	}
	close(e.launched)
	c.tell(containerizer.Event{Kind: containerizer.Launched, ID: id})
	go c.supervise(e) // ends with the container
	return nil
}

// add takes an entry in, below its parent.
func (c *Containerizer) add(e *entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := e.launch.id
	if _, ok := c.containers[id]; ok {
		return fmt.Errorf("%w: choose another name, or remove that container", container.ErrExists)
	}
	if parentID, nested := id.Parent(); nested {
		parent, ok := c.containers[parentID]
		switch {
		case !ok:
			return fmt.Errorf("its parent %s: %w among the containers of this process", parentID, container.ErrNotFound)
		case parent.closing || !closed(parent.launched):
			return fmt.Errorf("its parent %s: %w: it does not run", parentID, container.ErrFailedPrecondition)
		}
		e.launch.parent = parent.launch
		parent.children = append(parent.children, e)
	}
	c.containers[id] = e
	return nil
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// remove takes an entry and those nested in it out; there may be new ones of the same ids
// already.
func (c *Containerizer) remove(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if parentID, nested := e.launch.id.Parent(); nested && c.containers[parentID] != nil {
		parent := c.containers[parentID]
		parent.children = slices.DeleteFunc(parent.children, func(child *entry) bool { return child == e })
	}
	c.removeTree(e)
}

func (c *Containerizer) removeTree(e *entry) {
	for _, child := range e.children {
		c.removeTree(child)
	}
	if c.containers[e.launch.id] == e {
		delete(c.containers, e.launch.id)
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
	l.watch.whenFound(func() { // an isolator ends the container
		if err := l.end(ctx); err != nil {
			l.log.Error("end a container that exceeded a limit", slog.Any("error", err))
		}
	})
	waitErr := l.process.Wait(ctx)
	l.setState(container.Destroying)
	// Before the cgroup goes, which has the cause.
	limitation, watchErr := l.watch.end()
	status, statusErr := l.readStatus()
	e.termination = container.Termination{Status: status, Limitation: limitation}
	if limitation != nil {
		e.termination.Message = limitation.Message
	}
	e.ended = time.Now()
	e.err = errors.Join(waitErr, watchErr, statusErr, l.recordTermination(e.termination, e.ended), c.finish(ctx, e))
	c.tell(containerizer.Event{Kind: containerizer.Ended, ID: l.id, Termination: &e.termination, Err: e.err})
	close(e.done)
}

// finish destroys what is nested in a container whose init process has ended, and then
// what is left of itself.
func (c *Containerizer) finish(ctx context.Context, e *entry) error {
	if err := c.destroyChildren(ctx, e); err != nil {
		return e.launch.leave(err)
	}
	return e.launch.undoAll(ctx)
}

// destroyChildren ends what is nested in a container; nothing more comes to be.
func (c *Containerizer) destroyChildren(ctx context.Context, e *entry) error {
	c.mu.Lock()
	e.closing = true
	children := slices.Clone(e.children)
	c.mu.Unlock()
	errs := make([]error, len(children))
	var all sync.WaitGroup
	for i, child := range children {
		all.Go(func() { _, errs[i] = c.destroy(ctx, child) })
	}
	all.Wait()
	return errors.Join(errs...)
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
		if !e.launch.settles() {
			c.remove(e)
		}
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
	return l.process.Signal(cmp.Or(l.made.StopSignal, syscall.SIGTERM))
}

// launched waits until a container has a process.
func (c *Containerizer) launched(ctx context.Context, id container.ID) (*launch, error) {
	e, err := c.find(id)
	if err != nil {
		return nil, err
	}
	if err := e.awaitLaunch(ctx); err != nil {
		return nil, err
	}
	if e.launch.process == nil {
		return nil, fmt.Errorf("container %s: %w: it has no process", id, container.ErrNotFound)
	}
	return e.launch, nil
}

// Destroy implements containerizer.Containerizer.
func (c *Containerizer) Destroy(ctx context.Context, id container.ID) (bool, error) {
	e, err := c.find(id)
	if err != nil {
		return c.destroyRecorded(ctx, id)
	}
	return c.destroy(ctx, e)
}

// destroy ends a container in whatever state it is, after those nested in it.
func (c *Containerizer) destroy(ctx context.Context, e *entry) (bool, error) {
	e.cancel(errDestroyed)
	if err := e.awaitLaunch(ctx); err != nil {
		return true, err
	}
	e.launch.setState(container.Destroying)
	if err := c.destroyChildren(ctx, e); err != nil {
		return true, fmt.Errorf("destroy %s: what is nested in it: %w", e.launch.id, err)
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
		return c.destroyRecorded(ctx, e.launch.id)
	}
	return true, nil
}

// Containers implements containerizer.Containerizer.
func (c *Containerizer) Containers() []container.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := make([]container.ID, 0, len(c.containers))
	for id := range c.containers {
		ids = append(ids, id)
	}
	// A parent's id begins that of its child.
	slices.SortFunc(ids, func(a, b container.ID) int { return cmp.Compare(a.String(), b.String()) })
	return ids
}

// Remove implements containerizer.Containerizer.
func (c *Containerizer) Remove(ctx context.Context, id container.ID) error {
	e, err := c.find(id)
	if errors.Is(err, container.ErrNotFound) && c.recorded(id) {
		return fmt.Errorf("remove container %s: %w: it belongs to another berth process, or has not been taken up again", id, container.ErrFailedPrecondition)
	}
	if errors.Is(err, container.ErrNotFound) {
		return nil
	}
	if !closed(e.done) || e.launch.left != nil {
		return fmt.Errorf("remove container %s: %w: it has not ended; destroy it first", id, container.ErrFailedPrecondition)
	}
	if e.launch.settles() {
		if err := e.launch.removeSettled(ctx); err != nil {
			return fmt.Errorf("remove container %s: %w", id, err)
		}
	}
	c.remove(e)
	c.tell(containerizer.Event{Kind: containerizer.Removed, ID: id})
	return nil
}
