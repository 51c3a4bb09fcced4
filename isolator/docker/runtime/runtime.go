// Package runtime is the isolator docker/runtime: what a Docker or OCI image says of
// how it wants to be run, its entrypoint, command, environment, user and working
// directory, combined with what the request says.
package runtime

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
	if c.Image == nil || c.Image.Appc != nil {
		return nil, nil // appc/runtime knows what an Appc image says
	}
	run := c.Image.Run
	command, err := isolator.ResolveCommand(c.Config, run.Entrypoint, run.Cmd)
	if err != nil {
		return nil, fmt.Errorf("docker/runtime: %w", err)
	}
	return &isolator.LaunchInfo{Command: command, Env: run.Env, User: run.User, WorkingDir: run.WorkingDir}, nil
}

// Cleanup implements isolator.Isolator: nothing was made.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
