package backend

import (
	"os"
	"path/filepath"
)

// MakeRootfs makes the directory of a root filesystem, which must not exist, and
// those above it.
func MakeRootfs(rootfs string) error {
	if err := os.MkdirAll(filepath.Dir(rootfs), 0o700); err != nil {
		return err
	}
	return os.Mkdir(rootfs, 0o755)
}
