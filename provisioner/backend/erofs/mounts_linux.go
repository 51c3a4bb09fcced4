package erofs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/filelock"
	"berth/internal/mount"
)

// mounts are the trees of mounts, one for each stack that is in use.
//
// Nobody needs a lock to become a user of a tree or to stop being one: the directory of the
// users can only be removed while there are none, and without it nobody becomes one. Who
// mounts or unmounts anything has the directory of all trees locked.
type mounts struct {
	dir   string
	mount func(mount.EROFS) (*mount.Detached, error)
}

// These are put together for each layer of each launch, of parts that have nothing to clean.
func (m mounts) tree(stack string) string       { return m.dir + "/" + stack }
func (m mounts) layer(stack, key string) string { return m.dir + "/" + stack + "/" + key }
func (m mounts) users(stack string) string      { return m.dir + "/" + stack + "/users" }

// user is the link of a root filesystem among the users of a stack.
func (m mounts) user(stack, rootfs string) string {
	return m.users(stack) + "/" + nameOf(rootfs)
}

// nameOf is the name of a root filesystem, by its path.
func nameOf(rootfs string) string {
	sum := sha256.Sum256([]byte(rootfs))
	return hex.EncodeToString(sum[:16])
}

// record is the link that says which stack a root filesystem may use.
func (m mounts) record(rootfs string) string { return m.dir + "/" + nameOf(rootfs) }

// begin records the stack that a root filesystem is going to use: by one call that is whole
// or not there.
func (m mounts) begin(s stack, rootfs string) error {
	for {
		err := disk.Symlink(s.name, m.record(rootfs))
		if !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, disk.At("erofs: recorded"))
		}
		if err := disk.MkdirAll(m.dir, 0o700); err != nil {
			return err
		}
	}
}

// end has a root filesystem, which is gone, use nothing any more.
func (m mounts) end(ctx context.Context, rootfs string) error {
	stack := make([]byte, 2*sha256.Size)
	n, err := disk.Readlinkat(unix.AT_FDCWD, m.record(rootfs), stack)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "readlink", Path: m.record(rootfs), Err: err}
	}
	if err := m.leave(ctx, string(stack[:n]), rootfs); err != nil {
		return err
	}
	return disk.Remove(m.record(rootfs))
}

// enter makes the root filesystem a user of the stack, all of which is mounted then.
func (m mounts) enter(ctx context.Context, s stack, rootfs string) error {
	entered, err := m.addUser(s.name, rootfs)
	if err != nil {
		return err
	}
	if entered {
		if missing, err := m.missing(s); len(missing) == 0 || err != nil {
			return err
		}
	}
	lock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	return errors.Join(m.complete(s, rootfs, entered), lock.Unlock())
}

// addUser records a user, and reports whether there is a tree to use.
func (m mounts) addUser(stack, rootfs string) (entered bool, err error) {
	err = disk.Symlink(rootfs, m.user(stack, rootfs))
	if isMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, disk.At("erofs: the user is recorded")
}

// missing returns the layers of the stack that are not mounted in its tree. Those that are
// stay, if it has a user.
func (m mounts) missing(s stack) (missing []keyed, err error) {
	for _, l := range s.layers {
		there, err := isMounted(m.layer(s.name, l.key))
		if err != nil {
			return nil, err
		}
		if !there {
			missing = append(missing, l)
		}
	}
	return missing, nil
}

func isMounted(path string) (bool, error) {
	is, err := mount.IsRoot(path)
	if isMissing(err) {
		return false, nil
	}
	return is, err
}

// lock takes the lock of all trees, and makes their directory if there is none.
func (m mounts) lock(ctx context.Context) (*filelock.Lock, error) {
	for {
		lock, err := filelock.Directory(ctx, m.dir, filelock.Exclusive)
		if !errors.Is(err, fs.ErrNotExist) {
			return lock, err
		}
		if err := disk.MkdirAll(m.dir, 0o700); err != nil {
			return nil, err
		}
	}
}

