//go:build linux

package mesos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"berth/container"
	"berth/containerizer"
	"berth/internal/filelock"
	"berth/internal/mount"
	"berth/state"
)

// Recover implements containerizer.Containerizer.
func (c *Containerizer) Recover(ctx context.Context) error {
	if _, err := c.checkFormat(); err != nil {
		return fmt.Errorf("recover containers: %w", err)
	}
	dead, err := c.takeDead(ctx)
	if err != nil {
		err = fmt.Errorf("recover containers: %w", err)
	}
	errs := []error{err}
	var living []*entry
	for _, l := range dead {
		if l.req.Keeper == containerizer.Agent {
			found, err := c.takeUp(ctx, l)
			living = append(living, found...)
			errs = append(errs, err)
			continue
		}
		l.log.Info("destroy the container of a dead berth process")
		errs = append(errs, l.destroyTree(ctx))
	}
	errs = append(errs, c.recoverIsolators(ctx, living), c.recoverUnrecorded(ctx))
	c.goOn(living)
	return errors.Join(errs...)
}

// recoverUnrecorded removes root filesystems and sandboxes that no record speaks of:
// they are from before a reboot. While there are any, nobody may be admitted, because a
// new container could have the id of an old one.
func (c *Containerizer) recoverUnrecorded(ctx context.Context) (err error) {
	leftOvers, err := c.unrecorded()
	if err != nil {
		return fmt.Errorf("recover containers: %w", err)
	}
	if len(leftOvers) > 0 {
		lock, err := c.lockRuntime(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, lock.Unlock()) }()
	}
	return errors.Join(c.Provisioner.Recover(ctx, c.recorded), c.recoverSandboxes())
}

// unrecorded lists the containers without a record that have something on disk.
func (c *Containerizer) unrecorded() ([]container.ID, error) {
	provisioned, err := state.Children(c.Layout.Provisioner().Root(), container.ID{})
	if err != nil {
		return nil, err
	}
	marked, err := c.markedSandboxes()
	return slices.DeleteFunc(append(provisioned, marked...), c.recorded), err
}

// recorded reports whether a container has a record, and so is somebody's.
func (c *Containerizer) recorded(id container.ID) bool {
	_, err := os.Lstat(c.Layout.Container(id).Dir)
	return !errors.Is(err, fs.ErrNotExist)
}

