// Package ipc is the isolator namespaces/ipc: System V IPC and POSIX message queues of
// the container are its own, and so is its shared memory in /dev/shm.
// LinuxInfo.ipc_mode SHARE_PARENT asks for the host's instead; shm_size bounds
// /dev/shm.
//
// A nested container shares the namespace of its parent unless it asks for PRIVATE. Its
// /dev/shm is that of its parent with SHARE_PARENT or without an image, else its own.
package ipc

import (
	"context"
	"fmt"
	"strconv"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/launcher"
	"berth/launcher/plan"
)

// Options are what the isolator is made of.
type Options struct {
	// Alone: no root container may share with the host.
	Alone bool
	// ShmSize bounds, in bytes, each /dev/shm of a container's own that its request does not
	// bound; 0: the kernel's default does, half of the memory.
	ShmSize int64
}

// Isolator implements isolator.Isolator.
type Isolator struct{ Options }

// New returns the isolator.
func New(o Options) *Isolator { return &Isolator{o} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	linux := c.Config.GetContainerInfo().GetLinuxInfo()
	shared := linux.GetIpcMode() == v1.LinuxInfo_SHARE_PARENT
	sized := linux != nil && linux.ShmSize != nil
	if shared && sized {
		return nil, fmt.Errorf("namespaces/ipc: %w: shm_size needs ipc_mode PRIVATE; the host's /dev/shm has its own size", container.ErrInvalid)
	}
	rootfs := c.Config.GetRootfs() != ""
	if c.Parent != nil && linux.GetIpcMode() != v1.LinuxInfo_PRIVATE {
		return i.nested(c, shared, sized)
	}
	switch {
	case shared && i.Alone:
		return nil, fmt.Errorf("namespaces/ipc: ipc_mode SHARE_PARENT: %w: --disallow_sharing_agent_ipc_namespace keeps containers out of the host's", container.ErrNotSupported)
	case shared && rootfs:
		return &isolator.LaunchInfo{Mounts: []plan.Mount{{Target: "/dev/shm", Source: "/dev/shm", Fixed: true}}}, nil
	case shared:
		return nil, nil
	}
	info := &isolator.LaunchInfo{Namespaces: []launcher.Namespace{launcher.IPC}}
	if rootfs || sized || linux.GetIpcMode() == v1.LinuxInfo_PRIVATE {
		info.Mounts = append(info.Mounts, i.shm(linux))
	}
	if rootfs {
		info.Mounts = append(info.Mounts, mqueue())
	}
	return info, nil
}

// nested is for a container in the namespace of its parent.
func (i *Isolator) nested(c *isolator.Container, shared, sized bool) (*isolator.LaunchInfo, error) {
	if sized {
		return nil, fmt.Errorf("namespaces/ipc: %w: shm_size needs ipc_mode PRIVATE", container.ErrInvalid)
	}
	info := &isolator.LaunchInfo{Enter: []launcher.Namespace{launcher.IPC}}
	rootfs := c.Config.GetRootfs() != ""
	switch {
	case rootfs && !shared:
		info.Mounts = append(info.Mounts, i.shm(nil))
	case rootfs || hasShm(c.Parent):
		info.Mounts = append(info.Mounts, plan.Mount{Target: "/dev/shm", Source: "/dev/shm", OfParent: true, Fixed: true})
	}
	if rootfs {
		info.Mounts = append(info.Mounts, mqueue())
	}
	return info, nil
}

// hasShm reports whether a container has another /dev/shm than the host.
func hasShm(c *isolator.Container) bool {
	linux := c.Config.GetContainerInfo().GetLinuxInfo()
	switch {
	case linux.GetIpcMode() == v1.LinuxInfo_PRIVATE, linux != nil && linux.ShmSize != nil:
		return true
	case c.Config.GetRootfs() != "" && linux.GetIpcMode() != v1.LinuxInfo_SHARE_PARENT:
		return true
	case c.Parent == nil:
		return false
	}
	return hasShm(c.Parent)
}

func mqueue() plan.Mount {
	return plan.Mount{Target: "/dev/mqueue", Source: "mqueue", Type: "mqueue", Fixed: true, Flags: plan.NoSuid | plan.NoDev | plan.NoExec}
}

func (i *Isolator) shm(linux *v1.LinuxInfo) plan.Mount {
	m := plan.Mount{Target: "/dev/shm", Source: "shm", Type: "tmpfs", Fixed: true,
		Flags:   plan.NoSuid | plan.NoDev | plan.NoExec,
		Options: []plan.Option{{Key: "mode", Value: "1777"}}}
	switch {
	case linux.GetShmSize() > 0:
		m.Options = append(m.Options, plan.Option{Key: "size", Value: fmt.Sprintf("%dm", linux.GetShmSize())})
	case i.ShmSize > 0:
		m.Options = append(m.Options, plan.Option{Key: "size", Value: strconv.FormatInt(i.ShmSize, 10)})
	}
	return m
}

// Cleanup implements isolator.Isolator: the namespace went with its processes.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
