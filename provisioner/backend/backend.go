// Package backend defines how layers become a root filesystem.
//
// A backend stacks layers of one form at a path. A root filesystem is absent or
// provisioned; Provision and Destroy move it between the two, and a failed or
// interrupted Provision leaves something that Destroy removes.
//
//	<dir>/rootfses/<id>    the root filesystem, handed to Provision as a path
//	<dir>/scratch/<id>     what the backend needs beside it (upper, work)
//
// The conformance suite is backendtest; a new backend is done when
// backendtest.Run is green for it.
package backend

import (
	"context"

	"berth/container"
	"berth/layer"
)

// Layer is a visible layer in the form of the backend.
type Layer struct {
	Path      string // absolute, without symbolic links
	Whiteouts bool   // it hides names of layers below it
	// Implied are the directories, "." for the root, that the layer has only because
	// names go through them: they look as the layers below have them.
	Implied []string
}

// Backend makes root filesystems of layers. Its methods may be called concurrently
// for different root filesystems; the caller serialises calls for the same one.
type Backend interface {
	// Form is the form of the layers that Provision takes.
	Form() layer.Form

	// Provision makes the root filesystem of the layers, base first, at rootfs,
	// which does not exist; dir, which exists, is the backend's directory for the
	// container. Both are absolute, without symbolic links. A layer may occur several
	// times.
	//
	// A nil error proves that rootfs shows the layers stacked by the rules of the
	// OCI image specification, owned and dated as the layers say. Whatever is done
	// below rootfs never changes a layer.
	//
	// After an error the caller owes a Destroy. ErrInvalid: no layers, or layers that
	// this backend cannot stack.
	Provision(ctx context.Context, layers []Layer, rootfs, dir string) error

	// Ephemeral returns the directories that hold what a container writes to the root
	// filesystem, for a disk quota to count. It only computes them, so that they can be
	// recorded before they are made.
	Ephemeral(rootfs, dir string) []string

	// Destroy removes the root filesystem and its scratch directory, and reports
	// whether there was any of both. Files that are open in it, processes that work in
	// it and mounts do not stop it; what is mounted in it is detached, not emptied. It
	// may be repeated, and called for what Provision never finished.
	Destroy(ctx context.Context, rootfs, dir string) (bool, error)
}

// Sharer is a backend whose root filesystems share something, in a directory of the host.
type Sharer interface {
	// SharedIn returns the backend, but with another directory for what is shared.
	SharedIn(dir string) Backend
}

// Viewer is a backend that needs less for a root filesystem which nobody writes to.
type Viewer interface {
	// ProvisionReadOnly is Provision, or with a range of ids that is not the host's
	// Mapper.ProvisionMapped, but that whatever would change something in rootfs fails with
	// EROFS. Nothing of it is ephemeral.
	ProvisionReadOnly(ctx context.Context, layers []Layer, rootfs, dir string, ids container.IDRange) error
}

// Explainer is a backend that may have to do its work by other means than usual.
type Explainer interface {
	// Means says what those are on this host, and what they are for want of; empty: the usual
	// ones.
	Means() string
}

// Mapper is a backend whose root filesystems can be those of containers with user
// namespaces.
type Mapper interface {
	// ProvisionMapped is Provision, but that every owner in rootfs is the one that the range
	// makes of the owner in the layers: root's files are those of the range's first id. The
	// ids that a layer or a container has are what is on disk, too: nothing is chowned, and
	// layers stay as they are for others. What belongs to an id that the range does not have
	// belongs to nobody.
	//
	// ErrNotSupported: a file system cannot be idmapped, or the kernel cannot do it; the
	// error names the backend.
	ProvisionMapped(ctx context.Context, layers []Layer, rootfs, dir string, ids container.IDRange) error
}
