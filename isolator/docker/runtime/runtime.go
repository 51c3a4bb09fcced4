// Package runtime is the isolator docker/runtime: what a Docker image says of how it
// wants to be run, its entrypoint, command, environment, user, working directory and stop
// signal, combined with what the request says.
package runtime

import (
	"context"
	"fmt"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
)

// Isolator implements isolator.Isolator.
type Isolator struct{}

// New returns the isolator.
func New() *Isolator { return &Isolator{} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	if !c.HasImage(v1.Image_DOCKER) {
		return nil, nil
	}
	info, err := isolator.RunImage(c.Config, c.Image.Run)
	if err != nil {
		return nil, fmt.Errorf("docker/runtime: %w", err)
	}
	return info, nil
}

// Cleanup implements isolator.Isolator: nothing was made.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
