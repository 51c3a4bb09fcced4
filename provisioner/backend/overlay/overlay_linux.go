// Package overlay stacks layers with overlayfs: nothing is copied until the
// container writes. It follows Documentation/filesystems/overlayfs.rst.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"berth/container"
	"berth/internal/mount"
	"berth/layer"
	"berth/provisioner/backend"
	"berth/state"
)

// Backend is the overlay backend. Root filesystems are writable.
type Backend struct {
	attach func(mount.Overlay, string) error
}

// maxLayers is OVL_MAX_STACK of the kernel.
const maxLayers = 500

// New returns the backend.
func New() *Backend { return &Backend{attach: mount.Overlay.Attach} }

// newByLinks returns the backend as it works on kernels before 6.8.
func newByLinks() *Backend { return &Backend{attach: mount.Overlay.AttachByLinks} }

// Form implements backend.Backend.
func (b *Backend) Form() layer.Form { return layer.Tree }

// plan is what Provision mounts, as a pure function of its arguments.
func plan(layers []backend.Layer, rootfs, dir string) mount.Overlay {
	scratch := state.Scratch(dir, rootfs)
	o := mount.Overlay{
		Upper: filepath.Join(scratch, "upper"),
		Work:  filepath.Join(scratch, "work"),
		Links: filepath.Join(scratch, "links"),
	}
	for i := len(layers) - 1; i >= 0; i-- {
		o.Lowers = append(o.Lowers, layers[i].Path)
	}
	return o
}

// Provision implements backend.Backend. It returns the upper and the work directory.
func (b *Backend) Provision(_ context.Context, layers []backend.Layer, rootfs, dir string) ([]string, error) {
	switch {
	case len(layers) == 0:
		return nil, fmt.Errorf("overlay backend: %w: the image has no layers", container.ErrInvalid)
	case len(layers) > maxLayers:
		return nil, fmt.Errorf("overlay backend: %w: the image has %d layers, overlayfs stacks at most %d; use --image_provisioner_backend=copy",
			container.ErrInvalid, len(layers), maxLayers)
	}
	o := plan(layers, rootfs, dir)
	if err := makeDirectories(o, rootfs); err != nil {
		return nil, fmt.Errorf("overlay backend: %w", err)
	}
	if err := b.attach(o, rootfs); err != nil {
		return nil, fmt.Errorf("overlay backend: mount %s: %w: is the file system of %s fit to hold an overlay's upper directory? see `berth info`",
			rootfs, err, dir)
	}
	if err := mount.ShareFromHost(rootfs); err != nil {
		return nil, fmt.Errorf("overlay backend: %w", err)
	}
	return []string{o.Upper, o.Work}, nil
}

func makeDirectories(o mount.Overlay, rootfs string) error {
	if err := backend.MakeRootfs(rootfs); err != nil {
		return err
	}
	// The root of the container has the owner, mode and times of the upper directory.
	st, err := os.Stat(o.Lowers[0])
	if err != nil {
		return err
	}
	for _, d := range []string{o.Upper, o.Work} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	return copyRootAttributes(o.Upper, st)
}

// Destroy implements backend.Backend.
func (b *Backend) Destroy(_ context.Context, rootfs, dir string) (bool, error) {
	if err := mount.Detach(rootfs); err != nil {
		return false, fmt.Errorf("overlay backend: %w", err)
	}
	existed, err := backend.RemoveAll(state.Scratch(dir, rootfs))
	// Not RemoveAll: should anything still be mounted here, it must not be emptied.
	switch rmErr := os.Remove(rootfs); {
	case rmErr == nil:
		existed = true
	case !errors.Is(rmErr, os.ErrNotExist):
		err = errors.Join(err, rmErr)
	}
	if err != nil {
		return existed, fmt.Errorf("overlay backend: %w", err)
	}
	return existed, nil
}
