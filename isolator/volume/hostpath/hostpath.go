//go:build linux

// Package hostpath is the isolator volume/host_path: a volume of a container that is a
// file or directory of the host or, by a relative host_path, a directory of its own
// sandbox.
//
// Mounts that the host makes later below a path of it appear in the container, and, if
// the request says so, the other way too.
package hostpath

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/inroot"
	"berth/internal/mount"
	"berth/isolator"
	"berth/launcher/plan"
)

// Options are what the isolator is made of.
type Options struct {
	// SandboxDirectory is where a container with an image finds its sandbox.
	SandboxDirectory string
	// Prefixes are the directories of the host of which there may be volumes; a link does
	// not lead out of them. None: all of the host.
	Prefixes []string
}

// Isolator implements isolator.Isolator.
type Isolator struct {
	Options
}

// New returns the isolator.
func New(o Options) *Isolator { return &Isolator{o} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	isOfHost := func(v *v1.Volume) bool {
		_, ok := isolator.HostPath(v)
		return ok
	}
	info, err := isolator.EachVolume(c.Config, i.SandboxDirectory, isOfHost, func(info *isolator.LaunchInfo, m *plan.Mount, v *v1.Volume) error {
		source, _ := isolator.HostPath(v)
		if path.IsAbs(source) {
			return i.ofHost(m, source, v, c.IDs)
		}
		m.Source, m.SubPath = c.Config.GetDirectory(), source
		return inSandbox(info, c, source, v.GetContainerPath())
	})
	if err != nil {
		return nil, fmt.Errorf("volume/host_path: %w", err)
	}
	return info, nil
}

// ofHost has a mount show a path of the host.
func (i *Isolator) ofHost(m *plan.Mount, source string, v *v1.Volume, ids container.IDRange) (err error) {
	if _, err := os.Stat(source); err != nil {
		return fmt.Errorf("%w: host_path is to exist; make it, or give a relative one, which is made in the sandbox: %w", container.ErrInvalid, err)
	}
	if m.Source, m.SubPath, err = i.locate(source); err != nil {
		return err
	}
	if m.Propagation, err = propagation(v, source); err == nil && m.Propagation == plan.BothWays && !ids.IsHost() {
		err = fmt.Errorf("%w: BIDIRECTIONAL: what is mounted in a user namespace cannot reach the host", container.ErrInvalid)
	}
	return err
}

// locate returns where a path of the host is: a prefix, and what is below it. There the
// init process follows links inside the prefix only, so that none that is made meanwhile
// leads out.
func (i *Isolator) locate(source string) (dir, sub string, err error) {
	if len(i.Prefixes) == 0 {
		return source, "", nil
	}
	real, err := filepath.EvalSymlinks(source)
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", container.ErrInvalid, err)
	}
	for _, prefix := range i.Prefixes {
		dir, err := filepath.EvalSymlinks(prefix)
		if err != nil {
			continue // nothing lies in it
		}
		switch sub, err := filepath.Rel(dir, real); {
		case err != nil || sub == ".." || strings.HasPrefix(sub, "../"):
		case sub == ".":
			return dir, "", nil
		default:
			return dir, sub, nil
		}
	}
	return "", "", fmt.Errorf("%w: host_path %s is %s, which is not in --host_path_volume_prefixes (%s)",
		container.ErrInvalid, source, real, strings.Join(i.Prefixes, ", "))
}

// propagation says which mounts made later cross the boundary of the container.
func propagation(v *v1.Volume, source string) (plan.Propagation, error) {
	switch mode := v.GetSource().GetHostPath().GetMountPropagation().GetMode(); mode {
	case v1.MountPropagation_UNKNOWN, v1.MountPropagation_HOST_TO_CONTAINER:
		return plan.FromHost, nil
	case v1.MountPropagation_BIDIRECTIONAL:
		at, shared, err := mount.Shared(source)
		if err == nil && !shared {
			err = fmt.Errorf("%w: mounts made in the container can reach the host only below a shared mount, and %s lies on %s, which is none: `mount --make-shared %[3]s`",
				container.ErrInvalid, source, at)
		}
		return plan.BothWays, err
	default:
		return 0, fmt.Errorf("mount propagation %s: %w: known are HOST_TO_CONTAINER and BIDIRECTIONAL", mode, container.ErrInvalid)
	}
}

// inSandbox makes a directory of the sandbox, with mode and owner of the one that it will
// hide, so that a /tmp is everybody's. One that hides nothing is for the user.
func inSandbox(info *isolator.LaunchInfo, c *isolator.Container, name, containerPath string) error {
	config := c.Config
	made := isolator.Attributes{Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()}
	var hidden fs.FileInfo
	if path.IsAbs(containerPath) {
		var err error
		if hidden, err = directoryIn(cmp.Or(config.GetRootfs(), "/"), containerPath); err != nil {
			return err
		}
	}
	if hidden == nil {
		info.ForUser = append(info.ForUser, name)
	} else {
		owner := hidden.Sys().(*syscall.Stat_t)
		made = isolator.Attributes{Mode: hidden.Mode() & (fs.ModePerm | fs.ModeSticky | fs.ModeSetgid), UID: int(c.IDs.Inside(owner.Uid)), GID: int(c.IDs.Inside(owner.Gid))}
	}
	return isolator.MakeInSandbox(config.GetDirectory(), name, made)
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

// Cleanup implements isolator.Isolator: the mounts go with their namespace, and what is
// in the sandbox with that.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
