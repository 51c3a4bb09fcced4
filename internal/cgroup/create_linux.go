package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
)

const (
	// mkdirTries bounds how often a parent may vanish under Create, because the last
	// group beside this one was removed.
	mkdirTries = 1000
	// undoTime bounds the removal of what a failed Create made, which nobody uses.
	undoTime = time.Second
)

// Create makes the group in every hierarchy, with the parents that are missing, so
// that a process can enter it: v2 controllers are enabled from the top down and a
// cpuset has the CPUs and memory nodes of its parent.
//
// A group that exists in any hierarchy is an error of class container.ErrExists. After an
// error, what this call made is gone again.
func (g *Group) Create() error {
	for i, b := range g.branches {
		made, err := b.create()
		if err == nil {
			continue
		}
		if made {
			i++
		}
		return fmt.Errorf("create cgroup %s: %w", g.path, errors.Join(err, g.undo(i)))
	}
	return nil
}

// undo removes the first branches, which this process has just made.
func (g *Group) undo(made int) error {
	ctx, cancel := context.WithTimeout(context.Background(), undoTime)
	defer cancel()
	var errs []error
	for _, b := range g.branches[:made] {
		errs = append(errs, b.remove(ctx, ""))
	}
	return errors.Join(errs...)
}

// create makes the branch ready for processes. It also reports whether it made the
// directory: what it did not make must not be removed.
func (b branch) create() (made bool, err error) {
	if err := b.mkdir(); err != nil {
		b.removeParents("")
		return false, err
	}
	// From here on the directory keeps its parents from vanishing.
	if b.version == V1 && slices.Contains(b.hierarchy.controllers, "cpuset") {
		return true, b.inheritCpuset()
	}
	if b.version == V2 {
		if err := b.enableControllers(); err != nil {
			return true, err
		}
		return true, os.Mkdir(b.processDir(), 0o755)
	}
	return true, nil
}

// mkdir makes the directory and its missing parents.
func (b branch) mkdir() error {
	var err error
	for range mkdirTries {
		err = os.Mkdir(b.dir, 0o755)
		if !gone(err) {
			return b.explainMkdir(err)
		}
		for _, parent := range b.parents() {
			// ENODEV: the parent's own parent is being removed at this moment.
			if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, os.ErrExist) && !gone(err) {
				return b.explainMkdir(err)
			}
		}
	}
	return fmt.Errorf("the parents vanished %d times: %w", mkdirTries, err)
}

// parents returns the directories between the mount point and the branch, from the
// top down, without either.
func (b branch) parents() []string {
	var parents []string
	for dir := filepath.Dir(b.dir); len(dir) > len(b.mount); dir = filepath.Dir(dir) {
		parents = append(parents, dir)
	}
	slices.Reverse(parents)
	return parents
}

// explainMkdir adds the class, and what the kernel means by an errno that says little.
func (b branch) explainMkdir(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EEXIST):
		if st, statErr := os.Lstat(b.dir); statErr == nil && !st.IsDir() {
			return fmt.Errorf("%w: the kernel has a file of this name there, choose another: %w", container.ErrInvalid, err)
		}
		return fmt.Errorf("%w: %w", container.ErrExists, err)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: the kernel has a file of a parent's name there, choose another: %w", container.ErrInvalid, err)
	case errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("%w: a cgroup.max.descendants or cgroup.max.depth above it is reached: %w", container.ErrFailedPrecondition, err)
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w: the kernel has no memory cgroup left, of 65535: %w", container.ErrFailedPrecondition, err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: %s is mounted read-only: %w", container.ErrNotSupported, b.mount, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: berth must be root or own the parent (delegation): %w", container.ErrDenied, err)
	}
	return err
}

// inheritCpuset gives the branch and its parents the CPUs and the memory nodes of
// their parents. The kernel starts a v1 cpuset empty, and no process can enter it.
// A parent that another Create has made and not yet filled is filled here too.
func (b branch) inheritCpuset() error {
	levels := append(b.parents(), b.dir)
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		inherited, err := Dir{path: b.mount, version: V1}.Read(file)
		if err != nil {
			return err
		}
		for _, level := range levels {
			dir := Dir{path: level, version: V1}
			own, err := dir.Read(file)
			if err != nil {
				return err
			}
			if own == "" {
				if err := dir.Write(file, inherited); err != nil {
					return err
				}
				own = inherited
			}
			inherited = own
		}
	}
	return nil
}

// enableControllers lets the branch have the controllers asked for, from the mount
// point down: a cgroup can enable only what its parent has enabled.
func (b branch) enableControllers() error {
	var wanted []string
	for _, controller := range b.controllers {
		if !slices.Contains(inEveryV2Cgroup, controller) {
			wanted = append(wanted, v2Name(controller))
		}
	}
	if len(wanted) == 0 {
		if slices.Contains(b.controllers, "perf_event") {
			return b.enableAny()
		}
		return nil
	}
	levels := append([]string{b.mount}, b.parents()...)
	last := len(levels) - 1
	for _, level := range levels[:last] {
		dir := Dir{path: level, version: V2}
		enabled, err := dir.Read(subtreeControl)
		if err != nil {
			return err
		}
		if containsAll(strings.Fields(enabled), wanted) {
			continue
		}
		if err := enable(dir, wanted); err != nil {
			return err
		}
	}
	// While another Create enables a controller, the kernel lists it as enabled before
	// the files are there. This write waits for that; nothing above it needs to.
	return enable(Dir{path: levels[last], version: V2}, wanted)
}

// enableAny makes sure that the cgroups have perf_event, which is never enabled itself: the
// kernel hands it down, but first when any controller is enabled in the root.
func (b branch) enableAny() error {
	root := Dir{path: b.mount, version: V2}
	enabled, err := root.Read(subtreeControl)
	if err != nil || enabled != "" {
		return err
	}
	available, err := root.Read("cgroup.controllers")
	if all := strings.Fields(available); err == nil && len(all) > 0 {
		err = enable(root, all[len(all)-1:])
	}
	return err
}

const subtreeControl = "cgroup.subtree_control"

func containsAll(list, wanted []string) bool {
	return !slices.ContainsFunc(wanted, func(s string) bool { return !slices.Contains(list, s) })
}

func enable(dir Dir, controllers []string) error {
	err := dir.Write(subtreeControl, "+"+strings.Join(controllers, " +"))
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: %s holds processes itself, and a v2 cgroup that does cannot give controllers to those below it: "+
			"move them to a cgroup of their own below it: %w", container.ErrFailedPrecondition, dir.Path(), err)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: not all of them are in its cgroup.controllers: %w", container.ErrNotSupported, err)
	}
	return err
}
