// Package copy makes a root filesystem by copying the layers one over the other. It
// needs nothing of the kernel, and costs the time and the space of the image for each
// container; on file systems with reflinks (btrfs, xfs) only the time of its metadata.
//
// One goroutine, the applier, makes and removes names, layer after layer; several, the
// fillers, give the files that it made their content and attributes. No filler needs
// a name, so that the order of the layers concerns the applier alone.
package copy

import (
	"context"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"berth/container"
	"berth/internal/disk"
	"berth/internal/mount"
	"berth/layer"
	"berth/provisioner/backend"
)

// Backend is the copy backend. Root filesystems are writable.
type Backend struct{}

var _ backend.Backend = (*Backend)(nil)

// New returns the backend.
func New() *Backend { return &Backend{} }

// Form implements backend.Backend.
func (b *Backend) Form() layer.Form { return layer.Tree }

// Ephemeral implements backend.Backend: the root filesystem itself, because all of it is
// the container's own.
func (b *Backend) Ephemeral(rootfs, _ string) []string { return []string{rootfs} }

// Provision implements backend.Backend.
func (b *Backend) Provision(ctx context.Context, layers []backend.Layer, rootfs, _ string) error {
	if len(layers) == 0 {
		return fmt.Errorf("copy backend: %w: the image has no layers", container.ErrInvalid)
	}
	if err := backend.MakeRootfs(rootfs); err != nil {
		return fmt.Errorf("copy backend: %w", err)
	}
	if err := stack(ctx, layers, rootfs); err != nil {
		return fmt.Errorf("copy backend: %w", err)
	}
	return nil
}

// ProvisionMapped implements backend.Mapper: an idmapped mount of the root filesystem lies on
// it.
func (b *Backend) ProvisionMapped(ctx context.Context, layers []backend.Layer, rootfs, dir string, ids container.IDRange) error {
	if err := b.Provision(ctx, layers, rootfs, dir); err != nil {
		return err
	}
	err := backend.CoverMapped(rootfs, rootfs, ids, func(*mount.Detached) error { return nil })
	if err == nil {
		err = mount.ShareFromHost(rootfs)
	}
	if err != nil {
		return fmt.Errorf("copy backend: %w", err)
	}
	return nil
}

// stack copies the layers, base first, into the empty directory rootfs.
func stack(ctx context.Context, layers []backend.Layer, rootfs string) error {
	root, err := disk.Open(rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	workers, ctx := errgroup.WithContext(ctx)
	files := make(chan file, 16)
	workers.Go(func() error {
		defer close(files)
		for i, l := range layers {
			a := &applier{root: int(root.Fd()), links: make(map[uint64]string), implied: make(map[string]bool), files: files}
			for _, name := range l.Implied {
				a.implied[name] = i > 0 // the base layer's are all there is
			}
			if err := a.apply(ctx, l.Path); err != nil {
				return fmt.Errorf("layer %d of %d: %w", i+1, len(layers), err)
			}
		}
		return nil
	})
	for range min(runtime.GOMAXPROCS(0), 8) {
		workers.Go(func() error { return fill(ctx, files) })
	}
	err = workers.Wait()
	for f := range files { // what an error has left
		f.close()
	}
	return err
}

// Destroy implements backend.Backend.
func (b *Backend) Destroy(_ context.Context, rootfs, _ string) (bool, error) {
	existed, err := mount.RemoveAll(rootfs)
	if err != nil {
		return existed, fmt.Errorf("copy backend: %w", err)
	}
	return existed, nil
}
