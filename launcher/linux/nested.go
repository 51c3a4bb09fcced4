//go:build linux

package linux

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/mount"
	"berth/launcher"
)

// shared returns the directories of v1 cgroups that a process is to be in because it counts
// in the nearest container around it that has some. In the v2 tree it counts there already, as
// its own cgroup lies below.
func (l *Launcher) shared(spec launcher.Spec) ([]cgroup.Dir, error) {
	if !spec.SharesCgroups {
		return nil, nil
	}
	for parent, nested := spec.Parent, true; nested; parent, nested = parent.Parent() {
		rec, err := l.record(parent)
		if err != nil {
			return nil, err
		}
		if rec.Shares {
			continue
		}
		group, err := l.Cgroups.Group(rec.Path, rec.Controllers)
		if err != nil {
			return nil, err
		}
		return sharable(group)
	}
	return nil, nil
}

func sharable(group *cgroup.Group) (dirs []cgroup.Dir, err error) {
	for _, controller := range group.Controllers() {
		if controller == "freezer" {
			continue // it freezes one container
		}
		dir, err := group.Dir(controller)
		if err != nil {
			return nil, err
		}
		if dir.Version() == cgroup.V1 {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

var namespaceFlags = map[launcher.Namespace]uintptr{
	launcher.Mount:   unix.CLONE_NEWNS,
	launcher.PID:     unix.CLONE_NEWPID,
	launcher.IPC:     unix.CLONE_NEWIPC,
	launcher.UTS:     unix.CLONE_NEWUTS,
	launcher.Network: unix.CLONE_NEWNET,
	launcher.User:    unix.CLONE_NEWUSER,
}

// startIn starts a process from within namespaces of another one, but for that of mounts,
// which the process enters itself: a program of the container must not be executed in
// the place of berth-init.
func startIn(pidFD *os.File, enter []launcher.Namespace, start func() error) error {
	var flags uintptr
	for _, ns := range enter {
		flags |= namespaceFlags[ns]
	}
	flags &^= unix.CLONE_NEWNS
	if flags == 0 {
		return start()
	}
	return onOwnThread(func() error {
		raw, err := pidFD.SyscallConn()
		if err != nil {
			return err
		}
		if controlErr := raw.Control(func(fd uintptr) { err = unix.Setns(int(fd), int(flags)) }); controlErr != nil {
			return controlErr
		}
		if errors.Is(err, unix.ESRCH) {
			err = fmt.Errorf("%w: %w", container.ErrFailedPrecondition, err)
		}
		if err != nil {
			return fmt.Errorf("enter the namespaces of the parent: %w", err)
		}
		return start()
	})
}

// cloneOf makes a bind mount of what a process has at a path, with the mounts below it. Only
// who is in a namespace of mounts can have one of its mounts.
func cloneOf(pidFD *os.File, path string) (d *mount.Detached, err error) {
	err = onOwnThread(func() error {
		// A thread that shares its working directory with others cannot change its mounts.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Setns(int(pidFD.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter the parent's namespace of mounts: %w", err)
		}
		var err error
		if d, err = mount.CloneBelow("/", path); err != nil {
			return fmt.Errorf("in the container around: %w", err)
		}
		return nil
	})
	return d, err
}

// onOwnThread calls a function on a thread that ends with it, and that is not the first
// one of this process: what /proc/self says is said of that one.
func onOwnThread(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			done <- do()
			return // still locked: the thread ends
		}
		// While this one is kept, another goroutine has another thread.
		done <- onOwnThread(do)
		runtime.UnlockOSThread()
	}()
	return <-done
}
