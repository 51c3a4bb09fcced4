// Package pid is the isolator namespaces/pid: the container sees only its own
// processes, and all of them end with its first one. LinuxInfo.share_pid_namespace
// asks for the host's instead.
//
// A nested container has a namespace beside that of its parent, or asks for that one by
// share_pid_namespace. One inside that of the parent the kernel makes only for a process
// that is there already (clone(2), EINVAL), so the parent does not see it.
package pid

import (
	"context"
	"fmt"

	"berth/container"
	"berth/isolator"
	"berth/launcher"
	"berth/launcher/plan"
)

// Isolator implements isolator.Isolator.
type Isolator struct{ alone bool }

// New returns the isolator. alone: no root container may have the namespace of the host.
func New(alone bool) *Isolator { return &Isolator{alone} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	shares := c.Config.GetContainerInfo().GetLinuxInfo().GetSharePidNamespace()
	switch {
	case shares && c.Parent == nil && i.alone:
		return nil, fmt.Errorf("namespaces/pid: share_pid_namespace: %w: --disallow_sharing_agent_pid_namespace keeps containers out of the host's", container.ErrNotSupported)
	case shares && c.Parent == nil:
		return nil, nil
	}
	info := &isolator.LaunchInfo{}
	if shares {
		info.Enter = []launcher.Namespace{launcher.PID}
	} else {
		info.Namespaces = []launcher.Namespace{launcher.PID}
	}
	if c.Config.GetRootfs() == "" {
		// The host's /proc shows the host's processes; a root filesystem has its own.
		info.Mounts = []plan.Mount{{Target: "/proc", Source: "proc", Type: "proc", Fixed: true,
			Flags: plan.NoSuid | plan.NoDev | plan.NoExec}}
	}
	return info, nil
}

// Cleanup implements isolator.Isolator: the namespace went with its processes.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
