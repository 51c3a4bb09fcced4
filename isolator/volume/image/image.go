// Package image is the isolator volume/image: a volume of a container that is the root
// filesystem of an image. Each is provisioned for the container alone, so that what it
// writes there neither reaches the image nor anybody else, and goes with it. What the
// image says of how it wants to be run does not matter.
//
// Devices and set-user-id files of such an image have no effect: only the container's
// own image can give its processes more than they have.
package image

import (
	"context"
	"fmt"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/launcher/plan"
)

// Options are what the isolator is made of.
type Options struct {
	// SandboxDirectory is where a container with an image finds its sandbox.
	SandboxDirectory string
	// Provision makes a root filesystem for each volume and returns their paths. Whoever
	// removes the container's own root filesystem removes these with it, also after an
	// error.
	Provision func(ctx context.Context, id container.ID, volumes []Volume, ids container.IDRange) ([]string, error)
}

// Volume is what a volume shows.
type Volume struct {
	Image    *v1.Image
	ReadOnly bool
}

// Isolator implements isolator.Isolator.
type Isolator struct {
	Options
}

// New returns the isolator.
func New(o Options) *Isolator { return &Isolator{o} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(ctx context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	info, err := i.prepare(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("volume/image: %w", err)
	}
	return info, nil
}

func (i *Isolator) prepare(ctx context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	var volumes []Volume
	hasImage := func(v *v1.Volume) bool { return v.Image != nil }
	info, err := isolator.EachVolume(c.Config, i.SandboxDirectory, hasImage, func(_ *isolator.LaunchInfo, m *plan.Mount, v *v1.Volume) error {
		m.SubPath = v.GetImagePath()
		m.Flags |= plan.NoDev | plan.NoSuid
		m.Provisioned = true
		volumes = append(volumes, Volume{v.Image, m.Flags&plan.ReadOnly != 0})
		return nil
	})
	if info == nil || err != nil {
		return nil, err
	}
	// Not before all that can be refused was: nothing has been pulled until now.
	paths, err := i.Provision(ctx, c.ID, volumes, c.IDs)
	if err != nil {
		return nil, err
	}
	for n := range info.Volumes {
		info.Volumes[n].Source = paths[n]
	}
	return info, nil
}

// Cleanup implements isolator.Isolator: the root filesystems go with the container's.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
