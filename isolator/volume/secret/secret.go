// Package secret is the isolator volume/secret: a volume of a container that is a file with
// a secret. The file is on a file system of its own that is memory and is never swapped;
// the container's user alone can read it. It goes with the container, and neither the disk
// nor a record of berth ever has the secret.
package secret

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
}

// Isolator implements isolator.Isolator.
type Isolator struct {
	Options
}

// New returns the isolator.
func New(o Options) *Isolator { return &Isolator{o} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	info := &isolator.LaunchInfo{}
	if err := i.prepare(info, c.Config); err != nil {
		return nil, fmt.Errorf("volume/secret: %w", err)
	}
	if len(info.Volumes) == 0 {
		return nil, nil
	}
	return info, nil
}

func (i *Isolator) prepare(info *isolator.LaunchInfo, config *v1.ContainerConfig) error {
	if err := isolator.CheckVolumes(config); err != nil {
		return err
	}
	for _, v := range config.GetContainerInfo().GetVolumes() {
		if v.GetSource().GetType() != v1.Volume_Source_SECRET {
			continue
		}
		m, err := isolator.VolumeMount(config, i.SandboxDirectory, v)
		if err != nil {
			return err
		}
		if m.Content, err = resolve(v.GetSource().GetSecret()); err != nil {
			return fmt.Errorf("volume at %s: %w", m.Target, err)
		}
		// Unlike those of tmpfs, the pages of ramfs are never swapped.
		m.Source, m.Type, m.File = "secret", "ramfs", true
		m.Flags |= plan.NoSuid | plan.NoDev | plan.NoExec
		info.Volumes = append(info.Volumes, m)
	}
	return nil
}

// resolve returns what a secret is. No error has any of it.
func resolve(s *v1.Secret) ([]byte, error) {
	switch {
	case s.GetType() == v1.Secret_REFERENCE:
		return nil, fmt.Errorf("the secret is a REFERENCE to %q: %w: nobody here keeps secrets by name; give its VALUE", s.GetReference().GetName(), container.ErrNotSupported)
	case s.GetType() != v1.Secret_VALUE || s.Value == nil || s.Reference != nil:
		return nil, fmt.Errorf("%w: a secret is of type VALUE and has a value and no reference", container.ErrInvalid)
	}
	return s.GetValue().GetData(), nil
}

// Cleanup implements isolator.Isolator: the file goes with the mount namespace.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
