//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"berth/container"
	"berth/containerizer"
	"berth/internal/filelock"
	"berth/state"
)

// Recover implements containerizer.Containerizer.
func (c *Containerizer) Recover(ctx context.Context) error {
	dead, err := c.takeDead(ctx)
	if err != nil {
		return fmt.Errorf("recover containers: %w", err)
	}
	var errs []error
	for _, l := range dead {
		l.log.Info("destroy the container of a dead berth process")
		errs = append(errs, l.undoAll(ctx))
	}
	errs = append(errs, c.recoverUnrecorded(ctx))
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

// takeDead becomes the keeper of the containers whose keeper is dead.
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
	for _, id := range ids {
		l := c.newLaunch(id)
		taken, err := l.takeOver(containerizer.Foreground)
		if err != nil {
			return dead, err
		}
		if taken {
			dead = append(dead, l)
		}
	}
	return dead, nil
}

// takeOver locks the keeper of a container if no process does and it is of the given
// kind. A record without one is of a process that died while it made it.
func (l *launch) takeOver(kind containerizer.Keeper) (bool, error) {
	if _, err := os.Lstat(l.records.Dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil // forgotten meanwhile
	}
	data, err := os.ReadFile(l.records.Keeper())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if found := containerizer.Keeper(data); found != "" && found != kind {
		return false, nil
	}
	l.keeper, err = filelock.Try(l.records.Keeper(), filelock.Exclusive)
	if errors.Is(err, filelock.ErrHeld) {
		return false, nil
	}
	return err == nil, err
}

// destroyRecorded destroys a container that another process, which has ended, has
// made and left to its operator; or one whose keeper is dead.
func (c *Containerizer) destroyRecorded(ctx context.Context, id container.ID) (bool, error) {
	l := c.newLaunch(id)
	if !c.recorded(id) {
		// Perhaps a root filesystem from before a reboot.
		return c.Provisioner.Destroy(ctx, id)
	}
	for _, kind := range []containerizer.Keeper{containerizer.Operator, containerizer.Foreground} {
		taken, err := l.takeOver(kind)
		if err != nil {
			return true, fmt.Errorf("destroy %s: %w", id, err)
		}
		if taken {
			return true, l.undoAll(ctx)
		}
	}
	return true, fmt.Errorf("destroy %s: %w: it belongs to a berth process that lives; end that one", id, container.ErrFailedPrecondition)
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
	if err := os.RemoveAll(c.Layout.Sandbox(id)); err != nil {
		return err
	}
	return os.Remove(marker)
}

// ProvisionOnly makes a root filesystem without a container, for an operator to use and
// to Destroy.
func (c *Containerizer) ProvisionOnly(ctx context.Context, id container.ID, provision func(context.Context) error) error {
	l := c.newLaunch(id)
	l.req.Keeper = containerizer.Operator
	if err := l.admit(ctx); err != nil {
		return err
	}
	if err := provision(ctx); err != nil {
		return errors.Join(err, l.undoAll(ctx))
	}
	// The record stays, and so does whom it belongs to.
	keeper := l.keeper
	l.keeper = nil
	return keeper.Unlock()
}
