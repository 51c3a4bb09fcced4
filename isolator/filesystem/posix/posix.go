// Package posix is the isolator filesystem/posix: the container works in its sandbox, on
// the host's file system, and sees there what everybody sees. It has no mount namespace,
// so it can have neither an image nor volumes.
package posix

import (
	"context"
	"fmt"

	"berth/container"
	"berth/isolator"
)

// Isolator implements isolator.Isolator.
type Isolator struct{}

// New returns the isolator.
func New() *Isolator { return &Isolator{} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	info, err := prepare(c)
	if err != nil {
		return nil, fmt.Errorf("filesystem/posix: %w", err)
	}
	return info, nil
}

func prepare(c *isolator.Container) (*isolator.LaunchInfo, error) {
	if err := isolator.WithoutRootfs(c.Config); err != nil {
		return nil, err
	}
	persistent, err := isolator.PersistentVolumes(c.Config)
	if err != nil {
		return nil, err
	}
	if len(c.Config.GetContainerInfo().GetVolumes())+len(persistent) > 0 {
		return nil, fmt.Errorf("%w: volumes need mounts of the container's own: --isolation=filesystem/linux, or filesystem/shared for paths of the host", container.ErrNotSupported)
	}
	return isolator.OnHost(c.Config)
}

// Cleanup implements isolator.Isolator: nothing was made.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