// complete mounts what is missing of a stack, and makes the root filesystem its user unless
// it is. The lock is held.
func (m mounts) complete(s stack, rootfs string, entered bool) error {
	if !entered {
		if err := m.plant(s.name, rootfs); err != nil {
			return err
		}
	}
	missing, err := m.missing(s)
	if err != nil || len(missing) == 0 {
		return err
	}
	entries, err := disk.ReadDir(m.dir)
	if err != nil {
		return err
	}
	var others []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != s.name {
			others = append(others, e.Name())
		}
	}
	for _, l := range missing {
		if err := m.attach(s.name, l, others); err != nil {
			return fmt.Errorf("mount the layer %s: %w", l.path, err)
		}
	}
	return nil
}

// plant makes the tree of a stack, unless there is one, with its first user. The lock is
// held.
func (m mounts) plant(stack, rootfs string) error {
	there, err := isMounted(m.tree(stack))
	if err == nil && !there {
		err = m.mountTree(m.tree(stack))
	}
	for entered := false; err == nil && !entered; {
		// Somebody who leaves may remove it again before there is a user.
		if err = disk.Mkdir(m.users(stack), 0o700); err == nil || errors.Is(err, fs.ErrExist) {
			entered, err = m.addUser(stack, rootfs)
		}
	}
	return err
}

// mountTree mounts an empty file system, which is of this host until somebody unmounts it:
// neither a reboot nor a power cut leaves records without the mounts that they speak of.
func (m mounts) mountTree(path string) error {
	if err := disk.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	tree, err := mount.New("tmpfs", "berth", []mount.Option{{Key: "mode", Value: "0700"}}, mount.NoDev|mount.NoSuid|mount.NoExec)
	if err != nil {
		return err
	}
	// What is mounted in it need not be in all the mount namespaces that follow the host's.
	return errors.Join(tree.Attach(path), tree.Close(), mount.MakePrivate(path), disk.At("erofs: the tree is mounted"))
}

// attach mounts a layer in the tree of a stack: what one of the others has mounted, so that
// all share what the kernel holds of its files in memory. The lock is held.
func (m mounts) attach(stack string, l keyed, others []string) error {
	at := m.layer(stack, l.key)
	if err := disk.Mkdir(at, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	made, err := m.cloneOf(l.key, others)
	if made == nil && err == nil {
		made, err = m.mount(mount.EROFS{Index: l.index(), Device: l.tar()})
	}
	if err != nil {
		return err
	}
	return errors.Join(made.Attach(at), made.Close(), disk.At("erofs: mounted"))
}

// cloneOf returns a further mount of a layer that one of the stacks has; nil: none has it.
func (m mounts) cloneOf(key string, stacks []string) (*mount.Detached, error) {
	for _, stack := range stacks {
		there, err := isMounted(m.layer(stack, key))
		if err != nil {
			return nil, err
		}
		if there {
			return mount.Clone(m.layer(stack, key), false)
		}
	}
	return nil, nil
}

// leave makes the root filesystem, which is gone, no user of the stack any more, and
// unmounts that if there are no others. That it was none is no error.
func (m mounts) leave(ctx context.Context, stack, rootfs string) error {
	if err := disk.Remove(m.user(stack, rootfs)); err != nil && !isMissing(err) {
		return err
	}
	if err := disk.At("erofs: the user is forgotten"); err != nil {
		return err
	}
	if others, err := m.removeUsers(stack); others || err != nil {
		return err
	}
	lock, err := filelock.Directory(ctx, m.dir, filelock.Exclusive)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	others, err := m.removeUsers(stack) // who came before the lock was taken
	if !others && err == nil {
		err = m.detach(stack)
	}
	return errors.Join(err, lock.Unlock())
}

// removeUsers removes the directory of the users unless there are some.
func (m mounts) removeUsers(stack string) (others bool, err error) {
	switch err := disk.Rmdir(m.users(stack)); {
	case err == nil, isMissing(err):
		return false, nil
	case errors.Is(err, unix.ENOTEMPTY):
		return true, nil
	default:
		return false, err
	}
}

// detach unmounts the tree of a stack that nobody uses. The lock is held.
func (m mounts) detach(stack string) error {
	if err := mount.Detach(m.tree(stack)); err != nil {
		return err
	}
	if err := disk.At("erofs: unmounted"); err != nil {
		return err
	}
	if err := disk.Rmdir(m.tree(stack)); err != nil && !isMissing(err) {
		return err
	}
	return nil
}
