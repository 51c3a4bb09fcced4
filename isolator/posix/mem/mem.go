// Package mem is the isolator posix/mem: it measures the memory of a container by looking
// at its processes. Pages that several share count for each. It limits nothing.
package mem

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/processes"
	"berth/isolator"
	"berth/launcher"
)

// Isolator implements isolator.Isolator and isolator.Meter.
type Isolator struct {
	of launcher.Lister
}

// New returns the isolator. The launcher knows which processes a container has.
func New(of launcher.Lister) *Isolator { return &Isolator{of} }

// Supports implements isolator.Supporter: what shares its parent's cgroups counts there,
// but these are not looked at.
func (i *Isolator) Supports() isolator.Support {
	return isolator.Support{Nested: true, SharedCgroups: true, Debug: true}
}

// Prepare implements isolator.Isolator: it has nothing to add.
func (i *Isolator) Prepare(context.Context, *isolator.Container) (*isolator.LaunchInfo, error) {
	return nil, nil
}

// Usage implements isolator.Meter.
func (i *Isolator) Usage(_ context.Context, id container.ID, to *v1.ResourceStatistics) error {
	pids, err := i.of.Processes(id)
	if err != nil {
		return fmt.Errorf("posix/mem: %w", err)
	}
	all, err := processes.Those(pids)
	if err != nil {
		return fmt.Errorf("posix/mem: %w", err)
	}
	var bytes uint64
	for _, p := range all {
		bytes += p.RSS
	}
	to.MemRssBytes = proto.Uint64(bytes)
	return nil
}

// Cleanup implements isolator.Isolator: nothing was made.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
