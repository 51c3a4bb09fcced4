//go:build linux

// Package linux is the launcher for Linux: it clones the init process into the
// container's namespaces and owns the container's cgroup in every hierarchy.
//
// A process of the container is in its cgroup from birth where the host has a
// cgroup v2 tree (clone3(2) with CLONE_INTO_CGROUP). It enters those of cgroup v1 itself,
// before berth-init is executed. So killing the cgroup kills the container, whatever it forks.
package linux

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/atomicfile"
	"berth/internal/cgroup"
	"berth/internal/disk"
	"berth/internal/mount"
	"berth/launcher"
	"berth/launcher/initproc"
	"berth/state"
)

// Options are what a Launcher is made of.
type Options struct {
	Layout      state.Layout
	Cgroups     *cgroup.Host
	CgroupsRoot string // relative to each hierarchy
	Dir         string // where berth-init is
}

// Launcher implements launcher.Launcher.
type Launcher struct {
	Options
	// groups are the *cgroup.Group of containers that this process has forked or taken up:
	// they are asked for all the time, and their records do not change.
	groups sync.Map
}

var _ launcher.Launcher = (*Launcher)(nil)

// New returns the launcher. ErrFailedPrecondition: not root, or no berth-init.
func New(o Options) (*Launcher, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("linux launcher: %w: it makes namespaces and mounts and needs root; this is user %d", container.ErrFailedPrecondition, os.Geteuid())
	}
	if _, err := initproc.Find(o.Dir); err != nil {
		return nil, fmt.Errorf("linux launcher: %w", err)
	}
	return &Launcher{Options: o}, nil
}

// cgroupRecord is the file `cgroup` of a container.
type cgroupRecord struct {
	Path        string   `json:"path"`
	Controllers []string `json:"controllers"`
	// Shares says that the processes are in the parent's cgroups, too.
	Shares bool `json:"shares,omitempty"`
}

// Group returns the container's cgroup as it was recorded. ErrNotFound when it has
// none: it was never forked.
func (l *Launcher) Group(id container.ID) (*cgroup.Group, error) {
	if known, ok := l.groups.Load(id); ok {
		return known.(*cgroup.Group), nil
	}
	rec, err := l.record(id)
	if err != nil {
		return nil, err
	}
	return l.Cgroups.Group(rec.Path, rec.Controllers)
}

func (l *Launcher) record(id container.ID) (rec cgroupRecord, err error) {
	data, err := os.ReadFile(l.Layout.Container(id).Cgroup())
	if errors.Is(err, fs.ErrNotExist) {
		return rec, fmt.Errorf("cgroup of container %s: %w", id, container.ErrNotFound)
	}
	if err != nil {
		return rec, fmt.Errorf("cgroup of container %s: %w", id, err)
	}
	if json.Unmarshal(data, &rec) != nil {
		// Torn by a power cut, during which nothing of the container can have lived on.
		rec = cgroupRecord{Path: l.groupPath(id), Controllers: l.everyController()}
	}
	return rec, nil
}

func (l *Launcher) groupPath(id container.ID) string {
	return filepath.Join(append([]string{l.CgroupsRoot}, id.Values()...)...)
}

// everyController returns all controllers of this host, by their names on v1.
func (l *Launcher) everyController() []string {
	all := []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer", "hugetlb", "net_cls", "net_prio", "perf_event", "rdma", "misc"}
	return slices.DeleteFunc(all, func(controller string) bool {
		_, ok := l.Cgroups.Version(controller)
		return !ok
	})
}

func (l *Launcher) makeGroup(id container.ID, spec launcher.Spec) (*cgroup.Group, error) {
	group, err := l.Cgroups.Group(l.groupPath(id), spec.Controllers)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(cgroupRecord{group.Path(), group.Controllers(), spec.SharesCgroups})
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Write(l.Layout.Container(id).Cgroup(), append(data, '\n'), 0o600, false); err != nil {
		return nil, err
	}
	if err := disk.At(placeRecorded); err != nil {
		return nil, err
	}
	return group, errors.Join(group.Create(), disk.At(placeMade))
}

// The places of a life at which a test may end this process.
const (
	placeRecorded = "fork: the cgroup is recorded"
	placeMade     = "fork: the cgroup is made"
	placeCloned   = "fork: the process is cloned"
	placeKnown    = "fork: the process is recorded"
	placeKilled   = "destroy: the processes are killed"
	placeRemoved  = "destroy: the cgroup is removed"
)

