//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/launcher"
	"berth/state"
)

// takeUp takes up again a root container of the agent and those nested in it, as far as
// they run or have ended, and destroys the others. It returns those that run.
func (c *Containerizer) takeUp(ctx context.Context, root *launch) (living []*entry, err error) {
	e, err := c.takeUpOne(ctx, root)
	if e == nil {
		return nil, err
	}
	return c.takeUpChildren(ctx, e)
}

func (c *Containerizer) takeUpChildren(ctx context.Context, e *entry) (living []*entry, err error) {
	if !closed(e.done) {
		living = append(living, e)
	}
	l := e.launch
	children, err := state.Children(l.records.Dir, l.id)
	errs := []error{err}
	for _, id := range children {
		child := c.newLaunch(id)
		child.owned, child.parent, child.req.Keeper = true, l, l.req.Keeper
		found, err := c.takeUpOne(ctx, child)
		errs = append(errs, err)
		if found == nil {
			continue
		}
		e.children = append(e.children, found)
		below, err := c.takeUpChildren(ctx, found)
		living, errs = append(living, below...), append(errs, err)
	}
	return living, errors.Join(errs...)
}

// takeUpOne makes the entry of a container that runs or has ended; nil: it was destroyed.
func (c *Containerizer) takeUpOne(ctx context.Context, l *launch) (*entry, error) {
	termination, ended := l.readTermination()
	if !ended {
		reason := l.restore(ctx)
		if isOfTheHost(reason) {
			return nil, errors.Join(fmt.Errorf("take up container %s again: %w; it runs on, and the next recovery tries again", l.id, reason), l.disown())
		}
		if reason != nil {
			l.log.Info("destroy a container that cannot be taken up again", slog.Any("reason", reason))
			return nil, l.destroyTree(ctx)
		}
	}
	e := newEntry(l, func(error) {})
	close(e.launched)
	if ended {
		l.ended, e.termination, e.ended, l.made.Launched = true, termination.Termination, termination.Ended, termination.Launched
		if !l.settled() { // its destruction was interrupted
			e.err = l.destroyTree(ctx)
		}
		e.closing = true
		close(e.done)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.containers[l.id] = e
	return e, e.err
}

// restore knows again what the process knew that has launched the container. The error
// says why that is not to be: the launch had not returned, a record is torn, or nobody is
// there any more for whom it was.
func (l *launch) restore(ctx context.Context) error {
	name, err := os.ReadFile(l.records.Phase())
	if err != nil {
		return err
	}
	if found := phaseName(strings.TrimSpace(string(name))); found != running {
		return fmt.Errorf("its launch was interrupted in the phase %q", found)
	}
	config := &v1.ContainerConfig{}
	if err := readRecord(l.records.Config(), func(data []byte) error { return v1.Unmarshal(data, config) }); err != nil {
		return err
	}
	if err := readRecord(l.records.Launch(), l.made.parse); err != nil {
		return err
	}
	ids, err := l.readIDs(l.id)
	if err != nil {
		return err
	}
	l.container = &isolator.Container{ID: l.id, Config: config, IDs: ids.IDRange}
	if l.parent != nil {
		l.container.Parent = l.parent.container
	}
	if l.container.IsDebug() {
		return errors.New("it was for whoever debugs, with the process that is gone")
	}
	l.process, err = l.Launcher.Attach(ctx, l.id)
	if errors.Is(err, container.ErrNotFound) {
		l.process, err = gone{}, nil
	}
	l.state = container.Running
	return err
}

// isOfTheHost reports whether an error is a fault of the host, say too many open files, that
// says nothing of the container. That a record is not there does.
func isOfTheHost(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && errno != syscall.ENOENT
}

func readRecord(path string, parse func([]byte) error) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := parse(data); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// gone is an init process that has ended while nobody was there.
type gone struct{ launcher.Process }

func (gone) Pid() int                   { return 0 }
func (gone) Wait(context.Context) error { return nil }
func (gone) Signal(os.Signal) error {
	return fmt.Errorf("the container has ended: %w", container.ErrNotFound)
}

// recoverIsolators tells isolators which containers live on.
func (c *Containerizer) recoverIsolators(ctx context.Context, living []*entry) error {
	for _, i := range c.Isolators {
		recoverer, ok := i.(isolator.Recoverer)
		if !ok {
			continue
		}
		var containers []*isolator.Container
		for _, e := range living {
			if isolator.Supports(i, e.launch.container) {
				containers = append(containers, e.launch.container)
			}
		}
		if err := recoverer.Recover(ctx, containers); err != nil {
			return fmt.Errorf("recover containers: %w", err)
		}
	}
	return nil
}

// goOn looks after containers that were taken up again. First all are watched, so that
// none ends before its cause can be known.
func (c *Containerizer) goOn(living []*entry) {
	for _, e := range living {
		e.launch.watch = startWatch(c.supporting(e.launch.container), e.launch.id)
	}
	for _, e := range living {
		go c.supervise(e) // ends with the container
	}
}
