package cgroup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// freezer is how a hierarchy freezes a cgroup with all below it.
type freezer struct {
	file, freeze, thaw string
	frozen             func(branch) (bool, error)
}

var (
	freezerV1 = freezer{"freezer.state", "FROZEN", "THAWED", func(b branch) (bool, error) {
		state, err := Dir{path: b.dir, version: V1}.Read("freezer.state")
		return state == "FROZEN", err
	}}
	freezerV2 = freezer{"cgroup.freeze", "1", "0", func(b branch) (bool, error) {
		events, err := Dir{path: b.dir, version: V2}.ReadKeyed("cgroup.events")
		return events["frozen"] == 1, err
	}}
)

// freezer returns how to freeze the branch, and false when its hierarchy cannot.
func (b branch) freezer() (freezer, bool) {
	if b.version == V2 {
		return freezerV2, true
	}
	return freezerV1, slices.Contains(b.hierarchy.controllers, "freezer")
}

// freeze stops all processes of the branch, as far as that is possible within the
// patience: one that sleeps in the kernel freezes only when it wakes. It reports
// whether nothing in the branch can run, which is also so of one that does not exist.
// A hierarchy that cannot freeze reports true: there is nothing to wait for.
func (b branch) freeze(ctx context.Context, patience time.Duration) (bool, error) {
	f, able := b.freezer()
	if !able {
		return true, nil
	}
	if err := writeAt(unix.AT_FDCWD, b.dir+"/"+f.file, f.freeze); err != nil {
		if ignoreGone(err) == nil { // the branch, or cgroup.freeze before Linux 5.2
			return true, nil
		}
		return false, fmt.Errorf("write %s to %s/%s: %w", f.freeze, b.dir, f.file, err)
	}
	var frozen bool
	var err error
	poll(ctx, patience, func() bool {
		frozen, err = f.frozen(b)
		return frozen || err != nil
	})
	if ignoreGone(err) != nil {
		return false, err
	}
	return frozen || err != nil, nil
}

// thaw lets the processes of the branch run, or die. On v1 each cgroup below has a
// state of its own, and a container that froze one would outlive its killing there.
func (b branch) thaw() error {
	f, able := b.freezer()
	if !able {
		return nil
	}
	var errs []error
	err := b.walk(func(dirFD int) error {
		if err := writeAt(dirFD, f.file, f.thaw); ignoreGone(err) != nil {
			errs = append(errs, fmt.Errorf("write %s to %s in %s: %w", f.thaw, f.file, b.dir, err))
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}
