// Package shared is the isolator filesystem/shared: the container shares the host's file
// system, but for parts that are made private to it. Its main use is a /tmp of its own:
//
//	{"host_path": "tmp", "container_path": "/tmp", "mode": "RW"}
//
// makes the directory tmp in the sandbox, with the mode and the owner of /tmp, and mounts
// it there. The container sees neither the host's /tmp nor another container's.
//
// Here are its mount namespace and the rule that a part that is made private must exist;
// volume/host_path, which comes with it, makes the directories and the mounts.
package shared

import (
	"context"
	"fmt"
	"os"
	"path"

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
	info, err := prepare(c)
	if err != nil {
		return nil, fmt.Errorf("filesystem/shared: %w", err)
	}
	return info, nil
}

func prepare(c *isolator.Container) (*isolator.LaunchInfo, error) {
	if err := isolator.WithoutRootfs(c.Config); err != nil {
		return nil, err
	}
	if err := isolator.CheckVolumes(c.Config); err != nil {
		return nil, err
	}
	for _, v := range c.Config.GetContainerInfo().GetVolumes() {
		source, ok := isolator.HostPath(v)
		if !ok || path.IsAbs(source) {
			continue
		}
		if err := checkShared(v.GetContainerPath()); err != nil {
			return nil, fmt.Errorf("volume at %s: %w", v.GetContainerPath(), err)
		}
	}
	info, err := isolator.OnHost(c.Config)
	if err != nil {
		return nil, err
	}
	info.Namespaces = []launcher.Namespace{launcher.Mount}
	return info, nil
}

// checkShared refuses places of which the container cannot get its own: the directory is
// made like the one that is there.
func checkShared(place string) error {
	if !path.IsAbs(place) {
		return fmt.Errorf("%w: of a directory of the sandbox container_path is absolute: the directory of the host that it stands for", container.ErrInvalid)
	}
	info, err := os.Stat(place)
	if err != nil {
		return fmt.Errorf("%w: the directory of the sandbox is made with mode and owner of the host's %s, which must exist: %w", container.ErrInvalid, place, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%w: the directory of the sandbox is made with mode and owner of the host's %s, which is no directory", container.ErrInvalid, place)
	}
	return nil
}

// Cleanup implements isolator.Isolator: the mounts go with their namespace, and what is
// in the sandbox with that.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
