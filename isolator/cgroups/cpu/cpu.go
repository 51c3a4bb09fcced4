//go:build linux

// Package cpu is the isolator cgroups/cpu: requested cpus become a weight against
// other containers, a limit becomes a quota of the CPU bandwidth controller
// (Documentation/scheduler/sched-bwc.rst).
package cpu

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/resources"
	"berth/isolator"
)

const (
	controller = "cpu"
	accounting = "cpuacct" // of v1; cpu.stat of v2 has both
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
	return &isolator.LaunchInfo{Controllers: []string{controller, accounting}}, nil
}

func check(c *isolator.Container) error {
	// Written so that NaN is refused.
	if limit, ok := resources.Limit(c.Config, resource); ok && !(limit*period >= minQuota && limit <= maxCPUs) {
		return fmt.Errorf("cgroups/cpu: limit of %v cpus: %w: it must be from %v to %d", limit, container.ErrInvalid, float64(minQuota)/period, maxCPUs)
	}
	return nil
}

func (i *Isolator) dir(id container.ID) (cgroup.Dir, error) {
	return cgroup.DirOf(i.groups, id, controller)
}

// Isolate implements isolator.Enforcer.
func (i *Isolator) Isolate(_ context.Context, c *isolator.Container, _ int) error {
	dir, err := i.dir(c.ID)
	if err != nil {
		return err
	}
	return write(dir, settings(dir.Version(), c))
}

// Update implements isolator.Updater.
func (i *Isolator) Update(_ context.Context, c *isolator.Container) error {
	if err := check(c); err != nil {
		return err
	}
	dir, err := i.dir(c.ID)
	if err != nil {
		return err
	}
	// First as the kernel has them for a new cgroup.
	return write(dir, append(initial(dir.Version(), c), settings(dir.Version(), c)...))
}

// initial are the files that settings does not write, as they are without a setting.
func initial(version cgroup.Version, c *isolator.Container) (all []cgroup.Setting) {
	if _, requested := resources.Requested(c.Config, resource); !requested {
		if version == cgroup.V2 {
			all = append(all, cgroup.Setting{File: "cpu.weight", Value: strconv.Itoa(weightPerCPU)})
		} else {
			all = append(all, cgroup.Setting{File: "cpu.shares", Value: strconv.Itoa(sharesPerCPU)})
		}
	}
	if _, limited := resources.Limit(c.Config, resource); !limited {
		if version == cgroup.V2 {
			all = append(all, cgroup.Setting{File: "cpu.max", Value: "max"})
		} else {
			all = append(all, cgroup.Setting{File: "cpu.cfs_quota_us", Value: "-1"})
		}
	}
	return all
}

// Usage implements isolator.Meter.
func (i *Isolator) Usage(_ context.Context, id container.ID, to *v1.ResourceStatistics) error {
	group, err := i.groups.Group(id)
	if err != nil {
		return err
	}
	dir, err := group.Dir(controller)
	if err != nil {
		return err
	}
	if err := dir.Kept().Scan("cpu.stat", func(key []byte, n uint64) { take(to, key, n) }); err != nil {
		return fmt.Errorf("cgroups/cpu: %w", err)
	}
	if dir.Version() == cgroup.V2 {
		return nil
	}
	account, err := group.Dir(accounting)
	if errors.Is(err, container.ErrNotFound) { // launched by an older berth
		return nil
	}
	if err == nil {
		err = account.Kept().Scan("cpuacct.stat", func(key []byte, n uint64) { take(to, key, n) })
	}
	if err != nil {
		return fmt.Errorf("cgroups/cpu: %w", err)
	}
	return nil
}

// take takes over a line of cpu.stat or cpuacct.stat.
func take(to *v1.ResourceStatistics, key []byte, n uint64) {
	switch string(key) {
	case "nr_periods":
		to.CpusNrPeriods = proto.Uint32(uint32(n))
	case "nr_throttled":
		to.CpusNrThrottled = proto.Uint32(uint32(n))
	case "throttled_usec":
		to.CpusThrottledTimeSecs = proto.Float64(float64(n) / 1e6)
	case "throttled_time":
		to.CpusThrottledTimeSecs = proto.Float64(float64(n) / 1e9)
	case "user_usec":
		to.CpusUserTimeSecs = proto.Float64(float64(n) / 1e6)
	case "system_usec":
		to.CpusSystemTimeSecs = proto.Float64(float64(n) / 1e6)
	case "user":
		to.CpusUserTimeSecs = proto.Float64(float64(n) / ticksPerSecond)
	case "system":
		to.CpusSystemTimeSecs = proto.Float64(float64(n) / ticksPerSecond)
	}
}

// ticksPerSecond is USER_HZ, which is the same on all architectures that Go knows.
const ticksPerSecond = 100

func write(dir cgroup.Dir, settings []cgroup.Setting) error {
	if err := dir.Set(settings); err != nil {
		return fmt.Errorf("cgroups/cpu: %w", err)
	}
	return nil
}

// settings are the files to write, in order.
func settings(version cgroup.Version, c *isolator.Container) (all []cgroup.Setting) {
	cpus, requested := resources.Requested(c.Config, resource)
	limit, limited := resources.Limit(c.Config, resource)
	quota := strconv.Itoa(int(math.Round(limit * period)))
	if version == cgroup.V2 {
		if requested {
			weight := min(maxWeight, max(minWeight, math.Round(cpus*weightPerCPU)))
			all = append(all, cgroup.Setting{File: "cpu.weight", Value: strconv.Itoa(int(weight))})
		}
		if limited {
			all = append(all, cgroup.Setting{File: "cpu.max", Value: fmt.Sprintf("%s %d", quota, period)})
		}
		return all
	}
	if requested {
		shares := min(maxShares, max(minShares, math.Round(cpus*sharesPerCPU)))
		all = append(all, cgroup.Setting{File: "cpu.shares", Value: strconv.Itoa(int(shares))})
	}
	if limited {
		all = append(all, cgroup.Setting{File: "cpu.cfs_period_us", Value: strconv.Itoa(period)}, cgroup.Setting{File: "cpu.cfs_quota_us", Value: quota})
	}
	return all
}

// Cleanup implements isolator.Isolator: the settings went with the cgroup, which is
// the launcher's.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
