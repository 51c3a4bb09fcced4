//go:build linux

// Package cpuset is the isolator cgroups/cpuset: a container runs on the CPUs and has its
// memory on the nodes that its request names
// (Documentation/admin-guide/cgroup-v1/cpusets.rst and cgroup-v2.rst, "Cpuset").
package cpuset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/numberlist"
	"berth/isolator"
)

const controller = "cpuset"

// Isolator implements isolator.Isolator, isolator.Enforcer and isolator.Updater.
type Isolator struct {
	groups cgroup.Groups
}

// New returns the isolator.
func New(groups cgroup.Groups) *Isolator { return &Isolator{groups} }

// Supports implements isolator.Supporter: what shares the cgroups of its parent runs where
// that does.
func (i *Isolator) Supports() isolator.Support { return isolator.Support{Nested: true} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	for _, s := range sets {
		if err := s.check(s.of(c.Config.GetContainerInfo().GetCgroups())); err != nil {
			return nil, err
		}
	}
	return &isolator.LaunchInfo{Controllers: []string{controller}}, nil
}

// set is one of the two sets that the controller has.
type set struct {
	file   string // in both versions
	what   string
	online string // where the kernel says what the host has
	of     func(*v1.CgroupSettings) string
}

var sets = []set{
	{"cpuset.cpus", "CPU", "/sys/devices/system/cpu/online", (*v1.CgroupSettings).GetCpusetCpus},
	{"cpuset.mems", "memory node", "/sys/devices/system/node/online", (*v1.CgroupSettings).GetCpusetMems},
}

// check refuses what is no list, and what the host does not have.
func (s set) check(list string) error {
	if list == "" {
		return nil
	}
	wanted, err := numberlist.Parse(list)
	if err != nil {
		return fmt.Errorf("cgroups/cpuset: %s %q: %w", s.file, list, err)
	}
	online, err := os.ReadFile(s.online)
	if errors.Is(err, os.ErrNotExist) {
		online, err = []byte("0"), nil // a kernel without NUMA has one memory node
	}
	if err != nil {
		return fmt.Errorf("cgroups/cpuset: %w", err)
	}
	has, err := numberlist.Parse(strings.TrimSpace(string(online)))
	if err != nil {
		return fmt.Errorf("cgroups/cpuset: %s: %w", s.online, err)
	}
	for n := range wanted {
		if !has[n] {
			return fmt.Errorf("cgroups/cpuset: %s %q: %w: there is no %s %d, this host has %s", s.file, list, container.ErrInvalid, s.what, n, strings.TrimSpace(string(online)))
		}
	}
	return nil
}

// Isolate implements isolator.Enforcer.
func (i *Isolator) Isolate(ctx context.Context, c *isolator.Container, _ int) error {
	return i.Update(ctx, c)
}

// Update implements isolator.Updater. What the request does not name is that of the cgroup
// above.
func (i *Isolator) Update(_ context.Context, c *isolator.Container) error {
	dir, err := cgroup.DirOf(i.groups, c.ID, controller)
	if err != nil {
		return err
	}
	for _, s := range sets {
		list := s.of(c.Config.GetContainerInfo().GetCgroups())
		if err := s.check(list); err != nil {
			return err
		}
		if err := s.set(dir, list); err != nil {
			return fmt.Errorf("cgroups/cpuset: %w", err)
		}
	}
	return nil
}

// set writes a list. v2 takes one that the cgroup above does not have and ignores it; v1
// refuses it.
func (s set) set(dir cgroup.Dir, list string) error {
	asked := list
	if asked == "" && dir.Version() == cgroup.V1 {
		var err error
		if list, err = dir.Above().Read(s.file); err != nil {
			return err
		}
	}
	err := dir.Write(s.file, list)
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("%w: the cgroup above has not all of them, or one below has others: %w", container.ErrInvalid, err)
	}
	if err != nil || asked == "" || dir.Version() == cgroup.V1 {
		return err
	}
	got, err := dir.Read(s.file + ".effective")
	if err == nil && !same(got, asked) {
		err = fmt.Errorf("%s %q: %w: the cgroup above has not all of them: %s would be used", s.file, asked, container.ErrInvalid, got)
	}
	return err
}

func same(list, other string) bool {
	a, errA := numberlist.Parse(list)
	b, errB := numberlist.Parse(other)
	if errA != nil || errB != nil || len(a) != len(b) {
		return false
	}
	for n := range a {
		if !b[n] {
			return false
		}
	}
	return true
}

// Cleanup implements isolator.Isolator: the settings went with the cgroup, which is the
// launcher's.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
