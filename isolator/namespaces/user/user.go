// Package user is the isolator namespaces/user: the container has a user namespace, in
// which its root has all capabilities and outside of which it is an unprivileged user of
// the host. LinuxInfo.user_namespace asks for it.
//
// A nested container is in the namespace of its parent.
//
// Root filesystem, sandbox and volumes are idmapped: who owns what on disk does not depend
// on the range, and nothing is chowned.
package user

import (
	"context"
	"fmt"

	"berth/container"
	"berth/isolator"
	"berth/launcher"
)

// Isolator implements isolator.Isolator.
type Isolator struct{}

// New returns the isolator.
func New() *Isolator { return &Isolator{} }

// Prepare implements isolator.Isolator. Which range it is has been decided: the root
// filesystem was made with it.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	nested := c.Parent != nil && !c.Parent.IDs.IsHost()
	if c.Config.GetContainerInfo().GetLinuxInfo().GetUserNamespace() == nil && !nested {
		return nil, nil
	}
	if c.Config.GetRootfs() == "" {
		return nil, fmt.Errorf("namespaces/user: %w: on the host's file system root of a user namespace would be nobody, and not reach its own sandbox; run an image", container.ErrNotSupported)
	}
	if nested {
		return &isolator.LaunchInfo{Enter: []launcher.Namespace{launcher.User}}, nil
	}
	return &isolator.LaunchInfo{Namespaces: []launcher.Namespace{launcher.User}}, nil
}

// Cleanup implements isolator.Isolator: the namespace went with its processes.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
