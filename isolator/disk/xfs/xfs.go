//go:build linux

// Package xfs is the isolator disk/xfs: the kernel bounds what a container has on the
// disk, by a project quota of XFS or ext4. A write beyond the limit fails (EDQUOT, or
// ENOSPC where XFS says so). Each container has a project, and each persistent volume.
package xfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/metrics"
	"berth/internal/projectquota"
	"berth/isolator"
)

// Options are what the isolator is made of.
type Options struct {
	// Volume returns the directory of a persistent volume.
	Volume func(role, id string) string
	// Further returns where a container has files beside what its request names. What lies on
	// another file system is not counted.
	Further func(id container.ID) []string
	// Projects are those that containers and volumes get; Ledger is the directory that
	// says who has which.
	Projects Range
	Ledger   string
	// WorkDir is on the file system of what containers have.
	WorkDir string
	// Kill: a container that exceeds its limit ends; it can have Headroom bytes more until
	// it is looked at, once in an Interval.
	Kill     bool
	Headroom uint64
	Interval time.Duration
	// EnforceRequests: also the disk that a container requests is its limit.
	EnforceRequests bool
	// Metrics gets how many projects there are, and how many of them are free.
	Metrics *metrics.Set
}

// Isolator implements isolator.Isolator, isolator.Enforcer, isolator.Watcher, isolator.Updater,
// isolator.Meter, isolator.Recoverer and isolator.Prober.
type Isolator struct {
	Options
	ledger *ledger

	mu         sync.Mutex
	containers map[container.ID][]quota
}

// quota is a disk and its project.
type quota struct {
	isolator.Disk
	project projectquota.Project
}

// New returns the isolator.
func New(o Options) *Isolator {
	i := &Isolator{Options: o, ledger: &ledger{o.Ledger, o.Projects}, containers: map[container.ID][]quota{}}
	o.Metrics.Gauge("containerizer/mesos/disk/project_ids_total", func() float64 { return float64(o.Projects.size()) })
	o.Metrics.Gauge("containerizer/mesos/disk/project_ids_free", func() float64 { return float64(o.Projects.size() - i.ledger.used()) })
	return i
}

// Probe implements isolator.Prober.
func (i *Isolator) Probe(context.Context) error { return projectquota.Check(i.WorkDir) }

// Supports implements isolator.Supporter: what is nested has files of its own, on which
// nobody set a limit.
func (i *Isolator) Supports() isolator.Support { return isolator.Support{} }

// Prepare implements isolator.Isolator. Persistent volumes were made by then.
func (i *Isolator) Prepare(ctx context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	quotas, err := i.quotas(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("disk/xfs: %w", err)
	}
	i.remember(c.ID, quotas)
	return nil, nil
}

// Isolate implements isolator.Enforcer: by now other isolators have made what they have to.
func (i *Isolator) Isolate(_ context.Context, c *isolator.Container, _ int) error {
	quotas := i.of(c.ID)
	if len(quotas) == 0 || quotas[0].project == 0 {
		return nil
	}
	for _, dir := range i.Further(c.ID) {
		if !onOneFileSystem(dir, quotas[0].Directories[0]) {
			continue
		}
		if err := projectquota.Tag(dir, quotas[0].project); err != nil {
			return fmt.Errorf("disk/xfs: %w", err)
		}
	}
	return nil
}

// onOneFileSystem reports whether two directories are, if both are there.
func onOneFileSystem(one, other string) bool {
	a, errA := os.Stat(one)
	b, errB := os.Stat(other)
	return errA == nil && errB == nil && a.Sys().(*syscall.Stat_t).Dev == b.Sys().(*syscall.Stat_t).Dev
}

// Recover implements isolator.Recoverer: directories tell whose they are, and those of
// containers that were launched without this isolator become a project's.
func (i *Isolator) Recover(ctx context.Context, living []*isolator.Container) error {
	for _, c := range living {
		quotas, err := i.quotas(ctx, c)
		if err != nil {
			return fmt.Errorf("disk/xfs: container %s: %w", c.ID, err)
		}
		i.remember(c.ID, quotas)
	}
	return nil
}

func (i *Isolator) remember(id container.ID, quotas []quota) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.containers[id] = quotas
}

func (i *Isolator) of(id container.ID) []quota {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.containers[id]
}

