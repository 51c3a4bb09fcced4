package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"berth/container"
	"berth/internal/disk"
	"berth/isolator"
	"berth/launcher/plan"
)

// persistent mounts the persistent volumes of a request. A volume is its container's
// user's, like the sandbox; a shared one is that of the user who had it first.
func (i *Isolator) persistent(info *isolator.LaunchInfo, c *isolator.Container) error {
	volumes, err := isolator.PersistentVolumes(c.Config)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if _, nested := c.ID.Parent(); nested {
			return fmt.Errorf("persistent volume %q: %w: those of a nested container are its root container's; mount it from there with a volume of type SANDBOX_PATH", v.ID, container.ErrInvalid)
		}
		m, err := isolator.VolumeMount(c.Config, i.SandboxDirectory, v.Volume)
		if err != nil {
			return err
		}
		m.Source = i.Volume(v.Role, v.ID)
		m.Flags |= plan.NoSuid | plan.NoDev
		unused, err := makeVolume(m.Source)
		if err != nil {
			return fmt.Errorf("persistent volume %q of role %q: %w", v.ID, v.Role, err)
		}
		if unused || !v.Shared {
			info.Owned = append(info.Owned, m.Source)
		}
		info.Volumes = append(info.Volumes, m)
	}
	return nil
}

// makeVolume makes the directory of a volume so that a power cut does not take it, and
// reports whether nobody has used it yet: it is root's and empty. A launch that failed
// before its user was known leaves it so.
func makeVolume(dir string) (unused bool, err error) {
	info, err := disk.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, mkdirDurably(dir)
	case err != nil:
		return false, err
	case !info.IsDir():
		return false, fmt.Errorf("%w: %s is in its place and no directory", container.ErrInvalid, dir)
	case info.Sys().(*syscall.Stat_t).Uid != 0:
		return false, nil
	}
	entries, err := disk.ReadDir(dir)
	return len(entries) == 0, err
}

func mkdirDurably(dir string) error {
	parent := filepath.Dir(dir)
	err := disk.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrNotExist) {
		if err := mkdirDurably(parent); err != nil {
			return err
		}
		err = disk.Mkdir(dir, 0o755)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) { // by another container
		return err
	}
	return sync(parent)
}

func sync(dir string) (err error) {
	f, err := disk.OpenFile(dir, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Sync()
}
