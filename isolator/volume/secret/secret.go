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
	// Resolver knows secrets by name; nil: nobody does.
	Resolver isolator.SecretResolver
}

// Isolator implements isolator.Isolator.
type Isolator struct {
	Options
}

// New returns the isolator.
func New(o Options) *Isolator { return &Isolator{o} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(ctx context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	isSecret := func(v *v1.Volume) bool { return v.GetSource().GetType() == v1.Volume_Source_SECRET }
	info, err := isolator.EachVolume(c.Config, i.SandboxDirectory, isSecret, func(_ *isolator.LaunchInfo, m *plan.Mount, v *v1.Volume) (err error) {
		// Unlike those of tmpfs, the pages of ramfs are never swapped.
		m.Source, m.Type, m.File = "secret", "ramfs", true
		m.Flags |= plan.NoSuid | plan.NoDev | plan.NoExec
		m.Content, err = isolator.ResolveSecret(ctx, i.Resolver, v.GetSource().GetSecret())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("volume/secret: %w", err)
	}
	return info, nil
}

// Cleanup implements isolator.Isolator: the file goes with the mount namespace.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
