//go:build linux

// Package mem is the isolator cgroups/mem: requested memory is kept for a container
// as far as possible, a limit is enforced by the kernel. A container that the kernel's
// OOM killer has visited ends, with the limit as the reason
// (Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst).
package mem

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/resources"
	"berth/isolator"
	"golang.org/x/sys/unix"
)

const (
	controller = "memory"
	resource   = "mem" // in MiB
	mib        = 1 << 20
	// below it not even the init process and a shell fit
	minLimit = 6 * mib
	minSoft  = 32 * mib // as in Mesos
	noLimit  = 1 << 62  // v1 and v2 print different numbers for none, all above it
)

// Isolator implements isolator.Isolator, isolator.Enforcer, isolator.Watcher,
// isolator.Updater and isolator.Meter.
type Isolator struct {
	groups    cgroup.Groups
	limitSwap bool
	log       *slog.Logger
	pressure  pressures
}

// New returns the isolator. With limitSwap a limit is one of memory and swap together. log
// takes what keeps it from watching a container.
func New(groups cgroup.Groups, limitSwap bool, log *slog.Logger) *Isolator {
	return &Isolator{groups: groups, limitSwap: limitSwap, log: log}
}

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
	// Written so that NaN is refused.
	if limit, ok := resources.Limit(c.Config, resource); ok && !(limit*mib >= minLimit && limit*mib <= noLimit) {
		return fmt.Errorf("cgroups/mem: limit of %v MiB: %w: it must be from %d to %d MiB", limit, container.ErrInvalid, minLimit/mib, noLimit/mib)
	}
	return nil
}

func (i *Isolator) dir(id container.ID) (cgroup.Dir, error) {
	return cgroup.DirOf(i.groups, id, controller)
}

// Isolate implements isolator.Enforcer.
func (i *Isolator) Isolate(_ context.Context, c *isolator.Container, pid int) error {
	dir, err := i.dir(c.ID)
	if err != nil {
		return err
	}
	if err := write(dir, i.settings(dir.Version(), c)); err != nil {
		return err
	}
	if err := preferVictim(c.Config, pid); err != nil {
		return fmt.Errorf("cgroups/mem: %w", err)
	}
	return nil
}

func write(dir cgroup.Dir, settings []cgroup.Setting) error {
	if err := dir.Set(settings); err != nil {
		return fmt.Errorf("cgroups/mem: %w", err)
	}
	return nil
}

// Update implements isolator.Updater. A limit below what is in use is refused rather than
// left to the kernel, which would kill for it.
func (i *Isolator) Update(_ context.Context, c *isolator.Container) error {
	if err := check(c); err != nil {
		return err
	}
	dir, err := i.dir(c.ID)
	if err != nil {
		return err
	}
	if limit, limited := resources.Limit(c.Config, resource); limited {
		usage, err := dir.ReadUint(usageFile(dir))
		if err != nil {
			return fmt.Errorf("cgroups/mem: %w", err)
		}
		if float64(usage) > limit*mib {
			return fmt.Errorf("cgroups/mem: limit of %v MiB: %w: the container uses %d MiB", limit, container.ErrFailedPrecondition, usage/mib)
		}
	}
	err = write(dir, append(i.initial(dir.Version(), dir.Has(swapFileOf(dir.Version())), c), i.settings(dir.Version(), c)...))
	if errors.Is(err, unix.EBUSY) { // v1: it uses more by now
		err = fmt.Errorf("%w: the container uses more: %w", container.ErrFailedPrecondition, err)
	}
	return err
}

func usageFile(dir cgroup.Dir) string {
	if dir.Version() == cgroup.V2 {
		return "memory.current"
	}
	return "memory.usage_in_bytes"
}

// initial are the files that settings does not write, as they are without a setting. On v1
// no limit may be above that of memory and swap together, so that one goes first. Where
// swap is accounted for, its limit is undone whatever limitSwap says: another process,
// to which it said something else, may have set it.
func (i *Isolator) initial(version cgroup.Version, accounted bool, c *isolator.Container) (all []cgroup.Setting) {
	soft, none, hard, max := "memory.soft_limit_in_bytes", "-1", "memory.limit_in_bytes", "-1"
	if version == cgroup.V2 {
		soft, none, hard, max = "memory.low", "0", "memory.max", "max"
	}
	if _, requested := resources.Requested(c.Config, resource); !requested {
		all = append(all, cgroup.Setting{File: soft, Value: none})
	}
	_, limited := resources.Limit(c.Config, resource)
	if accounted && (version == cgroup.V1 || !limited || !i.limitSwap) {
		all = append(all, cgroup.Setting{File: swapFileOf(version), Value: max})
	}
	if !limited {
		all = append(all, cgroup.Setting{File: hard, Value: max})
	}
	return all
}

// The limit of memory and swap together is there on v1 only. On v2 a container that may not
// swap is within it.
const (
	withSwapFile = "memory.memsw.limit_in_bytes"
	swapFile     = "memory.swap.max"
)

func swapFileOf(version cgroup.Version) string {
	if version == cgroup.V2 {
		return swapFile
	}
	return withSwapFile
}

