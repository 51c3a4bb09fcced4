//go:build linux

// Package perfevent is the isolator cgroups/perf_event: it counts what the processor and
// the kernel do for a container, for a while in each interval, by perf_event_open(2) on
// the container's cgroup. No program perf is needed.
package perfevent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/isolator"
)

const controller = "perf_event"

// Options are what the isolator is made of.
type Options struct {
	Groups cgroup.Groups
	Events []Event
	// A sample begins each Interval and lasts for Duration.
	Interval, Duration time.Duration
	Log                *slog.Logger
}

// Check refuses times that do not go together. ErrInvalid.
func Check(interval, duration time.Duration) error {
	if duration <= 0 || duration > interval {
		return fmt.Errorf("--perf_duration %v: %w: it must be positive and at most --perf_interval, %v", duration, container.ErrInvalid, interval)
	}
	return nil
}

// Isolator implements isolator.Isolator, isolator.Enforcer, isolator.Watcher and
// isolator.Meter.
type Isolator struct {
	Options

	mu       sync.Mutex
	samples  map[container.ID]*sample            // under way
	finished map[container.ID]*v1.PerfStatistics // the last of each container
}

// New returns the isolator.
func New(o Options) *Isolator {
	return &Isolator{Options: o, samples: make(map[container.ID]*sample), finished: make(map[container.ID]*v1.PerfStatistics)}
}

// Supports implements isolator.Supporter: what shares the cgroups of its parent is counted
// there.
func (i *Isolator) Supports() isolator.Support { return isolator.Support{Nested: true} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(context.Context, *isolator.Container) (*isolator.LaunchInfo, error) {
	return &isolator.LaunchInfo{Controllers: []string{controller}}, nil
}

// Isolate implements isolator.Enforcer: the first sample begins before the command does.
func (i *Isolator) Isolate(_ context.Context, c *isolator.Container, _ int) error {
	return i.begin(c.ID)
}

// begin begins a sample unless one is under way.
func (i *Isolator) begin(id container.ID) error {
	dir, err := cgroup.DirOf(i.Groups, id, controller)
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.samples[id] != nil {
		return nil
	}
	s, err := start(dir, i.Events)
	if err != nil {
		return fmt.Errorf("cgroups/perf_event: %w", err)
	}
	i.samples[id] = s
	return nil
}

// finish ends the sample that is under way, and keeps what it has counted.
func (i *Isolator) finish(id container.ID) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.samples[id]
	if s == nil {
		return nil
	}
	delete(i.samples, id)
	statistics, err := s.read()
	if err == nil {
		i.finished[id] = statistics
	}
	return errors.Join(err, s.close())
}

// Watch implements isolator.Watcher: it never ends a container, and takes samples until the
// container has ended.
func (i *Isolator) Watch(ctx context.Context, id container.ID) (*container.Limitation, error) {
	defer i.forget(id)
	for ctx.Err() == nil {
		err := i.begin(id)
		next := time.After(i.Interval)
		if err == nil && wait(ctx, time.After(i.Duration)) {
			err = i.finish(id)
		}
		if errors.Is(err, container.ErrNotFound) { // the cgroup is gone
			return nil, nil
		}
		if err != nil { // no reason to end a container
			i.Log.Warn("a container was not measured", slog.String("container", id.String()), slog.Any("error", err))
		}
		wait(ctx, next)
	}
	return nil, nil
}

// wait reports whether the time came before the end of ctx.
func wait(ctx context.Context, at <-chan time.Time) bool {
	select {
	case <-at:
		return true
	case <-ctx.Done():
		return false
	}
}

// forget drops what is known of a container.
func (i *Isolator) forget(id container.ID) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.samples[id]
	delete(i.samples, id)
	delete(i.finished, id)
	if s == nil {
		return nil
	}
	return s.close()
}

// Usage implements isolator.Meter: the last whole sample, or what was counted so far of the
// first one.
func (i *Isolator) Usage(_ context.Context, id container.ID, to *v1.ResourceStatistics) error {
	dir, err := cgroup.DirOf(i.Groups, id, controller)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir.Path()); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cgroups/perf_event: %w: the cgroup is gone: %w", container.ErrNotFound, err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if last := i.finished[id]; last != nil {
		to.Perf = proto.CloneOf(last)
		return nil
	}
	if s := i.samples[id]; s != nil {
		if to.Perf, err = s.read(); err != nil {
			return fmt.Errorf("cgroups/perf_event: %w", err)
		}
	}
	return nil
}

// Cleanup implements isolator.Isolator.
func (i *Isolator) Cleanup(_ context.Context, id container.ID) error { return i.forget(id) }
