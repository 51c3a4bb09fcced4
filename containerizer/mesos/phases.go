//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"berth/container"
	"berth/internal/disk"
)

// phaseName is a phase as it is recorded.
type phaseName string

// The phases of a launch. The record of a container holds the one entered last.
const (
	admitted    phaseName = "ADMITTED"
	provisioned phaseName = "PROVISIONING"
	prepared    phaseName = "PREPARING"
	forked      phaseName = "FORKING"
	isolated    phaseName = "ISOLATING"
	fetched     phaseName = "FETCHING"
	released    phaseName = "RELEASING"
	running     phaseName = "RUNNING"
)

// phase is one step of a launch and its reverse. An undo may be called for a phase that
// never happened, or happened by half, or in another process.
type phase struct {
	name phaseName
	// state is how others see a container in this phase.
	state container.State
	do    func(context.Context) error
	undo  func(context.Context) error
}

// phases is a launch on one screen; nothing else decides the order. A container whose
// record does not say that it is running is half launched, and is destroyed by whoever
// finds it. In every phase it can be destroyed; then its state is DESTROYING.
func (l *launch) phases() []phase {
	return []phase{
		{admitted, container.Provisioning, l.admit, l.forget},         // our record exists, nothing else does
		{provisioned, container.Provisioning, l.provision, l.unmount}, // image -> root filesystem, and the sandbox
		{prepared, container.Preparing, l.prepare, l.cleanup},         // isolators, in order -> one plan
		{forked, container.Preparing, l.fork, l.kill},                 // the child exists, in its cgroup, and waits
		{isolated, container.Isolating, l.isolate, nil},               // watches armed, limits set, it still waits
		{fetched, container.Fetching, l.fetch, nil},                   // the sandbox has what the command wants there
		{released, container.Fetching, l.release, nil},                // let go; the child executes the command
		{running, container.Running, l.keep, nil},                     // it outlives its launch
	}
}

// undoTimeout bounds the undoing of a launch, which is not to be cancelled with it.
const undoTimeout = time.Minute

// run goes through the phases. When one fails, it and those before are undone.
func (l *launch) run(ctx context.Context, phases []phase) error {
	for i, p := range phases {
		if err := l.enter(ctx, p); err != nil {
			return errors.Join(err, l.undo(ctx, phases[:i+1]))
		}
	}
	return nil
}

func (l *launch) enter(ctx context.Context, p phase) error {
	// Once the command was executed, nothing is left to cancel.
	if err := context.Cause(ctx); err != nil && p.name != running {
		return err
	}
	l.setState(p.state)
	if p.name != admitted { // which makes the place of the record
		if err := l.checkpoint(p.name); err != nil {
			return err
		}
	}
	return l.timed(ctx, string(p.name), p.do)
}

// timed logs how long a step took.
func (l *launch) timed(ctx context.Context, name string, step func(context.Context) error) error {
	began := time.Now()
	err := disk.At(name)
	if err == nil {
		err = step(ctx)
	}
	l.log.Debug("phase", slog.String("phase", name), slog.Duration("took", time.Since(began)), slog.Any("error", err))
	return err
}

// checkpoint records a phase over the one before, in the same file: a new file for each would
// be most of a launch on a file system that syncs what is renamed. All are written equally
// long, so that nothing of the one before is left; what is torn is no phase.
func (l *launch) checkpoint(name phaseName) error {
	record := fmt.Sprintf("%-*s\n", len(provisioned), name)
	if err := disk.Overwrite(l.records.Phase(), []byte(record), 0o600); err != nil {
		return fmt.Errorf("launch %s: record the phase: %w", l.id, err)
	}
	return nil
}

// undo goes backwards, and stops where something cannot be undone: what lies before it
// may still be in use, and the record, which goes last, says that it is there. This
// process gives up the container then, so that a Destroy or a Recover can try again.
func (l *launch) undo(ctx context.Context, phases []phase) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	l.setState(container.Destroying)
	for i := len(phases) - 1; i >= 0; i-- {
		if phases[i].undo == nil {
			continue
		}
		if err := l.timed(ctx, "undo "+string(phases[i].name), phases[i].undo); err != nil {
			return l.leave(err)
		}
	}
	return nil
}

// leave gives up a container of which something cannot be removed.
func (l *launch) leave(err error) error {
	l.left = fmt.Errorf("clean up container %s: %w", l.id, err)
	return errors.Join(l.left, l.disown())
}

// setState says how far the container is; from DESTROYING it goes nowhere.
func (l *launch) setState(s container.State) {
	l.own.Lock()
	defer l.own.Unlock()
	if l.state != container.Destroying {
		l.state = s
	}
}

func (l *launch) currentState() container.State {
	l.own.Lock()
	defer l.own.Unlock()
	return l.state
}

// undoAll destroys the container, whichever phase its launch had reached.
func (l *launch) undoAll(ctx context.Context) error { return l.undo(ctx, l.phases()) }