// settings are the files to write, in order.
func (i *Isolator) settings(version cgroup.Version, c *isolator.Container) (all []cgroup.Setting) {
	soft, hard := "memory.soft_limit_in_bytes", "memory.limit_in_bytes"
	if version == cgroup.V2 {
		soft, hard = "memory.low", "memory.max"
	}
	if request, ok := resources.Requested(c.Config, resource); ok {
		all = append(all, cgroup.Setting{File: soft, Value: inBytes(min(noLimit, max(minSoft, request*mib)))})
	}
	if limit, ok := resources.Limit(c.Config, resource); ok {
		all = append(all, cgroup.Setting{File: hard, Value: inBytes(limit * mib)})
		switch {
		case !i.limitSwap:
		case version == cgroup.V1:
			all = append(all, cgroup.Setting{File: withSwapFile, Value: inBytes(limit * mib)})
		default:
			all = append(all, cgroup.Setting{File: swapFile, Value: "0"})
		}
	}
	return all
}

func inBytes(n float64) string { return strconv.FormatInt(int64(n), 10) }

// retry is when a container that could not be watched is looked at again.
const retry = time.Second

// Watch implements isolator.Watcher. The kernel enforces the limit whoever watches: as long
// as nobody can, kills are looked for now and then.
func (i *Isolator) Watch(ctx context.Context, id container.ID) (*container.Limitation, error) {
	var told string
	for {
		found, err := i.watch(ctx, id)
		switch {
		case errors.Is(err, container.ErrNotFound): // the cgroup is gone
			return nil, nil
		case err == nil:
			return found, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("cgroups/mem: whether the kernel has killed for want of memory in container %s: %w", id, err)
		}
		if message := err.Error(); message != told {
			told = message
			i.log.Warn("the memory of a container is not watched; that it exceeds its limit is seen up to a second later", slog.String("container", id.String()), slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

// watch watches until ctx ends or it finds a kill. A kill is found beside a failure, too.
func (i *Isolator) watch(ctx context.Context, id container.ID) (found *container.Limitation, err error) {
	dir, err := i.dir(id)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return killed(dir)
	}
	defer func() {
		if err != nil && found == nil {
			var looked error
			if found, looked = killed(dir); found != nil {
				err = nil
			}
			err = errors.Join(err, looked)
		}
	}()
	events, err := openEvents(dir)
	if err != nil {
		return nil, err
	}
	defer events.close()
	if err := i.pressure.listen(dir, id); err != nil {
		return nil, err
	}
	defer i.pressure.forget(id)
	// The first look is before the first wait: the container may have been quicker. The
	// kernel announces on v1 that memory is out before it chooses whom to kill, and
	// counts the kill after that, if there is one: hence more looks after an event.
	for soon := 0; ; soon-- {
		ended := ctx.Err()
		// Also when ctx has ended: the kill comes before the exit that ended it.
		if found, err := killed(dir); found != nil || err != nil || ended != nil {
			return found, err
		}
		event, err := events.wait(ctx, soon > 0)
		if err != nil {
			return nil, err
		}
		if event {
			soon = looks
		}
	}
}

// killed returns how a container in which the kernel has killed is to end.
func killed(dir cgroup.Dir) (*container.Limitation, error) {
	kills, err := killsIn(dir)
	if err != nil || kills == 0 {
		return nil, err
	}
	return limitation(dir, kills), nil
}

// killsIn returns how many processes the kernel has killed for want of memory: those of
// the container, and whichever the limit of the container was the reason for.
func killsIn(dir cgroup.Dir) (uint64, error) {
	if dir.Version() == cgroup.V1 {
		counters, err := dir.ReadKeyed("memory.oom_control")
		return counters["oom_kill"], err
	}
	// memory.events has what happened to nested containers at limits of their own, too.
	own, err := dir.ReadKeyed("memory.events.local")
	if err != nil {
		return 0, err
	}
	if own["oom"] > 0 {
		all, err := dir.ReadKeyed("memory.events")
		return all["oom_kill"], err
	}
	// The kernel counts in the leaf once something nested has a limit.
	leaf, err := dir.Leaf().ReadKeyed("memory.events.local")
	return own["oom_kill"] + leaf["oom_kill"], ifThere(err)
}

func limitation(dir cgroup.Dir, kills uint64) *container.Limitation {
	limitFile, peakFile := "memory.limit_in_bytes", "memory.max_usage_in_bytes"
	if dir.Version() == cgroup.V2 {
		limitFile, peakFile = "memory.max", "memory.peak"
	}
	l := &container.Limitation{Reason: container.ReasonLimitationMemory, Message: "memory limit exceeded", Resource: resource}
	// For the message and the amount only: the limitation stands without them.
	limit, limitErr := dir.ReadUint(limitFile)
	peak, peakErr := dir.ReadUint(peakFile)
	if peakErr == nil {
		l.Used = float64(peak) / mib
	}
	switch {
	case limitErr != nil || peakErr != nil:
	case limit >= noLimit:
		l.Message = fmt.Sprintf("the host ran out of memory and the kernel killed a process: maximum used %d MiB", peak/mib)
	default:
		l.Message = fmt.Sprintf("memory limit of %d MiB exceeded: maximum used %d MiB", limit/mib, peak/mib)
	}
	l.Message += consumers(dir, kills)
	return l
}

// Cleanup implements isolator.Isolator: the settings went with the cgroup, which is
// the launcher's.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
