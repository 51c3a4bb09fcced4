package backend

import (
	"errors"
	"fmt"

	"berth/container"
	"berth/internal/idmap"
	"berth/internal/mount"
)

// CoverMapped mounts the directory path at rootfs, idmapped, and makes prepare of the mount
// before it can be seen.
func CoverMapped(path, rootfs string, ids container.IDRange, prepare func(*mount.Detached) error) (err error) {
	namespace, err := idmap.Namespace(ids)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, namespace.Close()) }()
	clone, err := mount.Clone(path, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clone.Close()) }()
	if err := clone.Map(int(namespace.Fd()), false); err != nil {
		return fmt.Errorf("%w: %s: %w: leave --userns out, or use another file system", container.ErrNotSupported, path, err)
	}
	if err := prepare(clone); err != nil {
		return err
	}
	return clone.Attach(rootfs)
}
