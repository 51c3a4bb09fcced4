// Package erofs mounts layers as they were pulled: a tar and an EROFS index over it. Nothing
// is unpacked. What a container writes goes to an overlay above them.
//
// A layer is mounted once, for all root filesystems that have it, so that they share what
// the kernel holds of it in memory, too:
//
//	<dir>/<key>/fs               the layer, mounted
//	<dir>/<key>/users/<user>     for each root filesystem that has it, a link to that
//
// The key says which copy of a layer it is: one that took the place of a broken copy is
// another one. A mount is there while it has users; the directory is locked (flock(2))
// shared by who becomes a user, exclusively by who mounts and unmounts.
//
//	<backend dir>/scratch/<rootfs>/mounts    the keys that the root filesystem may use
//
// is there before it uses any. So whatever ends a process, or the host, Destroy finds what a
// root filesystem has used; Provision mounts again what a reboot has unmounted.
package erofs

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/disk"
	"berth/internal/mount"
	"berth/layer"
	"berth/provisioner/backend"
)

// Backend is the erofs backend. Root filesystems are writable.
type Backend struct {
	mounts  mounts
	overlay backend.Overlay
}

// New returns the backend, which keeps the mounts of layers in dir. All backends on a host
// that use the same directory, in whichever processes, share them.
func New(dir string) *Backend {
	return &Backend{mounts{dir: dir, mount: mount.EROFS.Mount}, backend.Overlay{Attach: mount.Overlay.Attach}}
}

// newByLoop returns the backend as it works on kernels before 6.12.
func newByLoop(dir string) *Backend {
	b := New(dir)
	b.mounts.mount = mount.EROFS.MountByLoop
	return b
}

// SharedIn implements backend.Sharer.
func (b *Backend) SharedIn(dir string) backend.Backend {
	other := *b
	other.mounts.dir = dir
	return &other
}

// Form implements backend.Backend.
func (b *Backend) Form() layer.Form { return layer.EROFS }

// Ephemeral implements backend.Backend: the upper and the work directory.
func (b *Backend) Ephemeral(rootfs, dir string) []string { return b.overlay.Ephemeral(rootfs, dir) }

// Provision implements backend.Backend.
func (b *Backend) Provision(ctx context.Context, layers []backend.Layer, rootfs, dir string) error {
	return b.ProvisionMapped(ctx, layers, rootfs, dir, container.IDRange{})
}

// ProvisionMapped implements backend.Mapper: the overlay has idmapped copies of the mounts,
// which all share.
func (b *Backend) ProvisionMapped(ctx context.Context, layers []backend.Layer, rootfs, dir string, ids container.IDRange) error {
	err := b.provision(ctx, layers, rootfs, dir, ids)
	if errors.Is(err, unix.ENODEV) {
		err = fmt.Errorf("%w by this kernel: %w; use --image_provisioner_backend=overlay or copy", container.ErrNotSupported, err)
	}
	if err != nil {
		return fmt.Errorf("erofs backend: %w", err)
	}
	return nil
}

func (b *Backend) provision(ctx context.Context, layers []backend.Layer, rootfs, dir string, ids container.IDRange) error {
	if err := b.overlay.Check(layers); err != nil {
		return err
	}
	uses, err := usesOf(layers)
	if err != nil {
		return err
	}
	if err := b.overlay.MakeDirectories(rootfs, dir); err != nil {
		return err
	}
	if err := record(uses, rootfs, dir); err != nil {
		return err
	}
	if err := disk.At("erofs: recorded"); err != nil {
		return err
	}
	for _, u := range uses {
		if err := b.mounts.enter(ctx, u, rootfs); err != nil {
			return fmt.Errorf("mount the layer %s: %w", u.layer.Path, err)
		}
	}
	return b.overlay.Stack(b.mounts.mounted(layers, uses), rootfs, dir, ids)
}

// Destroy implements backend.Backend.
func (b *Backend) Destroy(ctx context.Context, rootfs, dir string) (bool, error) {
	existed, err := b.overlay.Destroy(rootfs, dir, func() error {
		keys, err := b.mounts.recorded(rootfs, dir)
		if err != nil {
			return err
		}
		return b.mounts.leaveAll(ctx, keys, rootfs)
	})
	if err != nil {
		return existed, fmt.Errorf("erofs backend: %w", err)
	}
	return existed, nil
}
