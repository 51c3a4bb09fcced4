//go:build linux

// Package netcls is the isolator cgroups/net_cls: the packets of each container have a tag
// of its own, by which the host's traffic control and firewall tell containers apart
// (Documentation/admin-guide/cgroup-v1/net_cls.rst). cgroup v2 has nothing like it.
package netcls

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/isolator"
)

const (
	controller = "net_cls"
	file       = "net_cls.classid"
)

// Handles are the tags of all containers: a primary handle for all, and a secondary one of
// a range for each. The zero value is none.
type Handles struct {
	Primary  uint16
	From, To uint16 // of the secondary handles, both included
}

// ParseHandles reads the flags: a number as 0xAAAA, and a range as 0x1,0xffff. Without a
// range all are in it but 0, which traffic control takes for the primary handle itself.
// ErrInvalid: they are none.
func ParseHandles(primary, secondary string) (h Handles, err error) {
	if primary == "" {
		if secondary != "" {
			err = fmt.Errorf("--cgroups_net_cls_secondary_handles: %w: it needs --cgroups_net_cls_primary_handle", container.ErrInvalid)
		}
		return h, err
	}
	if h.Primary, err = parseHandle(primary); err != nil || h.Primary == 0 {
		return h, fmt.Errorf("--cgroups_net_cls_primary_handle %q: %w: it is a number from 0x1 to 0xffff", primary, container.ErrInvalid)
	}
	h.From, h.To = 1, 1<<16-1
	if secondary == "" {
		return h, nil
	}
	from, to, _ := strings.Cut(secondary, ",")
	var fromErr, toErr error
	h.From, fromErr = parseHandle(from)
	h.To, toErr = parseHandle(to)
	if fromErr != nil || toErr != nil || h.From == 0 || h.To < h.From {
		return h, fmt.Errorf("--cgroups_net_cls_secondary_handles %q: %w: it is a range from 0x1 to 0xffff, as 0x1,0xff", secondary, container.ErrInvalid)
	}
	return h, nil
}

func parseHandle(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 0, 16)
	return uint16(n), err
}

// Options are what the isolator is made of.
type Options struct {
	Groups  cgroup.Groups
	Handles Handles
	// Dir has a file for each handle that is taken, by which container. All processes of
	// berth that share it have containers with different tags.
	Dir string
	// Exists reports whether there is a record of a container.
	Exists func(container.ID) bool
}

// Isolator implements isolator.Isolator, isolator.Enforcer and isolator.Statuser.
type Isolator struct {
	Options
}

// New returns the isolator.
func New(o Options) *Isolator { return &Isolator{o} }

// Supports implements isolator.Supporter: what shares the cgroups of its parent has its
// tag.
func (i *Isolator) Supports() isolator.Support { return isolator.Support{Nested: true} }

// Prepare implements isolator.Isolator. It takes a handle; ErrFailedPrecondition: none is
// free.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	info := &isolator.LaunchInfo{Controllers: []string{controller}}
	if i.Handles.Primary == 0 {
		return info, nil
	}
	if err := os.MkdirAll(i.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cgroups/net_cls: %w", err)
	}
	for _, prepare := range []func() error{func() error { return nil }, i.sweep} {
		if err := prepare(); err != nil {
			return nil, fmt.Errorf("cgroups/net_cls: %w", err)
		}
		taken, err := i.take(c.ID)
		if err != nil {
			return nil, fmt.Errorf("cgroups/net_cls: %w", err)
		}
		if taken {
			return info, nil
		}
	}
	return nil, fmt.Errorf("cgroups/net_cls: %w: all handles from %#x to %#x are taken: widen --cgroups_net_cls_secondary_handles", container.ErrFailedPrecondition, i.Handles.From, i.Handles.To)
}

func (i *Isolator) path(secondary int) string {
	return filepath.Join(i.Dir, fmt.Sprintf("%#04x", secondary))
}

// take takes the first handle that is free; the file system decides between processes.
func (i *Isolator) take(id container.ID) (bool, error) {
	for secondary := int(i.Handles.From); secondary <= int(i.Handles.To); secondary++ {
		// A link, because it is there with its content or not at all.
		err := os.Symlink(id.String(), i.path(secondary))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return false, err
		}
	}
	return false, nil
}

// sweep frees what containers had that are not there any more.
func (i *Isolator) sweep() error {
	return i.each(func(path, of string) error {
		if id, err := container.ParseID(of); err == nil && i.Exists(id) {
			return nil
		}
		return os.Remove(path)
	})
}

// each calls visit with every handle that is taken.
func (i *Isolator) each(visit func(path, id string) error) error {
	entries, err := os.ReadDir(i.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, entry := range entries {
		path := filepath.Join(i.Dir, entry.Name())
		id, err := os.Readlink(path)
		if err == nil {
			err = visit(path, id)
		}
		if !errors.Is(err, fs.ErrNotExist) { // freed meanwhile
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Isolate implements isolator.Enforcer.
func (i *Isolator) Isolate(_ context.Context, c *isolator.Container, _ int) error {
	if i.Handles.Primary == 0 {
		return nil
	}
	if err := i.tag(c.ID); err != nil {
		return fmt.Errorf("cgroups/net_cls: %w", err)
	}
	return nil
}

func (i *Isolator) tag(id container.ID) error {
	dir, err := cgroup.DirOf(i.Groups, id, controller)
	if err != nil {
		return err
	}
	tagged := false
	err = i.each(func(path, of string) error {
		if of != id.String() {
			return nil
		}
		tagged = true
		secondary, err := parseHandle(filepath.Base(path))
		if err != nil {
			return err
		}
		classid := uint32(i.Handles.Primary)<<16 | uint32(secondary)
		return dir.Write(file, strconv.FormatUint(uint64(classid), 10))
	})
	if err == nil && !tagged {
		err = fmt.Errorf("%w: somebody has removed its handle from %s", container.ErrFailedPrecondition, i.Dir)
	}
	return err
}

// Status adds the tag of a container, which may be of a berth with other flags.
func (i *Isolator) Status(_ context.Context, c *isolator.Container, to *v1.ContainerStatus) error {
	dir, err := cgroup.DirOf(i.Groups, c.ID, controller)
	if err != nil {
		return err
	}
	classid, err := dir.ReadUint(file)
	if err != nil {
		return fmt.Errorf("cgroups/net_cls: %w", err)
	}
	if classid != 0 {
		to.CgroupInfo = &v1.CgroupInfo{NetCls: &v1.CgroupInfo_NetCls{Classid: proto.Uint32(uint32(classid))}}
	}
	return nil
}

// Cleanup implements isolator.Isolator: the handle is free again.
func (i *Isolator) Cleanup(_ context.Context, id container.ID) error {
	err := i.each(func(path, of string) error {
		if of != id.String() {
			return nil
		}
		return os.Remove(path)
	})
	if err != nil {
		return fmt.Errorf("cgroups/net_cls: %w", err)
	}
	return nil
}
