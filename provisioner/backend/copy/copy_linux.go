// Package copy makes a root filesystem by copying the layers one over the other. It
// needs nothing of the kernel, and costs the time and the space of the image for each
// container; on file systems with reflinks (btrfs, xfs) only the time of its metadata.
package copy

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/layer"
	"berth/provisioner/backend"
)

// Backend is the copy backend. Root filesystems are writable.
type Backend struct{}

// New returns the backend.
func New() *Backend { return &Backend{} }

// Form implements backend.Backend.
func (b *Backend) Form() layer.Form { return layer.Tree }

// Provision implements backend.Backend. It returns the root filesystem itself: all of
// it is the container's own.
func (b *Backend) Provision(ctx context.Context, layers []backend.Layer, rootfs, _ string) ([]string, error) {
	if len(layers) == 0 {
		return nil, fmt.Errorf("copy backend: %w: the image has no layers", container.ErrInvalid)
	}
	if err := backend.MakeRootfs(rootfs); err != nil {
		return nil, fmt.Errorf("copy backend: %w", err)
	}
	root, err := os.Open(rootfs)
	if err != nil {
		return nil, fmt.Errorf("copy backend: %w", err)
	}
	defer root.Close()
	for i, l := range layers {
		if err := applyLayer(ctx, l.Path, root); err != nil {
			return nil, fmt.Errorf("copy backend: layer %d of %d: %w", i+1, len(layers), err)
		}
	}
	return []string{rootfs}, nil
}

func applyLayer(ctx context.Context, path string, root *os.File) error {
	source, err := os.Open(path)
	if err != nil {
		return err
	}
	defer source.Close()
	a := &applier{ctx: ctx, root: int(root.Fd()), links: make(map[uint64]string), buffer: make([]byte, 256<<10)}
	return a.directory(int(source.Fd()), int(root.Fd()), ".")
}

// Destroy implements backend.Backend.
func (b *Backend) Destroy(_ context.Context, rootfs, _ string) (bool, error) {
	existed, err := backend.RemoveAll(rootfs)
	if err != nil {
		return existed, fmt.Errorf("copy backend: %w", err)
	}
	return existed, nil
}

var _ backend.Backend = (*Backend)(nil)

// Names are always single components below open directories, so that no link of a
// layer, nor of a lower one, can lead anywhere.
const openDirectory = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
