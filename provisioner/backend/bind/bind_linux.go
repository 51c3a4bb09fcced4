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

	"berth/container"
	"berth/internal/mount"
	"berth/layer"
	"berth/provisioner/backend"
)

// Backend is the bind backend. Root filesystems are read-only.
type Backend struct{}

// New returns the backend.
func New() *Backend { return &Backend{} }

// Form implements backend.Backend.
func (b *Backend) Form() layer.Form { return layer.Tree }

// Provision implements backend.Backend. It returns no ephemeral directories: nothing
// can be written.
func (b *Backend) Provision(_ context.Context, layers []backend.Layer, rootfs, _ string) ([]string, error) {
	const remedy = "use --image_provisioner_backend=overlay or copy"
	switch {
	case len(layers) != 1:
		return nil, fmt.Errorf("bind backend: %w: it takes exactly one layer, the image has %d; %s", container.ErrInvalid, len(layers), remedy)
	case layers[0].Whiteouts:
		return nil, fmt.Errorf("bind backend: %w: the layer has whiteouts, which a bind mount cannot hide; %s", container.ErrInvalid, remedy)
	}
	if err := provision(layers[0].Path, rootfs); err != nil {
		return nil, fmt.Errorf("bind backend: %w", err)
	}
	return nil, nil
}

func provision(path, rootfs string) (err error) {
	if err := backend.MakeRootfs(rootfs); err != nil {
		return err
	}
	clone, err := mount.Clone(path, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clone.Close()) }()
	// Read-only before it can be seen.
	if err := clone.Set(mount.ReadOnly, false); err != nil {
		return err
	}
	if err := clone.Attach(rootfs); err != nil {
		return err
	}
	return mount.ShareFromHost(rootfs)
}

// Destroy implements backend.Backend.
func (b *Backend) Destroy(_ context.Context, rootfs, _ string) (bool, error) {
	existed, err := mount.RemoveAll(rootfs)
	if err != nil {
		return existed, fmt.Errorf("bind backend: %w", err)
	}
	return existed, nil
}