// quotas gives each disk of a container a project, with the limits that it is to have.
func (i *Isolator) quotas(ctx context.Context, c *isolator.Container) (quotas []quota, err error) {
	disks, err := isolator.Disks(c.Config, i.Volume)
	if err != nil {
		return nil, err
	}
	for _, d := range disks {
		q := quota{Disk: d}
		if len(d.Directories) > 0 {
			if q.project, err = i.project(ctx, d.Directories); err == nil {
				err = i.limit(q)
			}
		}
		if err != nil {
			return nil, err
		}
		quotas = append(quotas, q)
	}
	return quotas, nil
}

// project returns that of the directories, which they get if they have none.
func (i *Isolator) project(ctx context.Context, directories []string) (projectquota.Project, error) {
	p, err := projectquota.Of(directories[0])
	if errors.Is(err, fs.ErrNotExist) { // a sandbox that nobody has
		return 0, nil
	}
	if err != nil || i.Projects.has(p) {
		return p, err
	}
	if p, err = i.ledger.take(ctx, directories); err != nil {
		return 0, err
	}
	for _, dir := range directories {
		if err := projectquota.Tag(dir, p); err != nil {
			return 0, err
		}
	}
	return p, nil
}

func (i *Isolator) enforces(d isolator.Disk) bool {
	return d.Limit > 0 && (d.Enforced || i.EnforceRequests)
}

// limit tells the kernel; without a limit a project is only counted.
func (i *Isolator) limit(q quota) error {
	if q.project == 0 {
		return nil
	}
	var soft, hard uint64
	if i.enforces(q.Disk) {
		soft, hard = q.Limit, q.Limit
		if i.Kill {
			hard += i.Headroom
		}
	}
	return projectquota.SetLimits(q.Directories[0], q.project, soft, hard)
}

// Update implements isolator.Updater. With more on the disk than a new limit allows, no
// more is taken.
func (i *Isolator) Update(_ context.Context, c *isolator.Container) error {
	disks, err := isolator.Disks(c.Config, i.Volume)
	if err != nil {
		return fmt.Errorf("disk/xfs: %w", err)
	}
	before := i.of(c.ID)
	if before == nil {
		return fmt.Errorf("disk/xfs: container %s: %w", c.ID, container.ErrNotFound)
	}
	own := before[0]
	own.Limit, own.Enforced = disks[0].Limit, disks[0].Enforced
	if err := i.limit(own); err != nil {
		return fmt.Errorf("disk/xfs: %w", err)
	}
	i.remember(c.ID, append([]quota{own}, before[1:]...))
	return nil
}

// Watch implements isolator.Watcher. Also without Kill it looks: on ext4 the kernel lets a
// process with CAP_SYS_RESOURCE exceed a limit.
func (i *Isolator) Watch(ctx context.Context, id container.ID) (*container.Limitation, error) {
	ticker := time.NewTicker(i.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, nil
		case <-ticker.C:
		}
		for _, q := range i.of(id) {
			if q.project == 0 || !i.enforces(q.Disk) {
				continue
			}
			usage, err := projectquota.UsageOf(q.Directories[0], q.project)
			switch {
			case errors.Is(err, fs.ErrNotExist): // its directories are gone, and so is it
				return nil, nil
			case err != nil:
				return nil, fmt.Errorf("disk/xfs: %w", err)
			case usage.Used > q.Limit:
				return q.Exceeded(usage.Used), nil
			}
		}
	}
}

// Usage implements isolator.Meter.
func (i *Isolator) Usage(_ context.Context, id container.ID, to *v1.ResourceStatistics) error {
	quotas := i.of(id)
	if quotas == nil {
		return fmt.Errorf("disk/xfs: container %s: %w", id, container.ErrNotFound)
	}
	for _, q := range quotas {
		if q.project == 0 {
			continue
		}
		usage, err := projectquota.UsageOf(q.Directories[0], q.project)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("disk/xfs: container %s: %w: %w", id, container.ErrNotFound, err)
		}
		if err != nil {
			return fmt.Errorf("disk/xfs: %w", err)
		}
		s := &v1.DiskStatistics{Persistence: q.Persistence, UsedBytes: proto.Uint64(usage.Used)}
		if q.Limit > 0 {
			s.LimitBytes = proto.Uint64(q.Limit)
		}
		to.DiskStatistics = append(to.DiskStatistics, s)
		if q.Persistence == nil {
			to.DiskUsedBytes, to.DiskLimitBytes = s.UsedBytes, s.LimitBytes
		}
	}
	return nil
}

// Cleanup implements isolator.Isolator. A project stays that of its directories, until they
// are gone.
func (i *Isolator) Cleanup(_ context.Context, id container.ID) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.containers, id)
	return nil
}
