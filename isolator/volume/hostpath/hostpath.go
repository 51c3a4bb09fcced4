//go:build linux

// Package hostpath is the isolator volume/host_path: a volume of a container that is a
// file or directory of the host or, by a relative host_path, a directory of its own
// sandbox.
//
// Mounts that the host makes later below such a path do not appear in the container,
// nor the other way.
package hostpath

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/inroot"
	"berth/isolator"
)

// Options are what the isolator is made of.
type Options struct {
	// SandboxDirectory is where a container with an image finds its sandbox.
	SandboxDirectory string
}

// Isolator implements isolator.Isolator.
type Isolator struct {
	Options
}

// New returns the isolator.
func New(o Options) *Isolator { return &Isolator{o} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	info := &isolator.LaunchInfo{}
	if err := i.prepare(info, c.Config); err != nil {
		return nil, fmt.Errorf("volume/host_path: %w", err)
	}
	if len(info.Volumes) == 0 {
		return nil, nil
	}
	return info, nil
}

func (i *Isolator) prepare(info *isolator.LaunchInfo, config *v1.ContainerConfig) error {
	if err := isolator.CheckVolumes(config); err != nil {
		return err
	}
	for _, v := range config.GetContainerInfo().GetVolumes() {
		if v.HostPath == nil {
			continue
		}
		m, err := isolator.VolumeMount(config, i.SandboxDirectory, v)
		if err != nil {
			return err
		}
		m.Source = path.Clean(v.GetHostPath())
		if path.IsAbs(m.Source) {
			_, err = os.Stat(m.Source)
			if err != nil {
				err = fmt.Errorf("%w: host_path is to exist; make it, or give a relative one, which is made in the sandbox: %w", container.ErrInvalid, err)
			}
		} else {
			m.Source, m.SubPath = config.GetDirectory(), m.Source
			err = inSandbox(info, config, m.SubPath, v.GetContainerPath())
		}
		if err != nil {
			return fmt.Errorf("volume at %s: %w", m.Target, err)
		}
		info.Volumes = append(info.Volumes, m)
	}
	return nil
}

// inSandbox makes a directory of the sandbox, with mode and owner of the one that it will
// hide, so that a /tmp is everybody's. One that hides nothing is for the user.
func inSandbox(info *isolator.LaunchInfo, config *v1.ContainerConfig, name, containerPath string) error {
	var hidden fs.FileInfo
	if path.IsAbs(containerPath) {
		var err error
		if hidden, err = directoryIn(cmp.Or(config.GetRootfs(), "/"), containerPath); err != nil {
			return err
		}
	}
	if hidden == nil {
		info.ForUser = append(info.ForUser, name)
	}
	return makeDirectory(config.GetDirectory(), name, hidden)
}

// directoryIn tells of a directory of a root filesystem; nil: there is none.
func directoryIn(root, name string) (fs.FileInfo, error) {
	info, err := inroot.Stat(root, name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, container.ErrInvalid):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, nil
	}
	return info, nil
}

// makeDirectory makes a directory that is missing, like another one if that is not nil.
func makeDirectory(sandbox, name string, like fs.FileInfo) (err error) {
	root, err := os.OpenRoot(sandbox)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if _, err := root.Stat(name); err == nil {
		return nil // that of another volume
	}
	if err := root.MkdirAll(name, 0o755); err != nil {
		return err
	}
	if like == nil {
		return root.Chmod(name, 0o755) // whatever the umask is
	}
	// The owner first: chown clears bits of the mode.
	owner := like.Sys().(*syscall.Stat_t)
	return errors.Join(root.Chown(name, int(owner.Uid), int(owner.Gid)), root.Chmod(name, like.Mode()&(fs.ModePerm|fs.ModeSticky|fs.ModeSetgid)))
}

// Cleanup implements isolator.Isolator: the mounts go with their namespace, and what is
// in the sandbox with that.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
