// Package uts is the isolator namespaces/uts: the container has a host name of its own,
// ContainerInfo.hostname or else the container's id. A nested container that names none
// has that of its parent, unless it has a network of its own.
package uts

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

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	name, err := isolator.Hostname(c)
	if err != nil {
		return nil, fmt.Errorf("namespaces/uts: %w", err)
	}
	if isolator.JoinsHostname(c) {
		return &isolator.LaunchInfo{Enter: []launcher.Namespace{launcher.UTS}}, nil
	}
	return &isolator.LaunchInfo{Namespaces: []launcher.Namespace{launcher.UTS}, Hostname: name}, nil
}

// Cleanup implements isolator.Isolator: the namespace went with its processes.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
