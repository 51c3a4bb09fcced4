package cgroup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// The patience of a round of signalUntilEmpty: how long it waits for processes to
// freeze, and then to die. Freezing again what is still dying would only delay it.
const (
	firstPatience = 2 * time.Millisecond
	maxPatience   = 200 * time.Millisecond
)

// Kill kills every process of the group, also those in cgroups that the container
// made below it. A nil error proves that none lives, in any hierarchy; a group that
// does not exist is success. It tries until ctx ends, and may be repeated.
//
// Nothing that processes do among themselves outruns it, forking included. What it
// must wait for is a process that is stuck in the kernel; the error names it then.
//
// A directory of v1 that can be removed has nobody in it. That is one call, where a look
// takes six: so it is gone then.
func (g *Group) Kill(ctx context.Context) error {
	var errs []error
	for _, b := range g.branches {
		errs = append(errs, b.kill(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("kill cgroup %s: %w", g.path, err)
	}
	return nil
}

// kill empties one branch. After the first (the keeper's, or the freezer's) the
// others are empty already, unless a launch or an Enter was interrupted half-way.
func (b branch) kill(ctx context.Context) error {
	if b.version == V2 {
		err := b.killAtOnce(ctx)
		if !errors.Is(err, errNoCgroupKill) {
			return err
		}
	} else if rmdirAt(unix.AT_FDCWD, b.dir) == nil {
		return nil
	}
	return b.signalUntilEmpty(ctx)
}

// errNoCgroupKill: the kernel is older than Linux 5.14.
var errNoCgroupKill = errors.New("no cgroup.kill")

// killAtOnce has the kernel kill the branch of a v2 tree, and waits for the deaths.
// It asks again each time: someone may have entered since.
func (b branch) killAtOnce(ctx context.Context) error {
	dir := Dir{path: b.dir, version: V2}
	var wait backoff
	for {
		err := writeAt(unix.AT_FDCWD, b.dir+"/cgroup.kill", "1")
		if ignoreGone(err) != nil {
			return fmt.Errorf("write 1 to %s/cgroup.kill: %w", b.dir, err)
		}
		events, readErr := dir.ReadKeyed("cgroup.events")
		switch {
		case ignoreGone(readErr) != nil:
			return readErr
		case readErr != nil || events["populated"] == 0:
			return nil
		case err != nil:
			return errNoCgroupKill // the file is missing, its cgroup is not
		}
		if ended := wait.pause(ctx); ended != nil {
			return b.survivors(ended)
		}
	}
}

// signalUntilEmpty kills a branch by signals, in rounds: freeze, so that nobody forks
// or moves meanwhile; signal all that are there; thaw, because the frozen do not
// die on v1. It ends when a list made in the frozen state is empty. Where
// nothing can be frozen it only signals, which is for stragglers and old kernels.
func (b branch) signalUntilEmpty(ctx context.Context) error {
	for patience := firstPatience; ; patience = min(2*patience, maxPatience) {
		frozen, freezeErr := b.freeze(ctx, patience)
		pids, err := b.processes()
		if err != nil {
			err = fmt.Errorf("list processes in %s: %w", b.dir, err)
		}
		err = errors.Join(freezeErr, err, signal(pids), b.thaw())
		if err != nil {
			return err
		}
		if frozen && len(pids) == 0 {
			return nil
		}
		b.awaitEmpty(ctx, patience)
		if ctx.Err() != nil {
			return b.survivors(context.Cause(ctx))
		}
	}
}

// signal sends SIGKILL to all. Between the list and the signal an id could pass to
// another process only if all other ids were used up in that time.
func signal(pids []int) error {
	var errs []error
	for _, pid := range pids {
		if pid == invisible {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("kill process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// awaitEmpty waits until the branch is empty, the patience is at its end or ctx is.
func (b branch) awaitEmpty(ctx context.Context, patience time.Duration) {
	poll(ctx, patience, func() bool {
		pids, err := b.processes()
		return err != nil || len(pids) == 0 // the next round tells the error
	})
}

// poll looks until done, until the patience is at its end or ctx is.
func poll(ctx context.Context, patience time.Duration, done func() bool) {
	var wait backoff
	for end := time.Now().Add(patience); !done() && time.Now().Before(end); {
		if wait.pause(ctx) != nil {
			return
		}
	}
}

func (b branch) survivors(ended error) error {
	pids, err := b.processes()
	return fmt.Errorf("%d processes%s in %s have not died of SIGKILL: %w",
		len(pids), sample(pids), b.dir, errors.Join(ended, err))
}

// sample names a few of many processes.
func sample(pids []int) string {
	switch {
	case len(pids) == 0:
		return ""
	case len(pids) > 5:
		return fmt.Sprintf(" (%d, ...)", pids[0])
	}
	return fmt.Sprintf(" %d", pids)
}
