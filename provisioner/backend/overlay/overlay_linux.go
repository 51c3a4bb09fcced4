// Package overlay stacks layers with overlayfs: nothing is copied until the
// container writes. It follows Documentation/filesystems/overlayfs.rst.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"

	"berth/container"
	"berth/internal/disk"
	"berth/internal/idmap"
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
	var lowers []string
	for _, l := range backend.TopFirst(layers) {
		lowers = append(lowers, l.Path)
	}
	return mount.Overlay{
		Lowers: lowers,
		Upper:  filepath.Join(scratch, "upper"),
		Work:   filepath.Join(scratch, "work"),
		Links:  filepath.Join(scratch, "links"),
	}
}

// Ephemeral implements backend.Backend: the upper and the work directory.
func (b *Backend) Ephemeral(rootfs, dir string) []string {
	o := plan(nil, rootfs, dir)
	return []string{o.Upper, o.Work}
}

// Provision implements backend.Backend.
func (b *Backend) Provision(_ context.Context, layers []backend.Layer, rootfs, dir string) error {
	return b.provision(layers, rootfs, dir, container.IDRange{})
}

// ProvisionMapped implements backend.Mapper: the layers are idmapped, and so is the upper
// directory.
func (b *Backend) ProvisionMapped(_ context.Context, layers []backend.Layer, rootfs, dir string, ids container.IDRange) error {
	return b.provision(layers, rootfs, dir, ids)
}

func (b *Backend) provision(layers []backend.Layer, rootfs, dir string, ids container.IDRange) error {
	seen, err := backend.Visible(layers)
	if err != nil {
		return fmt.Errorf("overlay backend: %w", err)
	}
	o := plan(seen, rootfs, dir)
	switch n := len(o.Lowers); {
	case n == 0:
		return fmt.Errorf("overlay backend: %w: the image has no layers", container.ErrInvalid)
	case n > maxLayers:
		return fmt.Errorf("overlay backend: %w: the image has %d layers, overlayfs stacks at most %d; use --image_provisioner_backend=copy",
			container.ErrInvalid, n, maxLayers)
	}
	if err := makeDirectories(o, layers, rootfs); err != nil {
		return fmt.Errorf("overlay backend: %w", err)
	}
	if err := checkTypes(o, seen); err != nil {
		return fmt.Errorf("overlay backend: %w", err)
	}
	if !ids.IsHost() {
		err = attachMapped(o, layers, rootfs, ids)
	} else if err = b.attach(o, rootfs); err == nil {
		err = backend.RestoreImplied(layers, rootfs)
	}
	if errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("overlay backend: mount %s: %w: is the file system of %s fit to hold an overlay's upper directory? see `berth info`, or use --image_provisioner_backend=copy",
			rootfs, err, dir)
	}
	if err != nil {
		return fmt.Errorf("overlay backend: mount %s: %w", rootfs, err)
	}
	if err := mount.ShareFromHost(rootfs); err != nil {
		return fmt.Errorf("overlay backend: %w", err)
	}
	return nil
}

// attachMapped mounts the overlay for a container with a user namespace.
func attachMapped(o mount.Overlay, layers []backend.Layer, rootfs string, ids container.IDRange) (err error) {
	if err := backend.MakeImplied(layers, o.Upper); err != nil {
		return err
	}
	namespace, err := idmap.Namespace(ids)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, namespace.Close()) }()
	err = idmap.AsOwner(ids, func() error { return o.AttachMapped(rootfs, int(namespace.Fd())) })
	if errors.Is(err, mount.ErrCannotMap) || errors.Is(err, mount.ErrOldKernel) {
		err = fmt.Errorf("%w: %w: leave --userns out, or use another --image_provisioner_backend", container.ErrNotSupported, err)
	}
	return err
}

func makeDirectories(o mount.Overlay, layers []backend.Layer, rootfs string) error {
	if err := backend.MakeRootfs(rootfs); err != nil {
		return err
	}
	if err := disk.MkdirAll(filepath.Dir(o.Upper), 0o700); err != nil {
		return err
	}
	// The mode is mostly the one that the root is to have. Nobody gets as far as here.
	if err := disk.Mkdir(o.Upper, 0o755); err != nil {
		return err
	}
	if err := disk.Mkdir(o.Work, 0o700); err != nil {
		return err
	}
	return backend.RestoreRoot(layers, o.Upper)
}

// Destroy implements backend.Backend.
func (b *Backend) Destroy(_ context.Context, rootfs, dir string) (bool, error) {
	hadRootfs, rootfsErr := mount.RemoveAll(rootfs)
	if rootfsErr == nil {
		removeUnwritten(plan(nil, rootfs, dir))
	}
	hadScratch, scratchErr := mount.RemoveAll(state.Scratch(dir, rootfs))
	if err := errors.Join(rootfsErr, scratchErr); err != nil {
		return true, fmt.Errorf("overlay backend: %w", err)
	}
	return hadRootfs || hadScratch, nil
}

// removeUnwritten removes what there is beside a root filesystem that nobody has written
// to: in its work directory, the kernel keeps a mark for "volatile". To know the names
// saves to look for them; what else is there is found.
func removeUnwritten(o mount.Overlay) {
	work := o.Work + "/work"
	if disk.Remove(work+"/incompat/volatile/dirty") != nil {
		return
	}
	for _, dir := range []string{work + "/incompat/volatile", work + "/incompat", work, o.Work, o.Upper} {
		if disk.Rmdir(dir) != nil {
			return
		}
	}
}
