package backend

import (
	"path/filepath"

	"berth/internal/disk"
)

// MakeRootfs makes the directory of a root filesystem, which must not exist, and
// those above it.
func MakeRootfs(rootfs string) error {
	if err := disk.MkdirAll(filepath.Dir(rootfs), 0o700); err != nil {
		return err
	}
	return disk.Mkdir(rootfs, 0o755)
}
