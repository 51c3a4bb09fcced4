// Package overlay stacks layers with overlayfs: nothing is copied until the
// container writes. It follows Documentation/filesystems/overlayfs.rst.
package overlay

import (
	"context"
	"fmt"

	"berth/container"
	"berth/internal/mount"
	"berth/layer"
	"berth/provisioner/backend"
)

// Backend is the overlay backend.
type Backend struct {
	overlay backend.Overlay
}

// New returns the backend.
func New() *Backend { return &Backend{backend.Overlay{Attach: mount.Overlay.Attach}} }

// newByLinks returns the backend as it works on kernels before 6.8.
func newByLinks() *Backend { return &Backend{backend.Overlay{Attach: mount.Overlay.AttachByLinks}} }

// Form implements backend.Backend.
func (b *Backend) Form() layer.Form { return layer.Tree }

// Ephemeral implements backend.Backend: the upper and the work directory.
func (b *Backend) Ephemeral(rootfs, dir string) []string { return b.overlay.Ephemeral(rootfs, dir) }

// Provision implements backend.Backend.
func (b *Backend) Provision(ctx context.Context, layers []backend.Layer, rootfs, dir string) error {
	return b.ProvisionMapped(ctx, layers, rootfs, dir, container.IDRange{})
}

// ProvisionMapped implements backend.Mapper: the layers are idmapped, and so is the upper
// directory.
func (b *Backend) ProvisionMapped(_ context.Context, layers []backend.Layer, rootfs, dir string, ids container.IDRange) error {
	return b.provision(layers, rootfs, dir, ids, b.overlay.Stack)
}

// ProvisionReadOnly implements backend.Viewer: there is no upper directory.
func (b *Backend) ProvisionReadOnly(_ context.Context, layers []backend.Layer, rootfs, dir string, ids container.IDRange) error {
	return b.provision(layers, rootfs, dir, ids, b.overlay.Show)
}

func (b *Backend) provision(layers []backend.Layer, rootfs, dir string, ids container.IDRange, stack backend.Stacking) error {
	err := b.overlay.Check(layers)
	if err == nil {
		err = b.overlay.MakeDirectories(rootfs, dir)
	}
	if err == nil {
		err = stack(layers, rootfs, dir, ids)
	}
	if err != nil {
		return fmt.Errorf("overlay backend: %w", err)
	}
	return nil
}

// Destroy implements backend.Backend.
func (b *Backend) Destroy(_ context.Context, rootfs, dir string) (bool, error) {
	existed, err := b.overlay.Destroy(rootfs, dir, func() error { return nil })
	if err != nil {
		return existed, fmt.Errorf("overlay backend: %w", err)
	}
	return existed, nil
}
