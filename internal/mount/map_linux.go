package mount

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// ErrCannotMap says that a file system cannot be idmapped, or is already.
var ErrCannotMap = errors.New("the file system cannot be idmapped")

// Map has the mount show the ids of its files as those that they are in a user namespace,
// by a descriptor of that, and take the others' back (mount_setattr(2), "ID-mapped
// mounts"). With recursive, the mounts below it too; then all are, or none is. Nothing on
// disk changes.
func (d *Detached) Map(namespace int, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	err := disk.MountSetattr(d.fd, "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(namespace)})
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return ErrCannotMap
	case err != nil:
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}
