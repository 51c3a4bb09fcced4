//go:build linux

// Package devices is the isolator cgroups/devices: a container may open the devices of a
// standard list, those of --allowed_devices and those of its request, and no other,
// whatever nodes it makes. cgroup v1 has files for that, v2 takes a BPF program
// (Documentation/admin-guide/cgroup-v1/devices.rst and cgroup-v2.rst, "Device controller").
package devices

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/device"
	"berth/isolator"
)

const controller = "devices"

// Isolator implements isolator.Isolator, isolator.Enforcer, isolator.Updater and
// isolator.Prober.
type Isolator struct {
	groups  cgroup.Groups
	host    *cgroup.Host
	allowed []*v1.DeviceAccess
}

// New returns the isolator. allowed is what every container may beyond the standard list.
func New(groups cgroup.Groups, host *cgroup.Host, allowed []*v1.DeviceAccess) *Isolator {
	return &Isolator{groups, host, allowed}
}

// Supports implements isolator.Supporter: what shares the cgroups of its parent may what
// that may.
func (i *Isolator) Supports() isolator.Support { return isolator.Support{Nested: true} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	if _, err := i.rules(c); err != nil {
		return nil, err
	}
	info := &isolator.LaunchInfo{Controllers: []string{controller}}
	if c.Config.GetRootfs() == "" {
		return info, nil
	}
	var err error
	if info.Nodes, err = isolator.DeviceNodes(c.Config.GetContainerInfo().GetCgroups().GetDevices()); err != nil {
		return nil, fmt.Errorf("cgroups/devices: %w", err)
	}
	return info, nil
}

// rules are what the container may. Devices are looked up anew: a number of a driver
// may be another one today than when berth began.
func (i *Isolator) rules(c *isolator.Container) ([]device.Rule, error) {
	rules := device.Standard()
	for _, allowed := range [][]*v1.DeviceAccess{i.allowed, c.Config.GetContainerInfo().GetCgroups().GetDevices()} {
		more, err := device.Rules(allowed)
		if err != nil {
			return nil, fmt.Errorf("cgroups/devices: %w", err)
		}
		rules = append(rules, more...)
	}
	return device.Normalize(rules), nil
}

// Isolate implements isolator.Enforcer.
func (i *Isolator) Isolate(ctx context.Context, c *isolator.Container, _ int) error {
	return i.Update(ctx, c)
}

// Update implements isolator.Updater. On v2 no moment passes between the old and the new
// rules; on v1 for a moment both hold.
func (i *Isolator) Update(_ context.Context, c *isolator.Container) error {
	rules, err := i.rules(c)
	if err != nil {
		return err
	}
	dir, err := cgroup.DirOf(i.groups, c.ID, controller)
	if err != nil {
		return err
	}
	set := setV1
	if dir.Version() == cgroup.V2 {
		set = setV2
	}
	if err := set(dir, rules); err != nil {
		return fmt.Errorf("cgroups/devices: %w", err)
	}
	return nil
}

// setV1 makes the list of a cgroup what rules are, and writes only what changes: a
// cgroup with others below it cannot be emptied at once.
func setV1(dir cgroup.Dir, rules []device.Rule) error {
	had, err := list(dir)
	if err != nil {
		return err
	}
	err = dir.WriteEach("devices.allow", texts(without(rules, had)))
	if errors.Is(err, syscall.EPERM) {
		err = fmt.Errorf("%w: the cgroup that this one lies in does not have it itself: allow it there, or do without: %w", container.ErrDenied, err)
	}
	if err != nil {
		return err
	}
	return dir.WriteEach("devices.deny", texts(without(had, rules)))
}

func texts(rules []device.Rule) (all []string) {
	for _, r := range rules {
		all = append(all, r.String())
	}
	return all
}

// list returns the rules of a cgroup, which allow nothing if it allowed everything.
func list(dir cgroup.Dir) (rules []device.Rule, err error) {
	text, err := dir.Read("devices.list")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "a ") {
			return nil, dir.Write("devices.deny", "a")
		}
		r, err := device.ParseRule(line)
		if err != nil {
			return nil, fmt.Errorf("read devices.list: %w", err)
		}
		rules = append(rules, r)
	}
	return device.Normalize(rules), nil
}

// without returns what of rules is not in others.
func without(rules, others []device.Rule) (rest []device.Rule) {
	access := make(map[device.Device]device.Access)
	for _, r := range others {
		access[r.Device] = r.Access
	}
	for _, r := range rules {
		if r.Access &^= access[r.Device]; r.Access != 0 {
			rest = append(rest, r)
		}
	}
	return rest
}

// Cleanup implements isolator.Isolator: the rules went with the cgroup, which is the
// launcher's.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
