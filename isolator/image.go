package isolator

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	v1 "berth/api/v1"
	"berth/image"
)

// HasImage reports whether the root filesystem was made of an image of this type. What
// such an image says of how it wants to be run is for the isolator of its type.
func (c *Container) HasImage(of v1.Image_Type) bool {
	return c.Image != nil && c.Config.GetContainerInfo().GetMesos().GetImage().GetType() == of
}

// RunImage is the part of a launch that an image specifies: its entrypoint and command,
// combined with the request by ResolveCommand, its environment, user, working directory
// and stop signal. The isolators of all types of images return it; a type that has other
// words for them translates.
//
// The error is of class ErrInvalid.
func RunImage(config *v1.ContainerConfig, run image.RunConfig) (*LaunchInfo, error) {
	command, err := ResolveCommand(config, run.Entrypoint, run.Cmd)
	if err != nil {
		return nil, err
	}
	var stop syscall.Signal
	if run.StopSignal != "" {
		if stop, err = ParseSignal(run.StopSignal); err != nil {
			return nil, fmt.Errorf("the image wants to be stopped by %w; make it with another STOPSIGNAL", err)
		}
	}
	// As Mesos does: what is no variable is skipped.
	env := slices.DeleteFunc(slices.Clone(run.Env), func(entry string) bool { return strings.Index(entry, "=") < 1 })
	return &LaunchInfo{Command: command, Env: env, User: run.User, WorkingDir: run.WorkingDir, StopSignal: stop}, nil
}
