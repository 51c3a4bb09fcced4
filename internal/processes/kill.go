package processes

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// KillTree ends a process and what descends from it, and returns when none of them lives.
// The root is stopped first and ended last: if it is a subreaper, whatever loses its
// parent meanwhile becomes its child and is found. ErrNotFound: the root is gone.
//
// Who forks faster than a host can be read is met by its process group, to which a signal
// comes at once; and the dead are not removed meanwhile, so that in the end no number is
// left for another one.
func KillTree(ctx context.Context, root ID) (err error) {
	h, err := Open(root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if err := h.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	if err := killBelow(ctx, root); err != nil && !isGone(err) {
		return err
	}
	if err := h.Signal(syscall.SIGKILL); err != nil && !isGone(err) {
		return err
	}
	return h.Wait(ctx)
}

// killBelow ends what descends from a process that is stopped.
func killBelow(ctx context.Context, root ID) error {
	own, err := find(root.Pid)
	if err != nil {
		return err
	}
	return untilNone(ctx, func() (living []Process, dead int, err error) {
		tree := map[int]bool{root.Pid: true}
		var others []Process
		take := func(p Process) error {
			tree[p.Pid] = true
			if p.Dead {
				return nil
			}
			living = append(living, p)
			return kill(p, own.Group)
		}
		var errs []error
		err = each(func(p Process) {
			switch {
			case p.Pid == root.Pid:
			case tree[p.Parent]: // numbers mostly grow from parent to child
				errs = append(errs, take(p))
			default:
				others = append(others, p)
			}
		})
		for more := true; more && err == nil; {
			more = false
			for _, p := range others {
				if tree[p.Parent] && !tree[p.Pid] {
					errs, more = append(errs, take(p)), true
				}
			}
		}
		return living, len(tree) - len(living), errors.Join(append(errs, err)...)
	})
}

// KillSession ends what is in the session of a process that is gone itself.
func KillSession(ctx context.Context, leader ID) error {
	return untilNone(ctx, func() (living []Process, dead int, err error) {
		if now, err := find(leader.Pid); err == nil && now.ID != leader {
			return nil, 0, nil // another one's, of the same number
		}
		var errs []error
		err = each(func(p Process) {
			if p.Session == leader.Pid && p.Start >= leader.Start && !p.Dead {
				living = append(living, p)
				errs = append(errs, kill(p, 0))
			}
		})
		return living, 0, errors.Join(append(errs, err)...)
	})
}

// kill ends a process and all that are in its group, which lasts as long as it does. Of
// the group except it ends nothing but the process.
func kill(p Process, except int) error {
	h, err := Open(p.ID)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.Close()
	if p.Group > 1 && p.Group != except && h.Signal(syscall.Signal(0)) == nil {
		_ = syscall.Kill(-p.Group, syscall.SIGKILL) // the others are found anyway
	}
	err = h.Signal(syscall.SIGKILL)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill process %d: %w", p.Pid, err)
	}
	return nil
}

// untilNone has all processes killed again and again until none lives. Then it looks once
// more, and there have to be as many dead ones as before: one whose parent died while the
// host was read may not have been seen.
func untilNone(ctx context.Context, killAll func() (living []Process, dead int, err error)) error {
	const unknown = -1
	wait, before := time.Millisecond, unknown
	for {
		living, dead, err := killAll()
		switch {
		case err != nil:
			return err
		case len(living) == 0 && dead == before:
			return nil
		case len(living) == 0:
			before = dead
			continue
		}
		before = unknown
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("%w: process %d and %d others do not end", context.Cause(ctx), living[0].Pid, len(living)-1)
		}
		wait = min(2*wait, 20*time.Millisecond)
	}
}
