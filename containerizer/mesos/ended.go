//go:build linux

package mesos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"berth/container"
	"berth/containerizer"
	"berth/internal/atomicfile"
)

// settles reports whether the termination of the container stays when nothing else is
// left: its keeper comes back for it, or it is nested, and the root container may ask.
func (l *launch) settles() bool {
	return l.parent != nil || l.req.Keeper == containerizer.Agent
}

// ending is the record of a termination.
type ending struct {
	container.Termination
	Launched time.Time `json:"launched"`
	Ended    time.Time `json:"ended"`
}

// recordTermination says how the container has ended, before what that was read from is
// removed.
func (l *launch) recordTermination(t container.Termination, ended time.Time) error {
	if !l.settles() {
		return nil
	}
	l.ended = true
	data, err := json.Marshal(ending{t, l.made.Launched, ended})
	if err == nil {
		err = atomicfile.Write(l.records.Termination(), append(data, '\n'), 0o600, false)
	}
	if err != nil {
		return fmt.Errorf("container %s: record how it ended: %w", l.id, err)
	}
	return nil
}

// readTermination reads what recordTermination wrote; false: there is nothing to be read.
func (l *launch) readTermination() (e ending, ok bool) {
	data, err := os.ReadFile(l.records.Termination())
	return e, err == nil && json.Unmarshal(data, &e) == nil
}

// settle removes the records of an ended container but for its termination, the request and
// where its output is, for whom that is, and those of the containers nested in it. That of
// the phase goes last: without it, nothing else is left. The caller holds own.
func (l *launch) settle() error {
	for _, path := range []string{l.records.Cgroup(), l.records.Pid(), l.records.Tree(), l.records.Input(), l.records.Control(), l.records.Status(), l.records.Phase()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// settled reports whether nothing is left of a container but how it ended.
func (l *launch) settled() bool {
	_, err := os.Lstat(l.records.Phase())
	_, ok := l.readTermination()
	return ok && errors.Is(err, os.ErrNotExist)
}

// removeSettled removes what settle has left, and the sandbox.
func (l *launch) removeSettled(ctx context.Context) (err error) {
	l.own.Lock()
	defer l.own.Unlock()
	if !l.owned {
		return nil
	}
	lock, err := l.lockRuntime(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := l.removeNestedSandbox(); err != nil {
		return err
	}
	if err := os.RemoveAll(l.records.Dir); err != nil {
		return err
	}
	if l.parent != nil {
		// The directories that are there for children alone.
		_ = os.Remove(filepath.Dir(l.Layout.Sandbox(l.id)))
		_ = os.Remove(filepath.Dir(l.records.Dir))
	}
	return l.unlockKeeper()
}
