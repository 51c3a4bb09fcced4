//go:build linux

// Package netprio is the isolator cgroups/net_prio: the priority that the packets of a
// container have on interfaces of the host
// (Documentation/admin-guide/cgroup-v1/net_prio.rst). cgroup v2 has nothing like it.
package netprio

import (
	"context"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"

	"berth/container"
	"berth/internal/cgroup"
	"berth/isolator"
)

const controller = "net_prio"

// Isolator implements isolator.Isolator, isolator.Enforcer and isolator.Updater.
type Isolator struct {
	groups cgroup.Groups
}

// New returns the isolator.
func New(groups cgroup.Groups) *Isolator { return &Isolator{groups} }

// Supports implements isolator.Supporter: what shares the cgroups of its parent has its
// priorities.
func (i *Isolator) Supports() isolator.Support { return isolator.Support{Nested: true} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	if _, err := priorities(c); err != nil {
		return nil, err
	}
	return &isolator.LaunchInfo{Controllers: []string{controller}}, nil
}

// priorities are those asked for, by interface.
func priorities(c *isolator.Container) (map[string]uint32, error) {
	all := make(map[string]uint32)
	for _, asked := range c.Config.GetContainerInfo().GetCgroups().GetNetPrio() {
		name := asked.GetInterface()
		if _, err := net.InterfaceByName(name); err != nil {
			return nil, fmt.Errorf("cgroups/net_prio: interface %q: %w: %w", name, container.ErrInvalid, err)
		}
		if _, twice := all[name]; twice {
			return nil, fmt.Errorf("cgroups/net_prio: interface %q: %w: it has priorities twice", name, container.ErrInvalid)
		}
		if asked.GetPriority() > math.MaxInt32 {
			return nil, fmt.Errorf("cgroups/net_prio: interface %q: %w: priority %d: the greatest is %d", name, container.ErrInvalid, asked.GetPriority(), math.MaxInt32)
		}
		all[name] = asked.GetPriority()
	}
	return all, nil
}

// Isolate implements isolator.Enforcer.
func (i *Isolator) Isolate(ctx context.Context, c *isolator.Container, _ int) error {
	return i.Update(ctx, c)
}

// Update implements isolator.Updater. An interface that the request does not name has the
// priority that it has in the cgroup above.
func (i *Isolator) Update(_ context.Context, c *isolator.Container) error {
	wanted, err := priorities(c)
	if err != nil {
		return err
	}
	dir, err := cgroup.DirOf(i.groups, c.ID, controller)
	if err == nil {
		err = set(dir, wanted)
	}
	if err != nil {
		return fmt.Errorf("cgroups/net_prio: %w", err)
	}
	return nil
}

const file = "net_prio.ifpriomap"

func set(dir cgroup.Dir, wanted map[string]uint32) error {
	own, err := read(dir)
	if err != nil {
		return err
	}
	above, err := read(dir.Above())
	if err != nil {
		return err
	}
	for name, priority := range own {
		to, asked := wanted[name]
		if !asked {
			to = above[name]
		}
		if to == priority {
			continue
		}
		if err := dir.Write(file, fmt.Sprintf("%s %d", name, to)); err != nil {
			return err
		}
	}
	return nil
}

// read reads lines as "eth0 5".
func read(dir cgroup.Dir) (map[string]uint32, error) {
	text, err := dir.Read(file)
	if err != nil {
		return nil, err
	}
	all := make(map[string]uint32)
	for line := range strings.Lines(text) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		priority, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		all[name] = uint32(priority)
	}
	return all, nil
}

// Cleanup implements isolator.Isolator: the settings went with the cgroup, which is the
// launcher's.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
