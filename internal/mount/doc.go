// Package mount makes and removes mounts by the file-descriptor based calls of the
// kernel (fsopen(2), open_tree(2), move_mount(2), mount_setattr(2)): a mount is
// whole, with all its flags, before it is visible, and errors come with the
// kernel's own words. It follows Documentation/filesystems/mount_api.rst and, for
// overlay mounts, Documentation/filesystems/overlayfs.rst.
//
// It also removes trees that may have mounts in them, without ever going through one.
package mount
