// Package copy makes a root filesystem by copying the layers into one tree. It needs nothing
// of the kernel, and costs the time and the space of the image for each container; on file
// systems with reflinks (btrfs, xfs) only those of its metadata.
//
// Nothing is made that is not seen in the end. The names that the layers have in a directory
// are merged, the topmost layer first, and then each is made once, as the layer has it whose
// name is seen. So nothing is ever removed or replaced, and a whiteout is a name of which
// nothing is made. Of the Debian image in internal/bench, with seven layers, 16 258 of 18 656
// files are seen, and 1 581 directories are 2 071 in the layers: to apply one layer after the
// other took a quarter more of the processors' time.
//
// A directory is a job by itself. It is opened by its path below the roots, which no link
// can lead elsewhere (openat2), in the root filesystem and in each layer that has it; it gets
// its entries, then its attributes, and is closed; the directories in it are jobs to come. So
// jobs have nothing in common but the first names of hard links, and what is open depends on
// the number of layers, not on how deep a tree is. Of a large directory 16 files are a job,
// too. There are twice as many jobs under way as processors, so that none is idle when one
// ends, or waits in the kernel.
//
// What is left is the kernel's. A regular file takes nine system calls: open, stat and
// listxattr of the layer's, then create, clone (where that is refused: read, write), stat,
// utimensat, and close of both. On xfs three quarters of the processors' time are in those that
// make an inode, share its blocks and date it, each a transaction; less than a tenth is
// outside the kernel. Two processors take 0.58 of the time of one there: what waits, waits for
// the buffers of an allocation group. Btrfs has one tree for all files, and both wait for its
// locks and for the reservation of its space during a quarter of the time.
//
// Small files are cloned, too. To write those of up to 4 KiB instead takes as long on xfs, and
// a sixth longer when what is then still to be written counts; on btrfs a quarter longer at
// once.
package copy

import (
	"context"
	"fmt"
	"slices"

	"berth/container"
	"berth/internal/attributes"
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
	// What it has inherited itself, such as a default access control list, is not to be
	// inherited by what is made in it.
	if err := attributes.Clear(attributes.Open(int(root.Fd()))); err != nil {
		return err
	}
	var sources []*source
	for i, l := range slices.Backward(layers) {
		dir, err := disk.Open(l.Path)
		if err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
		defer dir.Close()
		s := &source{number: i + 1, root: int(dir.Fd()), whiteouts: l.Whiteouts, implied: make(map[string]bool, len(l.Implied))}
		for _, name := range l.Implied {
			s.implied[name] = true
		}
		sources = append(sources, s)
	}
	return run(ctx, int(root.Fd()), sources)
}

// Destroy implements backend.Backend.
func (b *Backend) Destroy(_ context.Context, rootfs, _ string) (bool, error) {
	existed, err := mount.RemoveAll(rootfs)
	if err != nil {
		return existed, fmt.Errorf("copy backend: %w", err)
	}
	return existed, nil
}
