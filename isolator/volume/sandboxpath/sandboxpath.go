// Package sandboxpath is the isolator volume/sandbox_path: a volume of a container that is
// a file or directory of a sandbox, its own or that of the container that it is nested in.
// Containers of one parent share files in this way.
//
// What is there is mounted as it is; a directory that is missing is made, for the owner of
// the sandbox. Links in the sandbox lead nowhere out of it.
package sandboxpath

import (
	"context"
	"fmt"
	"os"
	"path"
	"syscall"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/launcher/plan"
)

// Options are what the isolator is made of.
type Options struct {
	// SandboxDirectory is where a container with an image finds its sandbox.
	SandboxDirectory string
	// Sandbox returns the sandbox of a container, on the host.
	Sandbox func(container.ID) string
}

// Isolator implements isolator.Isolator.
type Isolator struct {
	Options
}

// New returns the isolator.
func New(o Options) *Isolator { return &Isolator{o} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	isOfSandbox := func(v *v1.Volume) bool { return v.GetSource().GetType() == v1.Volume_Source_SANDBOX_PATH }
	info, err := isolator.EachVolume(c.Config, i.SandboxDirectory, isOfSandbox, func(info *isolator.LaunchInfo, m *plan.Mount, v *v1.Volume) (err error) {
		m.SubPath = path.Clean(v.GetSource().GetSandboxPath().GetPath())
		m.Source, err = i.source(info, c, v)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("volume/sandbox_path: %w", err)
	}
	return info, nil
}

// source returns the sandbox that a volume is of, and makes what is missing in it.
func (i *Isolator) source(info *isolator.LaunchInfo, c *isolator.Container, v *v1.Volume) (sandbox string, err error) {
	name := path.Clean(v.GetSource().GetSandboxPath().GetPath())
	switch v.GetSource().GetSandboxPath().GetType() {
	case v1.Volume_Source_SandboxPath_SELF:
		if !path.IsAbs(v.GetContainerPath()) {
			return "", fmt.Errorf("%w: container_path is relative, so that both ends are in the container's own sandbox", container.ErrInvalid)
		}
		info.ForUser = append(info.ForUser, name)
		sandbox = c.Config.GetDirectory()
		return sandbox, isolator.MakeInSandbox(sandbox, name, isolator.Attributes{Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()})
	case v1.Volume_Source_SandboxPath_PARENT:
		parent, nested := c.ID.Parent()
		if !nested {
			return "", fmt.Errorf("%w: a sandbox path of type PARENT is of the container that this one is nested in, and it is in none", container.ErrInvalid)
		}
		sandbox = i.Sandbox(parent)
		return sandbox, makeForOwner(sandbox, name)
	}
	return "", fmt.Errorf("%w: the type of a sandbox path is SELF or PARENT", container.ErrInvalid)
}

// makeForOwner makes a directory of another container's sandbox, for its owner.
func makeForOwner(sandbox, name string) error {
	info, err := os.Stat(sandbox)
	if err != nil {
		return fmt.Errorf("%w: the sandbox of the parent: %w", container.ErrInvalid, err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	return isolator.MakeInSandbox(sandbox, name, isolator.Attributes{Mode: 0o755, UID: int(owner.Uid), GID: int(owner.Gid)})
}

// Cleanup implements isolator.Isolator: the mounts go with their namespace, and what is
// in a sandbox with that.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
