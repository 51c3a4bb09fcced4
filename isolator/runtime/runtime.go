// Package runtime is the isolators docker/runtime and oci/runtime: what an image of the one
// or the other type says of how it wants to be run, its entrypoint, command, environment,
// user, working directory and stop signal, combined with what the request says. Both types
// say it in the same words.
package runtime

import (
	"context"
	"fmt"
	"strings"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
)

// Isolator implements isolator.Isolator.
type Isolator struct {
	of v1.Image_Type
}

// New returns the isolator for images of a type, DOCKER or OCI. Of others it says nothing.
func New(of v1.Image_Type) *Isolator { return &Isolator{of} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	if !c.HasImage(i.of) {
		return nil, nil
	}
	info, err := isolator.RunImage(c.Config, c.Image.Run)
	if err != nil {
		return nil, fmt.Errorf("%s/runtime: %w", strings.ToLower(i.of.String()), err)
	}
	return info, nil
}

// Cleanup implements isolator.Isolator: nothing was made.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
