// Package pid is the isolator namespaces/pid: the container sees only its own
// processes, and all of them end with its first one. LinuxInfo.share_pid_namespace
// asks for the host's instead.
//
// A nested container is in the PID namespace of its parent, in one of its own unless it
// asks for the parent's: so the parent sees its processes.
package pid

import (
	"context"

	"berth/container"
	"berth/isolator"
	"berth/launcher"
	"berth/launcher/plan"
)

// Isolator implements isolator.Isolator.
type Isolator struct{}

// New returns the isolator.
func New() *Isolator { return &Isolator{} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	shares := c.Config.GetContainerInfo().GetLinuxInfo().GetSharePidNamespace()
	if shares && c.Parent == nil {
		return nil, nil
	}
	info := &isolator.LaunchInfo{}
	if !shares {
		info.Namespaces = []launcher.Namespace{launcher.PID}
	}
	if c.Parent != nil {
		info.Enter = []launcher.Namespace{launcher.PID}
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
