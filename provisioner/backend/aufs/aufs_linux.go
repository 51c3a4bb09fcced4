// Package aufs stacks layers with aufs, the union file system that some distributions add
// to their kernels; mainline has overlayfs instead. It follows aufs(5).
//
// aufs reads its own marks: a file .wh.NAME hides NAME in the branches below, a file
// .wh..wh..opq in a directory all that they have there. Layers have those of overlayfs, a
// device 0:0 in the place of NAME and an attribute. So a layer that hides something is put
// between two branches which have nothing but marks and the directories that lead to them,
// made for each root filesystem in its scratch directory:
//
//	whiteouts   hides the devices in the layer, and what they hide
//	the layer
//	opaques     hides what lies below the layer, and nothing in it
//
// The layers themselves are used as they are.
package aufs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/disk"
	"berth/internal/mount"
	"berth/layer"
	"berth/provisioner/backend"
	"berth/state"
)

// Backend is the aufs backend. Root filesystems are writable.
type Backend struct{}

// New returns the backend. On a kernel without aufs, Provision says so: ErrNotSupported.
func New() *Backend { return &Backend{} }

// Form implements backend.Backend.
func (b *Backend) Form() layer.Form { return layer.Tree }

const remedy = "use --image_provisioner_backend=overlay or copy"

// plan is what Provision mounts, as a pure function of its arguments. layers are topmost
// first, and so are their marks.
func plan(layers []backend.Layer, hides []marks, rootfs, dir string) mount.Aufs {
	a := mount.Aufs{
		Writable: filepath.Join(state.Scratch(dir, rootfs), "writable"),
		Links:    filepath.Join(state.Scratch(dir, rootfs), "links"),
	}
	for i, l := range layers {
		if len(hides[i].whiteouts) > 0 {
			a.Lowers = append(a.Lowers, whiteoutsOf(dir, rootfs, i))
		}
		a.Lowers = append(a.Lowers, l.Path)
		if len(hides[i].opaques) > 0 {
			a.Lowers = append(a.Lowers, opaquesOf(dir, rootfs, i))
		}
	}
	return a
}

func whiteoutsOf(dir, rootfs string, layer int) string {
	return filepath.Join(state.Scratch(dir, rootfs), "marks", strconv.Itoa(layer), "whiteouts")
}

func opaquesOf(dir, rootfs string, layer int) string {
	return filepath.Join(state.Scratch(dir, rootfs), "marks", strconv.Itoa(layer), "opaques")
}

// Ephemeral implements backend.Backend: the writable branch.
func (b *Backend) Ephemeral(rootfs, dir string) []string {
	return []string{plan(nil, nil, rootfs, dir).Writable}
}

// Provision implements backend.Backend.
func (b *Backend) Provision(_ context.Context, layers []backend.Layer, rootfs, dir string) error {
	if err := provision(layers, rootfs, dir); err != nil {
		return fmt.Errorf("aufs backend: %w", err)
	}
	return nil
}

func provision(layers []backend.Layer, rootfs, dir string) error {
	if len(layers) == 0 {
		return fmt.Errorf("%w: the image has no layers", container.ErrInvalid)
	}
	if err := supported(dir); err != nil {
		return err
	}
	seen, err := backend.Visible(layers)
	if err != nil {
		return err
	}
	stack := backend.TopFirst(seen)
	hides, err := marksOf(stack)
	if err != nil {
		return err
	}
	a := plan(stack, hides, rootfs, dir)
	if err := makeDirectories(a, stack, hides, rootfs, dir); err != nil {
		return err
	}
	if err := backend.RestoreRoot(layers, a.Writable); err != nil {
		return err
	}
	if err := attach(a, rootfs); err != nil {
		return err
	}
	if err := backend.RestoreImplied(layers, rootfs); err != nil {
		return err
	}
	return mount.ShareFromHost(rootfs)
}

func attach(a mount.Aufs, rootfs string) error {
	err := a.Attach(rootfs)
	if errors.Is(err, unix.ENOSPC) && len(a.Lowers) >= fewestBranches {
		return fmt.Errorf("%w: %w: a kernel stacks 127, 511, 1023 or 32767 branches, as it was configured (CONFIG_AUFS_BRANCH_MAX); %s",
			container.ErrInvalid, err, remedy)
	}
	return err
}

// fewestBranches is what every aufs stacks at least.
const fewestBranches = 127

// supported checks what can be known without a mount. As for btrfs: aufs relies on inode
// numbers that are unique within a file system.
func supported(dir string) error {
	err := mount.Knows("aufs")
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w by this kernel: %w (aufs is no part of mainline Linux)", container.ErrNotSupported, err)
	}
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Type == unix.BTRFS_SUPER_MAGIC {
		return fmt.Errorf("%w on btrfs, where %s is; %s", container.ErrNotSupported, dir, remedy)
	}
	return nil
}

func makeDirectories(a mount.Aufs, stack []backend.Layer, hides []marks, rootfs, dir string) error {
	if err := backend.MakeRootfs(rootfs); err != nil {
		return err
	}
	if err := disk.MkdirAll(a.Writable, 0o700); err != nil {
		return err
	}
	for i, l := range stack {
		if err := writeBranch(whiteoutsOf(dir, rootfs, i), l.Path, hides[i].whiteouts); err != nil {
			return err
		}
		if err := writeBranch(opaquesOf(dir, rootfs, i), l.Path, hides[i].opaques); err != nil {
			return err
		}
	}
	return nil
}

// Destroy implements backend.Backend.
func (b *Backend) Destroy(_ context.Context, rootfs, dir string) (bool, error) {
	hadRootfs, rootfsErr := mount.RemoveAll(rootfs)
	hadScratch, scratchErr := mount.RemoveAll(state.Scratch(dir, rootfs))
	if err := errors.Join(rootfsErr, scratchErr); err != nil {
		return true, fmt.Errorf("aufs backend: %w", err)
	}
	return hadRootfs || hadScratch, nil
}
