// Package processes reads which processes a host has, and ends trees of them, without a
// namespace or a cgroup to hold them together.
//
// A process is known by its number and its start: a later one of the same number is
// another one. A tree is a process and whatever descends from it. On Linux a process
// whose parent dies becomes a child of the nearest ancestor that is a subreaper
// (PR_SET_CHILD_SUBREAPER), so that nothing leaves the tree of such a one as long as it
// lives. Elsewhere what is forked twice does; then its process group and its session tell.
package processes

import (
	"errors"
	"fmt"
	"time"

	"berth/container"
)

// ID is one process, and no later one of its number.
type ID struct {
	Pid   int
	Start int64 // in units of the host
}

// String is what ParseID reads.
func (id ID) String() string { return fmt.Sprintf("%d %d", id.Pid, id.Start) }

// ParseID reads an ID. ErrInvalid: it is none; it may have been torn.
func ParseID(text string) (id ID, err error) {
	if n, _ := fmt.Sscan(text, &id.Pid, &id.Start); n < 2 || id.Pid <= 0 || id.Start < 0 {
		return ID{}, fmt.Errorf("%w: %q is no process", container.ErrInvalid, text)
	}
	return id, nil
}

// Process is a process as it was when it was looked at.
type Process struct {
	ID
	Parent, Group, Session int

	Dead    bool // it waits for its parent to notice
	Threads int
	RSS     uint64 // bytes
	// User and System are the times of itself and of the children that it waited for.
	User, System time.Duration
}

// Tree returns a process and those that descend from it, parents first. ErrNotFound: it
// is gone.
func Tree(root ID) (tree []Process, err error) {
	all := make(map[int][]Process) // by parent
	var found bool
	err = each(func(p Process) {
		if p.ID == root {
			tree, found = append(tree, p), true
			return
		}
		all[p.Parent] = append(all[p.Parent], p)
	})
	if err == nil && !found {
		err = fmt.Errorf("process %d: %w", root.Pid, container.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, all[tree[i].Pid]...)
	}
	return tree, nil
}

// Those returns the processes that have these numbers now; who has just ended is left out.
// ErrNotFound: there is none.
func Those(pids []int) (found []Process, err error) {
	for _, pid := range pids {
		p, err := find(pid)
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, p)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("processes: %w: there is none any more", container.ErrNotFound)
	}
	return found, nil
}

// Look returns the process that has a number now. ErrNotFound: there is none.
func Look(pid int) (Process, error) { return find(pid) }

// gone is what is said of a process that has ended.
func gone(id ID) error { return fmt.Errorf("process %d: %w", id.Pid, container.ErrNotFound) }

func isGone(err error) bool { return errors.Is(err, container.ErrNotFound) }
