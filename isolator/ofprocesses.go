package isolator

import (
	"context"
	"fmt"

	v1 "berth/api/v1"
	"berth/container"
	"berth/launcher"
)

// OfProcesses is an isolator that limits nothing: it measures a container by looking at its
// processes. It implements Isolator, Supporter and Meter.
type OfProcesses struct {
	Name string // for errors, as "posix/cpu"
	// Launcher knows which processes a container has.
	Launcher launcher.Lister
	// Add adds what those use that are still there of these processes.
	Add func(pids []int, to *v1.ResourceStatistics) error
}

// Supports implements Supporter: what shares its parent's cgroups counts there, but these
// are not looked at.
func (o *OfProcesses) Supports() Support {
	return Support{Nested: true, SharedCgroups: true, Debug: true}
}

// Prepare implements Isolator: it has nothing to add.
func (o *OfProcesses) Prepare(context.Context, *Container) (*LaunchInfo, error) { return nil, nil }

// Usage implements Meter.
func (o *OfProcesses) Usage(_ context.Context, id container.ID, to *v1.ResourceStatistics) error {
	pids, err := o.Launcher.Processes(id)
	if err == nil {
		err = o.Add(pids, to)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.Name, err)
	}
	return nil
}

// Cleanup implements Isolator: nothing was made.
func (o *OfProcesses) Cleanup(context.Context, container.ID) error { return nil }
