// Package cgroup is the isolator namespaces/cgroup: the container sees cgroups from its own
// on: its place in the host's is not told by /proc/self/cgroup.
package cgroup

import (
	"context"

	"berth/container"
	"berth/isolator"
)

// Isolator implements isolator.Isolator.
type Isolator struct{}

// New returns the isolator.
func New() *Isolator { return &Isolator{} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(context.Context, *isolator.Container) (*isolator.LaunchInfo, error) {
	return &isolator.LaunchInfo{CgroupNamespace: true}, nil
}

// Cleanup implements isolator.Isolator: the namespace went with its processes.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
