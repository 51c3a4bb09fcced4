// Package net is the isolator namespaces/net: a container whose NetworkInfo is named
// "none" has a network namespace with nothing but a loopback device. Without a
// NetworkInfo it shares the network of the host, or of the container that it is nested in.
package net

import (
	"context"
	"fmt"

	"berth/container"
	"berth/isolator"
	"berth/launcher"
)

// None is the name of the network that connects to nothing.
const None = "none"

// Isolator implements isolator.Isolator.
type Isolator struct{}

// New returns the isolator.
func New() *Isolator { return &Isolator{} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	networks := c.Config.GetContainerInfo().GetNetworkInfos()
	switch {
	case len(networks) == 0 && c.Parent != nil:
		return &isolator.LaunchInfo{Enter: []launcher.Namespace{launcher.Network}}, nil
	case len(networks) == 0:
		return nil, nil
	case len(networks) == 1 && networks[0].GetName() == None:
		return &isolator.LaunchInfo{Namespaces: []launcher.Namespace{launcher.Network}, Loopback: true}, nil
	}
	return nil, fmt.Errorf("namespaces/net: network %q: %w: only %q, and the host's by naming none, are known", networks[0].GetName(), container.ErrNotSupported, None)
}

// Cleanup implements isolator.Isolator: the namespace went with its processes.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
