//go:build linux

// Package pids is the isolator cgroups/pids: it bounds the number of processes and
// threads of a container (Documentation/admin-guide/cgroup-v1/pids.rst and
// cgroup-v2.rst). The limit is that of the name "pids".
package pids

import (
	"context"
	"fmt"
	"strconv"

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

// Groups finds the cgroup of a container.
type Groups interface {
	Group(id container.ID) (*cgroup.Group, error)
}

// Isolator implements isolator.Isolator and isolator.Enforcer.
type Isolator struct {
	groups Groups
}

// New returns the isolator.
func New(groups Groups) *Isolator { return &Isolator{groups} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	if limit, ok := resources.Limit(c.Config, resource); ok && !(limit >= minimum) {
		return nil, fmt.Errorf("cgroups/pids: limit of %v processes: %w: the least is %d, the init process counts too", limit, container.ErrInvalid, minimum)
	}
	return &isolator.LaunchInfo{Controllers: []string{controller}}, nil
}

// Isolate implements isolator.Enforcer.
func (i *Isolator) Isolate(_ context.Context, c *isolator.Container, _ int) error {
	value, limited := setting(c)
	if !limited {
		return nil
	}
	group, err := i.groups.Group(c.ID)
	if err != nil {
		return err
	}
	dir, err := group.Dir(controller)
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
