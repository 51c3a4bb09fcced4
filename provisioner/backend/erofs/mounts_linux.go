package erofs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/filelock"
	"berth/internal/mount"
	"berth/provisioner/backend"
)

// mounts are those of layers.
type mounts struct {
	dir   string
	mount func(mount.EROFS) (*mount.Detached, error)
}

func (m mounts) key(key string) string   { return filepath.Join(m.dir, key) }
func (m mounts) fs(key string) string    { return filepath.Join(m.dir, key, "fs") }
func (m mounts) users(key string) string { return filepath.Join(m.dir, key, "users") }

// user is the name of a root filesystem among the users.
func (m mounts) user(key, rootfs string) string {
	sum := sha256.Sum256([]byte(rootfs))
	return filepath.Join(m.users(key), hex.EncodeToString(sum[:16]))
}

// mounted returns the layers as what is mounted of them.
func (m mounts) mounted(layers []backend.Layer, uses []use) []backend.Layer {
	keys := make(map[string]string, len(uses))
	for _, u := range uses {
		keys[u.layer.Path] = u.key
	}
	layers = slices.Clone(layers)
	for i := range layers {
		layers[i].Path = m.fs(keys[layers[i].Path])
	}
	return layers
}

// enter makes the root filesystem a user of the layer, and mounts that if it is not.
func (m mounts) enter(ctx context.Context, u use, rootfs string) error {
	lock, err := m.lockNew(ctx, u.key)
	if err != nil {
		return err
	}
	err = m.addUser(u.key, rootfs)
	if err == nil {
		err = disk.At("erofs: the user is recorded")
	}
	there := false
	if err == nil {
		there, err = m.isMounted(u.key)
	}
	err = errors.Join(err, lock.Unlock())
	if there || err != nil {
		return err
	}
	// It has a user by now, and so will not be removed.
	if lock, err = filelock.Directory(ctx, m.key(u.key), filelock.Exclusive); err != nil {
		return err
	}
	if there, err = m.isMounted(u.key); !there && err == nil {
		err = m.attach(u)
	}
	return errors.Join(err, lock.Unlock())
}

// lockNew takes the lock of a mount, shared, and makes its directory if there is none.
func (m mounts) lockNew(ctx context.Context, key string) (*filelock.Lock, error) {
	for {
		lock, err := filelock.Directory(ctx, m.key(key), filelock.Shared)
		if !errors.Is(err, fs.ErrNotExist) {
			return lock, err
		}
		if err := disk.MkdirAll(m.key(key), 0o700); err != nil {
			return nil, err
		}
	}
}

// addUser records a user. Who has just removed the last one has the directory removed, too.
func (m mounts) addUser(key, rootfs string) error {
	for {
		err := disk.Symlink(rootfs, m.user(key, rootfs))
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := disk.Mkdir(m.users(key), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
}

func (m mounts) isMounted(key string) (bool, error) {
	is, err := mount.IsRoot(m.fs(key))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return is, err
}

// attach mounts a layer. Its lock is held, exclusively.
func (m mounts) attach(u use) error {
	if err := disk.Mkdir(m.fs(u.key), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	made, err := m.mount(mount.EROFS{Index: u.index(), Device: u.tar()})
	if err != nil {
		return err
	}
	return errors.Join(made.Attach(m.fs(u.key)), made.Close(), disk.At("erofs: mounted"))
}

// leavers bounds how many layers are left at a time. Most of an unmount is a wait for the
// kernel, which ends several together in hardly more time than one.
const leavers = 16

// leaveAll makes the root filesystem, which is gone, no user of the mounts any more.
func (m mounts) leaveAll(ctx context.Context, keys []string, rootfs string) error {
	errs := make([]error, len(keys))
	var group errgroup.Group
	group.SetLimit(leavers)
	for i, key := range keys {
		group.Go(func() error {
			if err := m.leave(ctx, key, rootfs); err != nil {
				errs[i] = fmt.Errorf("unmount the layer %s: %w", key, err)
			}
			return nil
		})
	}
	_ = group.Wait() // nobody returns any
	return errors.Join(errs...)
}

// leave makes the root filesystem, which is gone, no user any more, and unmounts the layer
// if there are no others. That it was none is no error.
func (m mounts) leave(ctx context.Context, key, rootfs string) error {
	if err := disk.Remove(m.user(key, rootfs)); err != nil && !isMissing(err) {
		return err
	}
	if err := disk.At("erofs: the user is forgotten"); err != nil {
		return err
	}
	if others, err := m.removeUsers(key); others || err != nil {
		return err
	}
	lock, err := filelock.Directory(ctx, m.key(key), filelock.Exclusive)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	others, err := m.removeUsers(key) // who came before the lock was taken
	if !others && err == nil {
		err = m.detach(key)
	}
	return errors.Join(err, lock.Unlock())
}

// removeUsers removes the directory of the users unless there are some.
func (m mounts) removeUsers(key string) (others bool, err error) {
	switch err := disk.Rmdir(m.users(key)); {
	case err == nil, isMissing(err):
		return false, nil
	case errors.Is(err, unix.ENOTEMPTY):
		return true, nil
	default:
		return false, err
	}
}

// detach unmounts a layer that nobody uses and removes its directory. Its lock is held,
// exclusively.
func (m mounts) detach(key string) error {
	if err := mount.Detach(m.fs(key)); err != nil {
		return err
	}
	if err := disk.At("erofs: unmounted"); err != nil {
		return err
	}
	if err := disk.Rmdir(m.fs(key)); err != nil && !isMissing(err) {
		return err
	}
	return disk.Rmdir(m.key(key))
}
