package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth/container"
)

// Group is one container's cgroup in every hierarchy that it has a part in.
// It is a name and holds no resources: two Groups of the same path
// are the same cgroup. Its methods may be called at the same time.
type Group struct {
	path     string
	branches []branch // in the order in which a killer must go: freezer, v2, the rest
	kept     kept
}

// branch is the part of a group that lies in one hierarchy.
type branch struct {
	*hierarchy
	dir         string
	controllers []string // those asked for that this hierarchy serves, by v1 name
}

// Group names the cgroup at a path like "berth/x", relative to the mount point of
// each hierarchy, for the controllers given. Nothing is made.
//
// A controller that the host does not offer is an error of class
// container.ErrNotSupported, and so is a host with neither a v2 tree nor a v1
// freezer. A path that is not clean and relative is of class container.ErrInvalid.
func (h *Host) Group(path string, controllers []string) (*Group, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	g := &Group{path: path}
	unified := h.unified()
	// The freezer first: what it holds frozen does not die of the others' signals.
	if unified == nil || slices.Contains(controllers, "freezer") {
		if err := g.join(h, "freezer"); err != nil {
			return nil, fmt.Errorf("cgroup %s: a keeper: %w", path, err)
		}
	}
	if unified != nil {
		g.branch(unified)
	}
	for _, controller := range controllers {
		if err := g.join(h, controller); err != nil {
			return nil, fmt.Errorf("cgroup %s: %w", path, err)
		}
	}
	return g, nil
}

func checkPath(path string) error {
	if !filepath.IsLocal(path) || filepath.Clean(path) != path || path == "." || strings.ContainsAny(path, "\n\x00") {
		return fmt.Errorf("cgroup path %q: %w: it must be relative and clean, as in berth/x", path, container.ErrInvalid)
	}
	return nil
}

func (g *Group) join(h *Host, controller string) error {
	found := h.find(controller)
	if found == nil {
		return h.unavailable(controller)
	}
	b := g.branch(found)
	if !slices.Contains(b.controllers, controller) {
		b.controllers = append(b.controllers, controller)
	}
	return nil
}

// branch returns the group's part in the hierarchy, once for all of its controllers.
func (g *Group) branch(h *hierarchy) *branch {
	i := slices.IndexFunc(g.branches, func(b branch) bool { return b.hierarchy == h })
	if i < 0 {
		i = len(g.branches)
		g.branches = append(g.branches, branch{hierarchy: h, dir: filepath.Join(h.mount, g.path)})
	}
	return &g.branches[i]
}

// leafName is where the processes of a group live in the v2 tree. A container's id, and so
// the name of a group nested in this one, has no dot.
const leafName = "berth.leaf"

// processDir is the directory that the group's own processes are in. v2 gives controllers
// to the cgroups below one only while that holds no processes itself.
func (b branch) processDir() string {
	if b.version == V2 {
		return filepath.Join(b.dir, leafName)
	}
	return b.dir
}

// onlyV1 holds the controllers that a v2 tree never has.
var onlyV1 = []string{"net_cls", "net_prio"}

// unavailable says which controllers the host offers instead, and the remedies.
func (h *Host) unavailable(controller string) error {
	var offers []string
	for _, known := range h.hierarchies {
		offers = append(offers, fmt.Sprintf("%s (%s)", strings.Join(known.controllers, ","), known.version))
	}
	offer := "no cgroup hierarchy is mounted"
	if len(offers) > 0 {
		offer = "this host offers " + strings.Join(offers, ", ")
	}
	return fmt.Errorf("controller %q: %w: %s: %s", controller, container.ErrNotSupported, offer, h.remedy(controller))
}

func (h *Host) remedy(controller string) string {
	if strings.HasPrefix(controller, "name=") {
		return fmt.Sprintf("mount -t cgroup -o none,%s cgroup DIR", controller)
	}
	remedy := fmt.Sprintf("mount -t cgroup -o %s cgroup DIR", controller)
	if unified := h.unified(); unified != nil && !slices.Contains(onlyV1, controller) {
		remedy = fmt.Sprintf("delegate it to %s (under systemd: Delegate=yes), or %s", unified.mount, remedy)
	}
	return fmt.Sprintf("%s, or boot with cgroup_enable=%s, or do without what asks for it", remedy, controller)
}

// Path returns the path given to Host.Group.
func (g *Group) Path() string { return g.path }

// Controllers returns what to record with the path: with both, Host.Group names the
// same cgroup again even when a v2 tree has been mounted in between. Those are the
// controllers asked for, and freezer when it is the keeper.
func (g *Group) Controllers() []string {
	var all []string
	for _, b := range g.branches {
		all = append(all, b.controllers...)
	}
	return all
}

