// Package cpu is the isolator posix/cpu: it measures the CPU time of a container, and how
// many processes and threads that has, by looking at its processes. It limits nothing.
package cpu

import (
	"context"
	"fmt"
	"time"

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

// Usage implements isolator.Meter. The time of processes that have ended is in that of their
// parents.
func (i *Isolator) Usage(_ context.Context, id container.ID, to *v1.ResourceStatistics) error {
	pids, err := i.of.Processes(id)
	if err != nil {
		return fmt.Errorf("posix/cpu: %w", err)
	}
	all, err := processes.Those(pids)
	if err != nil {
		return fmt.Errorf("posix/cpu: %w", err)
	}
	var user, system time.Duration
	var threads int
	for _, p := range all {
		user, system, threads = user+p.User, system+p.System, threads+p.Threads
	}
	to.CpusUserTimeSecs, to.CpusSystemTimeSecs = proto.Float64(user.Seconds()), proto.Float64(system.Seconds())
	to.Processes, to.Threads = proto.Uint32(uint32(len(all))), proto.Uint32(uint32(threads))
	return nil
}

// Cleanup implements isolator.Isolator: nothing was made.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