// Fork implements launcher.Launcher.
func (l *Launcher) Fork(ctx context.Context, id container.ID, spec launcher.Spec) (launcher.Process, error) {
	group, err := l.makeGroup(id, spec)
	if err != nil {
		return nil, fmt.Errorf("fork container %s: %w", id, err)
	}
	h, err := l.newHandover(&spec)
	if err != nil {
		return nil, fmt.Errorf("fork container %s: %w", id, err)
	}
	defer h.close()
	p, err := l.clone(spec, group, h)
	if err != nil {
		return nil, fmt.Errorf("fork container %s: %w", id, err)
	}
	if err := errors.Join(disk.At(placeCloned), initproc.Record(l.Layout.Container(id).Pid(), p.Pid()), disk.At(placeKnown), h.send(p.Pid())); err != nil {
		return nil, errors.Join(fmt.Errorf("fork container %s: %w", id, err), p.Abandon(ctx))
	}
	l.groups.Store(id, group)
	return p, nil
}

// clone starts berth-init, which waits.
func (l *Launcher) clone(spec launcher.Spec, group *cgroup.Group, h *handover) (_ *initproc.Process, err error) {
	program, err := l.openInit()
	if err != nil {
		return nil, err
	}
	defer program.Close()
	channels, err := initproc.Open(spec)
	if err != nil {
		return nil, err
	}
	defer channels.Close()
	channels.Files.Sources, h.theirs = h.theirs, nil // closed with the others
	if !spec.Parent.IsZero() {
		if channels.Files.Parent, err = l.openParent(spec); err != nil { // closed with the others
			return nil, err
		}
	}
	unified, err := group.UnifiedFD()
	if err != nil {
		return nil, err
	}
	if unified != nil {
		defer unified.Close()
	}
	entrances, err := l.entrances(spec, group)
	if err != nil {
		return nil, err
	}
	defer closeAll(entrances)
	return channels.Start(func(attr *os.ProcAttr) (*os.Process, error) {
		return start(birth{attr, program, channels.Files.Parent, unified, entrances}, spec)
	})
}

// entrances opens the v1 cgroups that berth-init enters before it is executed.
func (l *Launcher) entrances(spec launcher.Spec, group *cgroup.Group) (all []*os.File, err error) {
	shared, err := l.shared(spec)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			closeAll(all)
		}
	}()
	for _, dir := range shared {
		entrance, err := dir.Entrance()
		if err != nil {
			return all, fmt.Errorf("the parent's cgroup: %w", err)
		}
		all = append(all, entrance)
	}
	own, err := group.Entrances()
	return append(all, own...), err
}

// openInit opens berth-init on a read-only mount of its own that is in no mount
// table: the container reaches it through /proc/1/exe and cannot write to it
// (CVE-2019-5736), while all containers share its pages.
func (l *Launcher) openInit() (*os.File, error) {
	program, err := mount.Clone(filepath.Join(l.Dir, initproc.Name), false)
	if err != nil {
		return nil, err
	}
	if err := program.Set(mount.ReadOnly, false); err != nil {
		return nil, errors.Join(err, program.Close())
	}
	return os.NewFile(uintptr(program.FD()), initproc.Name), nil
}

func cloneFlags(spec launcher.Spec) (flags uintptr) {
	// berth-init changes mounts, and must never change the host's.
	if !spec.Plan.HostMounts {
		flags = unix.CLONE_NEWNS
	}
	for _, ns := range spec.Namespaces {
		flags |= namespaceFlags[ns]
	}
	return flags
}

// Attach implements launcher.Launcher.
func (l *Launcher) Attach(_ context.Context, id container.ID) (launcher.Process, error) {
	group, err := l.Group(id)
	if err != nil {
		return nil, err
	}
	p, err := initproc.Attach(l.Layout.Container(id).Pid())
	if err != nil {
		return nil, fmt.Errorf("the init process of container %s: %w", id, err)
	}
	l.groups.Store(id, group)
	return p, nil
}

// Processes implements launcher.Lister.
func (l *Launcher) Processes(id container.ID) ([]int, error) {
	group, err := l.Group(id)
	if err != nil {
		return nil, err
	}
	return group.Processes()
}

// Destroy implements launcher.Launcher.
func (l *Launcher) Destroy(ctx context.Context, id container.ID) error {
	group, err := l.Group(id)
	if errors.Is(err, container.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := errors.Join(group.Kill(ctx), disk.At(placeKilled)); err != nil {
		return fmt.Errorf("destroy container %s: %w", id, err)
	}
	if err := errors.Join(group.RemoveBelow(ctx, l.CgroupsRoot), disk.At(placeRemoved)); err != nil {
		return fmt.Errorf("destroy container %s: %w", id, err)
	}
	l.groups.Delete(id)
	return nil
}

// Close removes the cgroup that those of containers are in, where none of anybody is left. It
// may be called again, and containers launched after it.
func (l *Launcher) Close() { l.Cgroups.RemoveEmpty(l.CgroupsRoot) }
