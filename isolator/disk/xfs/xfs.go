//go:build linux

// Package xfs is the isolator disk/xfs: the kernel bounds what a container has on the
// disk, by a project quota of XFS or ext4. A write beyond the limit fails (EDQUOT, or
// ENOSPC where XFS says so). Each root container has a project, which is that of the
// containers nested in it, too, and each persistent volume has one.
package xfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

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
	// Log takes why a container was not looked at.
	Log *slog.Logger
	// Metrics gets how many projects there are, and how many of them are free.
	Metrics *metrics.Set
}

// Isolator implements isolator.Isolator, isolator.Enforcer, isolator.Watcher, isolator.Updater,
// isolator.Meter, isolator.Recoverer and isolator.Prober.
type Isolator struct {
	Options
	ledger *ledger

	mu         sync.Mutex
	containers map[container.ID]counted
}

// counted is what is known of a container: its quotas, that of its own space first; of a
// nested one, which has none, the project of its root container.
type counted struct {
	quotas  []quota
	nested  bool
	project projectquota.Project // in which its files count; 0: in none
}

// quota is a disk and its project.
type quota struct {
	isolator.Disk
	project projectquota.Project
}

// New returns the isolator.
func New(o Options) *Isolator {
	i := &Isolator{Options: o, ledger: &ledger{o.Ledger, o.Projects}, containers: map[container.ID]counted{}}
	o.Metrics.Gauge("containerizer/mesos/disk/project_ids_total", func() float64 { return float64(o.Projects.size()) })
	o.Metrics.Gauge("containerizer/mesos/disk/project_ids_free", func() float64 { return float64(o.Projects.size() - i.ledger.used()) })
	return i
}

// Probe implements isolator.Prober.
func (i *Isolator) Probe(context.Context) error { return projectquota.Check(i.WorkDir) }

// Supports implements isolator.Supporter: what is nested counts for the root container. What
// somebody writes who looks into it does not, or nobody could look into one that is full.
func (i *Isolator) Supports() isolator.Support {
	return isolator.Support{Nested: true, SharedCgroups: true}
}

// Prepare implements isolator.Isolator. Persistent volumes were made by then.
func (i *Isolator) Prepare(ctx context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	if err := i.count(ctx, c); err != nil {
		return nil, fmt.Errorf("disk/xfs: %w", err)
	}
	return nil, nil
}

// Isolate implements isolator.Enforcer: by now other isolators have made what they have to.
func (i *Isolator) Isolate(ctx context.Context, c *isolator.Container, _ int) error {
	if err := i.countFurther(ctx, c.ID); err != nil {
		return fmt.Errorf("disk/xfs: %w", err)
	}
	return nil
}

// count makes what a container has on the disk a project's, with the limits that there are to be.
func (i *Isolator) count(ctx context.Context, c *isolator.Container) error {
	if c.Parent != nil {
		return i.countNested(ctx, c)
	}
	quotas, err := i.quotas(ctx, c)
	if err != nil {
		return err
	}
	i.remember(c.ID, counted{quotas: quotas, project: quotas[0].project})
	return nil
}

// countNested makes a nested container's files those of the project of its root container. A file
// has one project, so that they could not be bounded for themselves without being out of
// bounds for the root container.
func (i *Isolator) countNested(ctx context.Context, c *isolator.Container) error {
	if err := unlimited(c); err != nil {
		return err
	}
	root := c.Parent
	for root.Parent != nil {
		root = root.Parent
	}
	of := i.of(root.ID)
	i.remember(c.ID, counted{nested: true, project: of.project})
	if of.project == 0 {
		return nil
	}
	directories := c.Config.GetEphemeralVolumes()
	if own := c.Config.GetDirectory(); own != "" {
		directories = append([]string{own}, directories...)
	}
	return i.tag(ctx, of.project, i.countable(directories))
}

// unlimited refuses a limit of a nested container's own.
func unlimited(c *isolator.Container) error {
	if limit, limited := c.Config.GetLimits()["disk"]; limited && !math.IsInf(limit.GetValue(), 1) {
		return fmt.Errorf("disk of %v MiB for a nested container: %w: it shares the limit of its root container; disk/du has limits for each", limit.GetValue(), container.ErrNotSupported)
	}
	return nil
}

// countFurther is count for what the request of a container does not name.
func (i *Isolator) countFurther(ctx context.Context, id container.ID) error {
	of := i.of(id)
	if of.project == 0 {
		return nil
	}
	return i.tag(ctx, of.project, i.countable(i.Further(id)))
}

