package backend

import (
	"errors"
	"fmt"
	"syscall"

	"berth/container"
	"berth/internal/disk"
	"berth/internal/idmap"
	"berth/internal/mount"
	"berth/state"
)

// Overlay stacks layers whose Path is a directory with what the layer has, by overlayfs.
type Overlay struct {
	// Attach mounts: mount.Overlay.Attach, or a part of it.
	Attach func(o mount.Overlay, target string) error
	// Typed says that directory entries of the layers have types, as overlayfs needs them to see
	// whiteouts. Otherwise they are looked at.
	Typed bool
}

// Stacking is Overlay.Stack, Overlay.Show, or what else makes a root filesystem of layers
// where MakeDirectories has prepared it.
type Stacking func(layers []Layer, rootfs, dir string, ids container.IDRange) error

// MaxOverlayLayers is OVL_MAX_STACK of the kernel.
const MaxOverlayLayers = 500

// overlayPlan is what Stack mounts, as a pure function of its arguments.
func overlayPlan(layers []Layer, rootfs, dir string) mount.Overlay {
	scratch := state.Scratch(dir, rootfs)
	var lowers []string
	for _, l := range TopFirst(layers) {
		lowers = append(lowers, l.Path)
	}
	return mount.Overlay{
		Lowers: lowers,
		Upper:  scratch + "/upper",
		Work:   scratch + "/work",
		Links:  scratch + "/links",
	}
}

// Ephemeral returns the upper and the work directory.
func (Overlay) Ephemeral(rootfs, dir string) []string {
	o := overlayPlan(nil, rootfs, dir)
	return []string{o.Upper, o.Work}
}

// Check returns ErrInvalid for a number of layers that overlayfs cannot stack.
func (Overlay) Check(layers []Layer) error {
	switch n := len(TopFirst(layers)); {
	case n == 0:
		return fmt.Errorf("%w: the image has no layers", container.ErrInvalid)
	case n > MaxOverlayLayers:
		return fmt.Errorf("%w: the image has %d layers, overlayfs stacks at most %d; use --image_provisioner_backend=copy", container.ErrInvalid, n, MaxOverlayLayers)
	}
	return nil
}

// MakeDirectories makes the directory of a root filesystem, which must not exist, and its
// scratch directory.
func (Overlay) MakeDirectories(rootfs, dir string) error {
	if err := MakeRootfs(rootfs); err != nil {
		return err
	}
	return disk.MkdirAll(state.Scratch(dir, rootfs), 0o700)
}

// Stack mounts the layers, of which all is seen that Visible returns, at rootfs. What
// MakeDirectories makes is there. With ids, it is for a container with that user namespace:
// the layers are idmapped, and so is the upper directory.
func (v Overlay) Stack(layers []Layer, rootfs, dir string, ids container.IDRange) error {
	return v.stack(layers, rootfs, dir, ids, false)
}

// Show is Stack, but that nobody can write to the root filesystem. It mostly goes without an
// upper directory.
func (v Overlay) Show(layers []Layer, rootfs, dir string, ids container.IDRange) error {
	return v.stack(layers, rootfs, dir, ids, true)
}

func (v Overlay) stack(layers []Layer, rootfs, dir string, ids container.IDRange, readOnly bool) error {
	seen, err := Visible(layers)
	if err != nil {
		return err
	}
	o := overlayPlan(seen, rootfs, dir)
	if readOnly && len(o.Lowers) > 1 && AsTheyAre(layers) { // the least that overlayfs stacks
		o.Upper, o.Work = "", ""
	} else if err := makeWritable(o, layers); err != nil {
		return err
	}
	looked := seen
	if v.Typed {
		looked = nil
	}
	if err := checkTypes(o, looked); err != nil {
		return err
	}
	if !ids.IsHost() {
		err = attachMapped(o, layers, rootfs, ids)
	} else if err = v.Attach(o, rootfs); err == nil && o.Upper != "" {
		err = RestoreImplied(layers, rootfs)
	}
	if err == nil && readOnly {
		err = mount.MakeReadOnly(rootfs)
	}
	if errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("mount %s: %w: is the file system of %s fit to hold an overlay's upper directory? see `berth info`, or use --image_provisioner_backend=copy",
			rootfs, err, dir)
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", rootfs, err)
	}
	return mount.ShareFromHost(rootfs)
}

// attachMapped mounts the overlay for a container with a user namespace.
func attachMapped(o mount.Overlay, layers []Layer, rootfs string, ids container.IDRange) (err error) {
	if o.Upper != "" {
		if err := MakeImplied(layers, o.Upper); err != nil {
			return err
		}
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

func makeWritable(o mount.Overlay, layers []Layer) error {
	// The mode is mostly the one that the root is to have. Nobody gets as far as here.
	if err := disk.Mkdir(o.Upper, 0o755); err != nil {
		return err
	}
	if err := disk.Mkdir(o.Work, 0o700); err != nil {
		return err
	}
	return RestoreRoot(layers, o.Upper)
}

// Destroy removes the root filesystem, then calls release, then removes the scratch
// directory, and reports whether there was any of both directories. What fails is tried
// again by the next Destroy, with all that follows it.
func (Overlay) Destroy(rootfs, dir string, release func() error) (bool, error) {
	// To have the kernel find out that it is mounted would have it look at all mounts of the
	// host. What is mounted below that mount, if anything, RemoveAll detaches.
	if _, err := mount.DetachTop(rootfs); err != nil {
		return true, err
	}
	hadRootfs, err := mount.RemoveAll(rootfs)
	if err != nil {
		return true, err
	}
	if err := release(); err != nil {
		return true, err
	}
	removeUnwritten(overlayPlan(nil, rootfs, dir))
	hadScratch, err := mount.RemoveAll(state.Scratch(dir, rootfs))
	return hadRootfs || hadScratch || err != nil, err
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
