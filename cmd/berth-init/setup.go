//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"berth/internal/mount"
	"berth/launcher/plan"
)

// setUp makes the container around this process. Each step has a reason to stand
// where it stands. s becomes the container's terminal, if it has one.
func setUp(p plan.Plan, files plan.Files, s *streams) (err error) {
	if p.HostMounts && p.EnterMounts {
		return step("make the terminal", makeTerminal(p, s, files.Terminal))
	}
	if p.HostMounts {
		if p.Rootfs != "" || p.ReadOnlyRootfs || len(p.Mounts)+len(p.Nodes)+len(p.Links)+len(p.Masked)+len(p.ReadOnly)+len(p.Volumes) > 0 {
			return errors.New("the container is to change its mounts, which are the host's")
		}
		return setUpKernel(p)
	}
	// Before the separation: these follow the host's mounts.
	propagating, err := openPropagating(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, propagating.close()) }()
	// Before any mount, or the host would see it.
	if err := step("separate the mounts from the host's", mount.MakePrivate("/")); err != nil {
		return err
	}
	if p.EnterMounts {
		if err := step("enter the container's file system", enterMounts(files.Parent)); err != nil {
			return err
		}
		return step("make the terminal", makeTerminal(p, s, files.Terminal))
	}
	handed, err := receive(files.Sources, p.Handed, p.HandedAll)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, handed.close()) }()
	r, err := openRoot(p.Rootfs, handed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	r.propagating, r.uid, r.gid = propagating, p.Command.UID, p.Command.GID

	// In the order of the plan: one may lie in another.
	for _, m := range p.Mounts {
		if err := step("mount "+m.Target, r.mount(m)); err != nil {
			return err
		}
	}
	// After the mounts, which they lie in.
	if err := r.makeNodes(p.Nodes, p.Links); err != nil {
		return err
	}
	// After the nodes: masked files are covered by the container's own /dev/null.
	if err := r.mask(p.Masked); err != nil {
		return err
	}
	for _, path := range p.ReadOnly {
		if err := step("make "+path+" read-only", r.readOnly(path)); err != nil {
			return err
		}
	}
	if p.Terminal != nil {
		// After the devpts was mounted that it is on, and before a volume covers that.
		if err := step("make the terminal", r.terminal(p, s, files.Terminal)); err != nil {
			return err
		}
	}
	// After all that the container needs, so that none of it is made in a volume.
	for _, m := range p.Volumes {
		if err := step("mount volume "+m.Target, r.mount(m)); err != nil {
			return err
		}
	}
	if p.Rootfs != "" { // the host's file system is not the container's to add to
		// After the mounts, which it may lie in, and before the root cannot be written.
		if err := step("make the working directory "+p.Command.Dir, r.makeDirectory(p.Command.Dir)); err != nil {
			return err
		}
	}
	if p.ReadOnlyRootfs {
		// After the mount points were made in it.
		if err := step("make the root filesystem read-only", r.makeReadOnly()); err != nil {
			return err
		}
	}
	if err := setUpKernel(p); err != nil {
		return err
	}
	if p.Rootfs == "" {
		return nil
	}
	// Last: sources of mounts are the host's.
	return step("enter the root filesystem", r.enter())
}

// setUpKernel sets what is not in the file system.
func setUpKernel(p plan.Plan) error {
	if p.Hostname != "" {
		if err := step("set the host name", unix.Sethostname([]byte(p.Hostname))); err != nil {
			return err
		}
	}
	if p.Loopback {
		if err := step("bring up the loopback device", upLoopback()); err != nil {
			return err
		}
	}
	return nil
}

// ownCgroups makes a cgroup namespace for this thread, and so for the command that it starts.
// Not the launcher: what a process is in when the namespace is made is its root, and this one
// has been brought into its cgroups only after it was cloned.
func ownCgroups() error {
	runtime.LockOSThread()
	return unix.Unshare(unix.CLONE_NEWCGROUP)
}

// enterMounts makes the file system of another process that of this thread, and so of
// the command that it starts. The other threads of this process cannot follow; they get
// an empty file system, so that nothing of the host is to be found through them.
func enterMounts(of *os.File) error {
	empty, err := mount.New("tmpfs", "empty", []mount.Option{{Key: "mode", Value: "555"}}, mount.ReadOnly)
	if err != nil {
		return err
	}
	if err := empty.Attach("/proc"); err != nil {
		return errors.Join(err, empty.Close())
	}
	r := &root{fd: empty.FD(), tree: empty}
	if err := errors.Join(r.enter(), r.close()); err != nil {
		return err
	}
	runtime.LockOSThread()
	// A thread that shares its working directory with others cannot change its mounts.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Setns(int(of.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	return nil
}

// makeTerminal makes a terminal of the devpts that is there already.
func makeTerminal(p plan.Plan, s *streams, sender *os.File) (err error) {
	if p.Terminal == nil {
		return nil
	}
	r, err := openRoot("", nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	return r.terminal(p, s, sender)
}

// enter makes the root filesystem the root of this mount namespace and drops the
// host's from it.
func (r *root) enter() error {
	if err := unix.Fchdir(r.fd); err != nil {
		return err
	}
	// The old root comes to lie on the new one, so that no directory is needed for
	// it, and goes with the unmount (pivot_root(2), NOTES).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the host's root: %w", err)
	}
	return unix.Chdir("/")
}

func upLoopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
}
