//go:build linux

// Package cpu is the isolator cgroups/cpu: requested cpus become a weight against
// other containers, a limit becomes a quota of the CPU bandwidth controller
// (Documentation/scheduler/sched-bwc.rst).
package cpu

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/resources"
	"berth/isolator"
)

const (
	controller = "cpu"
	resource   = "cpus"

	period   = 100_000 // µs
	minQuota = 1_000   // µs, of the kernel
	maxCPUs  = 1 << 20 // more than any host has; the quota still fits

	sharesPerCPU = 1024 // v1: cpu.shares, 2 to 2^18
	minShares    = 2
	maxShares    = 1 << 18
	weightPerCPU = 100 // v2: cpu.weight, 1 to 10000
	minWeight    = 1
	maxWeight    = 10_000
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
	// Written so that NaN is refused.
	if limit, ok := resources.Limit(c.Config, resource); ok && !(limit*period >= minQuota && limit <= maxCPUs) {
		return nil, fmt.Errorf("cgroups/cpu: limit of %v cpus: %w: it must be from %v to %d", limit, container.ErrInvalid, float64(minQuota)/period, maxCPUs)
	}
	return &isolator.LaunchInfo{Controllers: []string{controller}}, nil
}

// Isolate implements isolator.Enforcer.
func (i *Isolator) Isolate(_ context.Context, c *isolator.Container, _ int) error {
	group, err := i.groups.Group(c.ID)
	if err != nil {
		return err
	}
	dir, err := group.Dir(controller)
	if err != nil {
		return err
	}
	for _, s := range settings(dir.Version(), c) {
		if err := dir.Write(s.file, s.value); err != nil {
			return fmt.Errorf("cgroups/cpu: %w", err)
		}
	}
	return nil
}

type setting struct{ file, value string }

// settings are the files to write, in order.
func settings(version cgroup.Version, c *isolator.Container) (all []setting) {
	cpus, requested := resources.Requested(c.Config, resource)
	limit, limited := resources.Limit(c.Config, resource)
	quota := strconv.Itoa(int(math.Round(limit * period)))
	if version == cgroup.V2 {
		if requested {
			weight := min(maxWeight, max(minWeight, math.Round(cpus*weightPerCPU)))
			all = append(all, setting{"cpu.weight", strconv.Itoa(int(weight))})
		}
		if limited {
			all = append(all, setting{"cpu.max", fmt.Sprintf("%s %d", quota, period)})
		}
		return all
	}
	if requested {
		shares := min(maxShares, max(minShares, math.Round(cpus*sharesPerCPU)))
		all = append(all, setting{"cpu.shares", strconv.Itoa(int(shares))})
	}
	if limited {
		all = append(all, setting{"cpu.cfs_period_us", strconv.Itoa(period)}, setting{"cpu.cfs_quota_us", quota})
	}
	return all
}

// Cleanup implements isolator.Isolator: the settings went with the cgroup, which is
// the launcher's.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
