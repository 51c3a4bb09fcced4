package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Remove removes the group in every hierarchy, with the cgroups that the container
// made below it, and then the parents that this leaves empty. A nil error proves
// that the group is nowhere any more; one that did not exist is success.
//
// A cgroup is busy while it has a process, and for a moment after its last one has
// died: Remove tries until ctx ends. It kills nobody. After an error it may be repeated.
func (g *Group) Remove(ctx context.Context) error { return g.RemoveBelow(ctx, "") }

// RemoveBelow is Remove, but the cgroup at the path root and those above it stay, empty or not:
// who makes and removes groups there all the time spares half of the work, and ends it with
// Host.RemoveEmpty.
func (g *Group) RemoveBelow(ctx context.Context, root string) error {
	g.kept.end()
	var errs []error
	for _, b := range g.branches {
		errs = append(errs, b.remove(ctx, root))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", g.path, err)
	}
	return nil
}

// RemoveEmpty removes the cgroup at a path, and those above it, where nothing is in them.
func (h *Host) RemoveEmpty(path string) {
	for i := range h.hierarchies {
		b := branch{hierarchy: &h.hierarchies[i], dir: filepath.Join(h.hierarchies[i].mount, path)}
		if rmdirAt(unix.AT_FDCWD, b.dir) == nil {
			b.removeParents("")
		}
	}
}

func (b branch) remove(ctx context.Context, root string) error {
	var wait backoff
	for {
		err := removeAt(unix.AT_FDCWD, b.dir)
		if err == nil {
			b.removeParents(root)
			return nil
		}
		if !busy(err) {
			return fmt.Errorf("rmdir %s: %w", b.dir, err)
		}
		if ended := wait.pause(ctx); ended != nil {
			pids, listErr := b.processes()
			return fmt.Errorf("rmdir %s: %w with %d processes%s: %w",
				b.dir, err, len(pids), sample(pids), errors.Join(ended, listErr))
		}
	}
}

// removeAt removes a cgroup and all below it, children first. Like walkAt, it goes
// by open directories.
func removeAt(parentFD int, name string) error {
	err := rmdirAt(parentFD, name)
	if !busy(err) {
		return err
	}
	fd, err := openDirAt(parentFD, name)
	if err != nil {
		return ignoreGone(err)
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	children, err := subdirectories(dir)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := removeAt(fd, child); err != nil {
			return err
		}
	}
	return rmdirAt(parentFD, name)
}

func rmdirAt(parentFD int, name string) error {
	_, err := retryEINTR(func() (int, error) { return 0, unix.Unlinkat(parentFD, name, unix.AT_REMOVEDIR) })
	return ignoreGone(err)
}

func busy(err error) bool {
	return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY)
}

// removeParents removes the parents below root that are empty, from the bottom up. Whatever
// keeps one is no error: another group lives there, or it is not berth's to remove
// (a delegated cgroup). A parent that is gone has been removed by another group.
func (b branch) removeParents(root string) {
	stays := filepath.Join(b.mount, root)
	parents := b.parents()
	for i := len(parents) - 1; i >= 0 && len(parents[i]) > len(stays); i-- {
		if err := rmdirAt(unix.AT_FDCWD, parents[i]); err != nil {
			return
		}
	}
}
