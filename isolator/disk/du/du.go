// Package du is the isolator disk/du: it measures now and then what containers have on the
// disk, on any file system, and ends those that have more than they may.
//
// A container can exceed its limit until it is next measured; disk/xfs has the kernel
// enforce it, on file systems with project quotas.
package du

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"sync"
	"time"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
)

const mib = 1 << 20

// Options are what the isolator is made of.
type Options struct {
	// Volume returns the directory of a persistent volume.
	Volume func(role, id string) string
	// Further returns where a container has files beside what its request names: the
	// sandboxes of the containers in it, and files of its networks.
	Further func(id container.ID) []string
	// Interval is the time between two measurements of a container.
	Interval time.Duration
	// EnforceRequests: also the disk that a container requests is its limit.
	EnforceRequests bool
	// Log takes why a container was not measured.
	Log *slog.Logger
}

// Isolator implements isolator.Isolator, isolator.Watcher, isolator.Updater,
// isolator.Meter and isolator.Recoverer.
type Isolator struct {
	Options
	// walks bounds how many directories are measured at a time, for the sake of the disk.
	walks chan struct{}

	mu         sync.Mutex
	containers map[container.ID]*measured
}

// measured is what is known of a container.
type measured struct {
	disks []isolator.Disk
	used  []*uint64 // of each disk; nil: not measured yet
}

// New returns the isolator.
func New(o Options) *Isolator {
	return &Isolator{Options: o, walks: make(chan struct{}, runtime.NumCPU()), containers: map[container.ID]*measured{}}
}

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	return nil, i.remember(c)
}

// Recover implements isolator.Recoverer.
func (i *Isolator) Recover(_ context.Context, living []*isolator.Container) error {
	for _, c := range living {
		if err := i.remember(c); err != nil {
			return err
		}
	}
	return nil
}

func (i *Isolator) remember(c *isolator.Container) error {
	disks, err := isolator.Disks(c.Config, i.Volume)
	if err != nil {
		return fmt.Errorf("disk/du: %w", err)
	}
	disks[0].Directories = append(disks[0].Directories, i.Further(c.ID)...)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.containers[c.ID] = &measured{disks: disks, used: make([]*uint64, len(disks))}
	return nil
}

// Update implements isolator.Updater. What is more than a new limit ends the container when
// it is next measured.
func (i *Isolator) Update(_ context.Context, c *isolator.Container) error {
	disks, err := isolator.Disks(c.Config, i.Volume)
	if err != nil {
		return fmt.Errorf("disk/du: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	before, ok := i.containers[c.ID]
	if !ok {
		return fmt.Errorf("disk/du: container %s: %w", c.ID, container.ErrNotFound)
	}
	disks[0].Directories = before.disks[0].Directories
	after := &measured{disks: disks, used: make([]*uint64, len(disks))}
	after.used[0] = before.used[0]
	i.containers[c.ID] = after
	return nil
}

// Watch implements isolator.Watcher. That a container cannot be measured is no reason to end
// it.
func (i *Isolator) Watch(ctx context.Context, id container.ID) (*container.Limitation, error) {
	rounds := isolator.Rounds{Interval: i.Interval, Log: i.Log, Undone: "the disk of a container was not measured"}
	return rounds.Watch(ctx, id, func() (*container.Limitation, error) { return i.measure(ctx, id) })
}

func (i *Isolator) of(id container.ID) *measured {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.containers[id]
}

// measure measures the disks with a limit of a container, and returns how it is to end for
// one of them.
func (i *Isolator) measure(ctx context.Context, id container.ID) (*container.Limitation, error) {
	m := i.of(id)
	if m == nil {
		return nil, nil
	}
	for n, d := range m.disks {
		if d.Limit == 0 {
			continue
		}
		found, err := i.walk(ctx, d)
		if err != nil {
			return nil, err
		}
		i.mu.Lock()
		m.used[n] = &found.bytes
		i.mu.Unlock()
		switch enforced := d.Enforced || i.EnforceRequests; {
		case enforced && found.bytes > d.Limit:
			return d.Exceeded(found.bytes), nil
		case enforced && found.tooDeep:
			return &container.Limitation{Reason: container.ReasonLimitationDisk, Resource: "disk", Used: float64(found.bytes) / mib,
				Message: fmt.Sprintf("the disk is limited, and directories nested more than %d deep are not measured", maxDepth)}, nil
		}
	}
	return nil, nil
}

// walk adds up the directories of a disk. One that is not there has nothing.
func (i *Isolator) walk(ctx context.Context, d isolator.Disk) (*walk, error) {
	select {
	case i.walks <- struct{}{}:
		defer func() { <-i.walks }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	w := newWalk(ctx)
	for _, dir := range d.Directories {
		if err := w.add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return w, nil
}

// Usage implements isolator.Meter: what was last measured, so that who asks often does not
// keep the disk busy.
func (i *Isolator) Usage(_ context.Context, id container.ID, to *v1.ResourceStatistics) error {
	m := i.of(id)
	if m == nil {
		return fmt.Errorf("disk/du: container %s: %w", id, container.ErrNotFound)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for n, d := range m.disks {
		if d.Limit > 0 {
			d.Report(m.used[n], to)
		}
	}
	return nil
}

// Cleanup implements isolator.Isolator.
func (i *Isolator) Cleanup(_ context.Context, id container.ID) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.containers, id)
	return nil
}
