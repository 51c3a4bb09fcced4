// Package bind shows the only layer of an image as it is, read-only, by a bind
// mount: the fastest backend, for images that need nothing else.
//
// The mount points that a container needs (/proc, /dev, the sandbox directory) must
// exist in the image, because nothing can be made in it.
package bind

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/metrics"
	"berth/internal/mount"
	"berth/layer"
	"berth/provisioner/backend"
)

// RemoveRootfsErrors is a counter, with the name that it has in Mesos: directories of
// destroyed root filesystems that were busy and so stayed.
const RemoveRootfsErrors = "containerizer/mesos/provisioner/bind/remove_rootfs_errors"

// Backend is the bind backend. Root filesystems are read-only.
type Backend struct {
	busy *metrics.Counter
}

// New returns the backend, which counts in a set that may be nil.
func New(set *metrics.Set) *Backend { return &Backend{set.Counter(RemoveRootfsErrors)} }

// Form implements backend.Backend.
func (b *Backend) Form() layer.Form { return layer.Tree }

// Ephemeral implements backend.Backend: there are none, because nothing can be written.
func (b *Backend) Ephemeral(string, string) []string { return nil }

// Provision implements backend.Backend.
func (b *Backend) Provision(_ context.Context, layers []backend.Layer, rootfs, _ string) error {
	return provision(layers, rootfs, attach)
}

// ProvisionMapped implements backend.Mapper.
func (b *Backend) ProvisionMapped(_ context.Context, layers []backend.Layer, rootfs, _ string, ids container.IDRange) error {
	return provision(layers, rootfs, func(path, rootfs string) error {
		return backend.CoverMapped(path, rootfs, ids, readOnly)
	})
}

// provision has attach mount the layer.
func provision(layers []backend.Layer, rootfs string, attach func(path, rootfs string) error) error {
	const remedy = "use --image_provisioner_backend=overlay or copy"
	switch {
	case len(layers) != 1:
		return fmt.Errorf("bind backend: %w: it takes exactly one layer, the image has %d; %s", container.ErrInvalid, len(layers), remedy)
	case layers[0].Whiteouts:
		return fmt.Errorf("bind backend: %w: the layer has whiteouts, which a bind mount cannot hide; %s", container.ErrInvalid, remedy)
	}
	err := backend.MakeRootfs(rootfs)
	if err == nil {
		err = attach(layers[0].Path, rootfs)
	}
	if err == nil {
		err = mount.ShareFromHost(rootfs)
	}
	if err != nil {
		return fmt.Errorf("bind backend: %w", err)
	}
	return nil
}

func attach(path, rootfs string) (err error) {
	clone, err := mount.Clone(path, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clone.Close()) }()
	// Before it can be seen.
	if err := readOnly(clone); err != nil {
		return err
	}
	return clone.Attach(rootfs)
}

func readOnly(d *mount.Detached) error { return d.Set(mount.ReadOnly, false) }

// Destroy implements backend.Backend. The empty directory may stay, if somebody else on
// the host keeps it busy: the provisioner tries to remove it again, with all that is
// around it.
func (b *Backend) Destroy(_ context.Context, rootfs, _ string) (bool, error) {
	if err := mount.Detach(rootfs); err != nil {
		return true, fmt.Errorf("bind backend: %w", err)
	}
	existed, err := mount.RemoveAll(rootfs)
	if errors.Is(err, unix.EBUSY) {
		b.busy.Add(1)
		return existed, nil
	}
	if err != nil {
		return existed, fmt.Errorf("bind backend: %w", err)
	}
	return existed, nil
}