// Dir returns the group's directory for a controller that it was asked for.
// Another controller is an error of class container.ErrNotFound.
func (g *Group) Dir(controller string) (Dir, error) {
	for _, b := range g.branches {
		if slices.Contains(b.controllers, controller) {
			return Dir{path: b.dir, version: b.version, kept: &g.kept}, nil
		}
	}
	return Dir{}, fmt.Errorf("cgroup %s: %w: it has no controller %q, only %s",
		g.path, container.ErrNotFound, controller, strings.Join(g.Controllers(), ", "))
}

// keeper returns the branch from which no process can slip away while it is killed.
func (g *Group) keeper() branch {
	for _, b := range g.branches {
		if b.version == V2 {
			return b
		}
	}
	return g.branches[0]
}

// UnifiedFD opens the directory of the group's processes in the v2 tree, for CLONE_INTO_CGROUP. The
// caller closes it. It returns nil and no error when the host has no v2 tree.
func (g *Group) UnifiedFD() (*os.File, error) {
	keeper := g.keeper()
	if keeper.version != V2 {
		return nil, nil
	}
	dir, err := os.OpenFile(keeper.processDir(), unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: %w", container.ErrNotFound, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", g.path, err)
	}
	return dir, nil
}

// Entrances opens the files by which a process that has one thread enters the v1 hierarchies
// of the group itself: it writes Itself to each of them. The caller closes them. So no process
// waits for others: to move another one, the kernel has all forks and exits of the host
// stand still, and to begin with that takes an RCU grace period, which on a busy host is
// milliseconds (cgroup_attach_lock).
func (g *Group) Entrances() ([]*os.File, error) {
	var entrances []*os.File
	for _, b := range g.branches {
		if b.version == V2 {
			continue
		}
		entrance, err := Dir{path: b.dir, version: V1}.Entrance()
		if err != nil {
			for _, f := range entrances {
				err = errors.Join(err, f.Close())
			}
			return nil, fmt.Errorf("cgroup %s: %w", g.path, err)
		}
		entrances = append(entrances, entrance)
	}
	return entrances, nil
}

// Itself is what a process writes to an entrance.
const Itself = "0"

// Entrance opens the file of a v1 hierarchy to which a process with one thread writes Itself.
func (d Dir) Entrance() (*os.File, error) {
	const file = "tasks"
	fd, err := openAt(unix.AT_FDCWD, d.path+"/"+file, unix.O_WRONLY)
	if err != nil {
		return nil, d.explain("open", file, err)
	}
	return os.NewFile(uintptr(fd), d.path+"/"+file), nil
}

// Enter moves a process, with all of its threads, into the group; its children are
// born there. A nil error proves that it is in every hierarchy; after an error it
// may be in some. Enter may be repeated. A process that has ended is an error of
// class container.ErrNotFound.
//
// One that was cloned into the v2 tree is not moved there again: each migration
// waits for the forks of the whole host, and the first one for an RCU grace period.
func (g *Group) Enter(pid int) error {
	if pid <= 0 {
		return fmt.Errorf("enter cgroup %s: %w: process id %d", g.path, container.ErrInvalid, pid)
	}
	for _, b := range g.branches {
		if b.version == V2 && b.holds(pid) {
			continue
		}
		err := Dir{path: b.processDir(), version: b.version}.Write("cgroup.procs", strconv.Itoa(pid))
		if errors.Is(err, unix.ESRCH) {
			err = fmt.Errorf("%w: %w", container.ErrNotFound, err)
		}
		if err != nil {
			return fmt.Errorf("enter cgroup %s: process %d: %w", g.path, pid, err)
		}
	}
	return nil
}

// holds reports whether the process is in this very cgroup. A list that cannot be
// read holds nobody: the write that follows says what is wrong.
func (b branch) holds(pid int) bool {
	text, err := readAt(unix.AT_FDCWD, filepath.Join(b.processDir(), "cgroup.procs"))
	return err == nil && slices.Contains(strings.Fields(text), strconv.Itoa(pid))
}

// Processes returns the processes in the group and in the cgroups below it, in
// ascending order. A group that does not exist has none.
func (g *Group) Processes() ([]int, error) {
	pids, err := g.keeper().processes()
	if err != nil {
		return nil, fmt.Errorf("list processes of cgroup %s: %w", g.path, err)
	}
	pids = slices.DeleteFunc(pids, func(pid int) bool { return pid == invisible })
	slices.Sort(pids)
	return slices.Compact(pids), nil
}