// tag makes directories, and all that is in them, a project's, unless they are already.
func (i *Isolator) tag(ctx context.Context, p projectquota.Project, directories []string) error {
	if len(directories) == 0 {
		return nil
	}
	pending, err := i.ledger.add(ctx, p, directories)
	if err != nil || len(pending) == 0 {
		return err
	}
	return i.finish(ctx, p, pending)
}

// finish tags directories that the ledger has.
func (i *Isolator) finish(ctx context.Context, p projectquota.Project, directories []string) error {
	for _, dir := range directories {
		if err := projectquota.Tag(dir, p); err != nil {
			return err
		}
	}
	return i.ledger.finish(ctx, p, directories)
}

// countable are those of the directories that are there, on the file system that has quotas.
func (i *Isolator) countable(directories []string) []string {
	return slices.DeleteFunc(slices.Clone(directories), func(dir string) bool { return !onOneFileSystem(dir, i.WorkDir) })
}

// onOneFileSystem reports whether two directories are, if both are there.
func onOneFileSystem(one, other string) bool {
	a, errA := os.Stat(one)
	b, errB := os.Stat(other)
	return errA == nil && errB == nil && a.Sys().(*syscall.Stat_t).Dev == b.Sys().(*syscall.Stat_t).Dev
}

// Recover implements isolator.Recoverer: directories tell whose they are. Those of containers
// that were launched without this isolator become a project's, and what another process has
// begun is finished.
func (i *Isolator) Recover(ctx context.Context, living []*isolator.Container) error {
	// What is nested in a container comes after that.
	living = slices.SortedStableFunc(slices.Values(living), func(a, b *isolator.Container) int {
		return cmp.Compare(len(a.ID.Values()), len(b.ID.Values()))
	})
	for _, c := range living {
		if err := errors.Join(i.count(ctx, c), i.countFurther(ctx, c.ID)); err != nil {
			return fmt.Errorf("disk/xfs: container %s: %w", c.ID, err)
		}
	}
	return nil
}

func (i *Isolator) remember(id container.ID, c counted) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.containers[id] = c
}

// of returns what is known of a container; the zero value: nothing.
func (i *Isolator) of(id container.ID) counted {
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
	if err != nil {
		return 0, err
	}
	if i.Projects.has(p) {
		return p, i.tag(ctx, p, directories)
	}
	if p, err = i.ledger.take(ctx, directories); err != nil {
		return 0, err
	}
	return p, i.finish(ctx, p, directories)
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
	switch {
	case before.nested:
		err = unlimited(c)
	case before.quotas == nil:
		err = fmt.Errorf("container %s: %w", c.ID, container.ErrNotFound)
	default:
		own := before.quotas[0]
		own.Limit, own.Enforced = disks[0].Limit, disks[0].Enforced
		if err = i.limit(own); err == nil {
			before.quotas = append([]quota{own}, before.quotas[1:]...)
			i.remember(c.ID, before)
		}
	}
	if err != nil {
		return fmt.Errorf("disk/xfs: %w", err)
	}
	return nil
}

// Watch implements isolator.Watcher. Also without Kill it looks: on ext4 the kernel lets a
// process with CAP_SYS_RESOURCE exceed a limit. That nobody could look is no reason to end a
// container, and what is nested has no limit.
func (i *Isolator) Watch(ctx context.Context, id container.ID) (*container.Limitation, error) {
	if i.of(id).nested {
		return nil, nil
	}
	rounds := isolator.Rounds{Interval: i.Interval, Log: i.Log, Undone: "the disk of a container was not looked at"}
	return rounds.Watch(ctx, id, func() (*container.Limitation, error) { return i.look(id) })
}

func (i *Isolator) look(id container.ID) (*container.Limitation, error) {
	for _, q := range i.of(id).quotas {
		if q.project == 0 || !i.enforces(q.Disk) {
			continue
		}
		used, err := q.used()
		if err != nil {
			return nil, err
		}
		if used > q.Limit {
			return q.Exceeded(used), nil
		}
	}
	return nil, nil
}

// used asks the kernel. ErrNotFound: the directories are gone.
func (q quota) used() (uint64, error) {
	usage, err := projectquota.UsageOf(q.Directories[0], q.project)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", container.ErrNotFound, err)
	}
	return usage.Used, err
}

// Usage implements isolator.Meter.
func (i *Isolator) Usage(_ context.Context, id container.ID, to *v1.ResourceStatistics) error {
	of := i.of(id)
	if of.nested { // it is in that of its root container
		return nil
	}
	if of.quotas == nil {
		return fmt.Errorf("disk/xfs: container %s: %w", id, container.ErrNotFound)
	}
	for _, q := range of.quotas {
		if q.project == 0 {
			continue
		}
		used, err := q.used()
		if err != nil {
			return fmt.Errorf("disk/xfs: container %s: %w", id, err)
		}
		q.Report(&used, to)
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