// takeDead becomes the keeper of the containers whose keeper is dead, as far as it can.
func (c *Containerizer) takeDead(ctx context.Context) (dead []*launch, err error) {
	ids, err := state.Children(c.Layout.Runtime, container.ID{})
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	// Nobody admits or forgets a container meanwhile.
	lock, err := c.lockRuntime(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	kinds := []containerizer.Keeper{containerizer.Foreground}
	if c.Agent {
		kinds = append(kinds, containerizer.Agent)
	}
	var errs []error
	for _, id := range ids {
		l := c.newLaunch(id)
		taken, err := l.takeOver(ctx, kinds...)
		if err != nil {
			errs = append(errs, fmt.Errorf("container %s: %w", id, err))
		}
		if taken {
			dead = append(dead, l)
		}
	}
	return dead, errors.Join(errs...)
}

// takeOver locks the keeper of a container if no process does and it is of one of the
// given kinds. A record without one is of a process that died while it made it. The
// caller has the lock of the runtime directory, so that the record stays as it is.
func (l *launch) takeOver(ctx context.Context, kinds ...containerizer.Keeper) (bool, error) {
	if _, err := os.Lstat(l.records.Dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil // forgotten meanwhile
	}
	found, pid, err := l.readKeeper()
	if err != nil {
		return false, err
	}
	if found != "" && !slices.Contains(kinds, found) {
		return false, nil
	}
	l.keeper, err = filelock.Try(l.records.Keeper(), filelock.Exclusive)
	if errors.Is(err, filelock.ErrHeld) && syscall.Kill(pid, 0) == syscall.ESRCH {
		// By a child that its dead parent has just cloned, until it executes its program.
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		l.keeper, err = filelock.Acquire(ctx, l.records.Keeper(), filelock.Exclusive)
		if errors.Is(err, context.DeadlineExceeded) {
			return false, fmt.Errorf("%w: its keeper, the process %d, is dead, but one that it cloned has not executed its program in %v; recover again", container.ErrUnavailable, pid, patience)
		}
	}
	if errors.Is(err, filelock.ErrHeld) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	l.owned, l.req.Keeper = true, cmp.Or(found, containerizer.Foreground)
	return true, l.signKeeper(l.req.Keeper)
}

// patience is how long a clone may take to execute: where a hundred processes want a processor
// that is seconds.
const patience = 30 * time.Second

// signKeeper writes the kind, and the process that has locked it, which is this one.
func (l *launch) signKeeper(kind containerizer.Keeper) error {
	if err := l.keeper.File().Truncate(0); err != nil {
		return err
	}
	_, err := l.keeper.File().WriteAt(fmt.Appendf(nil, "%s %d\n", kind, os.Getpid()), 0)
	return err
}

// readKeeper reads what signKeeper wrote. A torn file has neither.
func (l *launch) readKeeper() (kind containerizer.Keeper, pid int, err error) {
	data, err := os.ReadFile(l.records.Keeper())
	if errors.Is(err, fs.ErrNotExist) {
		return "", 0, nil
	}
	words := strings.Fields(strings.Trim(string(data), "\x00"))
	if len(words) > 0 {
		kind = containerizer.Keeper(words[0])
	}
	if len(words) > 1 {
		pid, _ = strconv.Atoi(words[1]) // 0, which is this process, if it is no number
	}
	return kind, pid, err
}

// destroyRecorded destroys a container that another process, which has ended, has
// made and left to its operator; or one whose keeper is dead or has given it up.
func (c *Containerizer) destroyRecorded(ctx context.Context, id container.ID) (bool, error) {
	l := c.newLaunch(id)
	existed, err := l.takeRecorded(ctx)
	if err != nil {
		return existed, fmt.Errorf("destroy %s: %w", id, errors.Join(err, l.disown()))
	}
	if !l.owned {
		return existed, nil
	}
	return true, l.destroyTree(ctx)
}

// destroyTree destroys a container by its records, after those nested in it. What is left
// of a container that has ended stays.
func (l *launch) destroyTree(ctx context.Context) error {
	children, err := state.Children(l.records.Dir, l.id)
	errs := []error{err}
	for _, id := range children {
		child := l.newLaunch(id)
		child.owned, child.parent, child.req.Keeper = true, l, l.req.Keeper
		if !child.settled() {
			errs = append(errs, child.destroyTree(ctx))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return l.leave(err)
	}
	return l.undoAll(ctx)
}

// takeRecorded becomes the keeper of a container if it has a record. What there is
// without one, from before a reboot, it removes while nobody can be admitted.
func (l *launch) takeRecorded(ctx context.Context) (existed bool, err error) {
	lock, err := l.lockRuntime(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if _, nested := l.id.Parent(); nested {
		return l.takeNested()
	}
	if !l.recorded(l.id) {
		_, err := os.Lstat(l.Layout.Foreground(l.id))
		marked := err == nil
		existed, err := l.Provisioner.Destroy(ctx, l.id)
		return existed || marked, errors.Join(err, l.removeSandbox(l.id))
	}
	taken, err := l.takeOver(ctx, containerizer.Operator, containerizer.Foreground)
	if err == nil && !taken {
		err = fmt.Errorf("%w: it belongs to a berth process that lives, or to an agent; that one is to destroy it", container.ErrFailedPrecondition)
	}
	return true, err
}

// takeNested takes a nested container that has been given up, if its root container is
// this process's.
func (l *launch) takeNested() (existed bool, err error) {
	if !l.recorded(l.id) {
		return false, nil
	}
	root, err := container.ParseID(l.id.Values()[0])
	if err != nil {
		return true, err
	}
	e, err := l.find(root)
	if err != nil {
		return true, fmt.Errorf("%w: its root container is not one of this process", container.ErrFailedPrecondition)
	}
	l.parent, l.req.Keeper, l.owned = e.launch, e.launch.req.Keeper, true
	return true, nil
}

// recoverSandboxes removes the sandboxes of foreground containers that are gone.
func (c *Containerizer) recoverSandboxes() error {
	marked, err := c.markedSandboxes()
	errs := []error{err}
	for _, id := range marked {
		if !c.recorded(id) {
			c.Log.Info("remove the sandbox of a container that is gone", slog.String("container", id.String()))
			errs = append(errs, c.removeSandbox(id))
		}
	}
	return errors.Join(errs...)
}

// markedSandboxes lists the foreground containers that have, or were to have, a
// sandbox.
func (c *Containerizer) markedSandboxes() ([]container.ID, error) {
	entries, err := os.ReadDir(c.Layout.Sandboxes())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var ids []container.ID
	for _, e := range entries {
		if value, ok := strings.CutSuffix(e.Name(), state.ForegroundSuffix); ok {
			if id, err := container.ParseID(value); err == nil {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}

// removeSandbox removes the sandbox of a foreground container, and then its marker. A
// sandbox without one is not to be removed.
func (c *Containerizer) removeSandbox(id container.ID) error {
	marker := c.Layout.Foreground(id)
	if _, err := os.Lstat(marker); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// A container has filled them.
	for _, dir := range []string{c.Layout.NestedSandboxes(id), c.Layout.Sandbox(id)} {
		if _, err := mount.RemoveAll(dir); err != nil {
			return err
		}
	}
	return os.Remove(marker)
}

// ProvisionOnly makes a root filesystem without a container, for an operator to use and
// to Destroy.
func (c *Containerizer) ProvisionOnly(ctx context.Context, id container.ID, provision func(context.Context) error) error {
	l := c.newLaunch(id)
	l.req.Keeper = containerizer.Operator
	if err := l.admit(ctx); err != nil {
		return errors.Join(err, l.undo(ctx, l.phases()[:1]))
	}
	if err := provision(ctx); err != nil {
		return errors.Join(err, l.undoAll(ctx))
	}
	// The record stays, and so does whom it belongs to.
	return l.disown()
}
