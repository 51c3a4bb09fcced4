//go:build linux

// Package devices is the isolator linux/devices: what --allowed_devices lets containers
// open has a node in those with a root filesystem of their own. Without it they make it
// themselves, if they can.
package devices

import (
	"context"
	"fmt"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
)

// Isolator implements isolator.Isolator.
type Isolator struct{ allowed []*v1.DeviceAccess }

// New returns the isolator. allowed are the devices of all containers.
func New(allowed []*v1.DeviceAccess) *Isolator { return &Isolator{allowed} }

// Prepare implements isolator.Isolator. Devices are looked up anew: one may have gone, or
// have another number, since berth began.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	if c.Config.GetRootfs() == "" {
		return nil, nil
	}
	nodes, err := isolator.DeviceNodes(i.allowed)
	if err != nil {
		return nil, fmt.Errorf("linux/devices: --allowed_devices: %w", err)
	}
	return &isolator.LaunchInfo{Nodes: nodes}, nil
}

// Cleanup implements isolator.Isolator: nodes go with the mount namespace.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
