//go:build linux

// Package pids is the isolator cgroups/pids: it bounds the number of processes and
// threads of a container (Documentation/admin-guide/cgroup-v1/pids.rst and
// cgroup-v2.rst). The limit is that of the name "pids".
package pids

import (
	"context"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/resources"
	"berth/isolator"
)

const (
	controller = "pids"
	resource   = "pids"
	// berth-init, a Go program, has threads of its own, and the command needs one.
	minimum = 16
	maximum = 4 << 20 // PID_MAX_LIMIT of the kernel: more are no limit
)

// Isolator implements isolator.Isolator, isolator.Enforcer, isolator.Updater and
// isolator.Meter.
type Isolator struct {
	groups cgroup.Groups
}

// New returns the isolator.
func New(groups cgroup.Groups) *Isolator { return &Isolator{groups} }

// Supports implements isolator.Supporter: what shares the cgroups of its parent has its
// limits there.
func (i *Isolator) Supports() isolator.Support { return isolator.Support{Nested: true} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	if err := check(c); err != nil {
		return nil, err
	}
	return &isolator.LaunchInfo{Controllers: []string{controller}}, nil
}

func check(c *isolator.Container) error {
	if limit, ok := resources.Limit(c.Config, resource); ok && !(limit >= minimum) {
		return fmt.Errorf("cgroups/pids: limit of %v processes: %w: the least is %d, the init process counts too", limit, container.ErrInvalid, minimum)
	}
	return nil
}

// Isolate implements isolator.Enforcer.
func (i *Isolator) Isolate(_ context.Context, c *isolator.Container, _ int) error {
	value, limited := setting(c)
	if !limited {
		return nil
	}
	return i.write(c.ID, value)
}

// Update implements isolator.Updater. With more processes than a new limit allows, none
// comes to be added; those that there are stay.
func (i *Isolator) Update(_ context.Context, c *isolator.Container) error {
	if err := check(c); err != nil {
		return err
	}
	value, limited := setting(c)
	if !limited {
		value = "max"
	}
	return i.write(c.ID, value)
}

// Usage implements isolator.Meter. The kernel counts threads.
func (i *Isolator) Usage(_ context.Context, id container.ID, to *v1.ResourceStatistics) error {
	dir, err := cgroup.DirOf(i.groups, id, controller)
	if err != nil {
		return err
	}
	threads, err := dir.Kept().ReadUint("pids.current")
	if err != nil {
		return fmt.Errorf("cgroups/pids: %w", err)
	}
	processes, err := dir.Processes()
	if err != nil {
		return fmt.Errorf("cgroups/pids: %w", err)
	}
	to.Threads, to.Processes = proto.Uint32(uint32(threads)), proto.Uint32(uint32(len(processes)))
	return nil
}

func (i *Isolator) write(id container.ID, value string) error {
	dir, err := cgroup.DirOf(i.groups, id, controller)
	if err != nil {
		return err
	}
	if err := dir.Write("pids.max", value); err != nil {
		return fmt.Errorf("cgroups/pids: %w", err)
	}
	return nil
}

// setting is what to write to pids.max, if anything; v1 and v2 have the same file.
func setting(c *isolator.Container) (value string, limited bool) {
	limit, limited := resources.Limit(c.Config, resource)
	if limit >= maximum {
		return "max", limited
	}
	return strconv.Itoa(int(limit)), limited
}

// Cleanup implements isolator.Isolator: the setting went with the cgroup, which is the
// launcher's.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
