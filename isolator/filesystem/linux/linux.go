// Package linux is the isolator filesystem/linux: the container has a mount namespace
// of its own and, with an image, a root filesystem in which nothing of the host is
// left: the kernel's file systems made anew, the usual devices, and the sandbox.
//
// Persistent volumes are directories of the host that stay when the container goes.
//
// Places below /proc and /sys that show or steer the host are masked or read-only, as
// in the OCI runtime specification's default.
package linux

import (
	"context"
	"fmt"

	"berth/container"
	"berth/isolator"
	"berth/launcher"
	"berth/launcher/plan"
)

// Options are what the isolator is made of.
type Options struct {
	// SandboxDirectory is where the container finds its sandbox.
	SandboxDirectory string
	// Shm: mount /dev/shm, because no other isolator does.
	Shm bool
	// Volume returns the directory of a persistent volume. It and those that it lies in
	// are made when they are missing.
	Volume func(role, id string) string
}

// Isolator implements isolator.Isolator.
type Isolator struct {
	Options
}

// New returns the isolator.
func New(o Options) *Isolator { return &Isolator{o} }

const device = 0o020000 // S_IFCHR

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	info, err := i.fileSystem(c)
	if err == nil {
		info.Namespaces = []launcher.Namespace{launcher.Mount}
		err = i.persistent(info, c)
	}
	if err != nil {
		return nil, fmt.Errorf("filesystem/linux: %w", err)
	}
	return info, nil
}

// fileSystem is what the container has instead of the host's.
func (i *Isolator) fileSystem(c *isolator.Container) (*isolator.LaunchInfo, error) {
	if c.Config.GetRootfs() == "" {
		return isolator.OnHost(c.Config)
	}
	info := &isolator.LaunchInfo{}
	info.Mounts = append(kernelMounts(), i.sandbox(c))
	if i.Shm {
		info.Mounts = append(info.Mounts, plan.Mount{Target: "/dev/shm", Source: "shm", Type: "tmpfs", Flags: plan.NoSuid | plan.NoDev | plan.NoExec,
			Options: []plan.Option{{Key: "mode", Value: "1777"}}, Fixed: true})
	}
	info.Nodes = []plan.Node{
		{Path: "/dev/null", Mode: device | 0o666, Major: 1, Minor: 3},
		{Path: "/dev/zero", Mode: device | 0o666, Major: 1, Minor: 5},
		{Path: "/dev/full", Mode: device | 0o666, Major: 1, Minor: 7},
		{Path: "/dev/random", Mode: device | 0o666, Major: 1, Minor: 8},
		{Path: "/dev/urandom", Mode: device | 0o666, Major: 1, Minor: 9},
		{Path: "/dev/tty", Mode: device | 0o666, Major: 5, Minor: 0},
	}
	info.Links = []plan.Link{
		{Path: "/dev/fd", Target: "/proc/self/fd"},
		{Path: "/dev/stdin", Target: "/proc/self/fd/0"},
		{Path: "/dev/stdout", Target: "/proc/self/fd/1"},
		{Path: "/dev/stderr", Target: "/proc/self/fd/2"},
		{Path: "/dev/ptmx", Target: "pts/ptmx"},
	}
	info.Masked = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/key-users",
		"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	info.ReadOnly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	info.Env = []string{"MESOS_SANDBOX=" + i.SandboxDirectory}
	return info, nil
}

// kernelMounts are the file systems of the kernel. Their places are fixed: an image
// with a link there is refused.
func kernelMounts() []plan.Mount {
	const quiet = plan.NoSuid | plan.NoDev | plan.NoExec
	mounts := []plan.Mount{
		{Target: "/proc", Source: "proc", Type: "proc", Flags: quiet},
		{Target: "/sys", Source: "sysfs", Type: "sysfs", Flags: quiet | plan.ReadOnly},
		// Covers what the host mounted on its own sysfs; nothing of its cgroups shows.
		{Target: "/sys/fs/cgroup", Source: "cgroup", Type: "tmpfs", Flags: quiet | plan.ReadOnly,
			Options: []plan.Option{{Key: "mode", Value: "755"}}},
		{Target: "/dev", Source: "dev", Type: "tmpfs", Flags: plan.NoSuid | plan.NoExec,
			Options: []plan.Option{{Key: "mode", Value: "755"}, {Key: "size", Value: "64k"}}},
		{Target: "/dev/pts", Source: "devpts", Type: "devpts", Flags: plan.NoSuid | plan.NoExec,
			Options: []plan.Option{{Key: "ptmxmode", Value: "0666"}, {Key: "mode", Value: "0620"}, {Key: "gid", Value: "5"}}},
	}
	for i := range mounts {
		mounts[i].Fixed = true
	}
	return mounts
}

func (i *Isolator) sandbox(c *isolator.Container) plan.Mount {
	return plan.Mount{Target: i.SandboxDirectory, Source: c.Config.GetDirectory(), Flags: plan.NoSuid | plan.NoDev}
}

// Cleanup implements isolator.Isolator: the mounts went with the namespace.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
