package provisioner

import (
	"os"

	"berth/internal/mount"
)

// removeUnmounted removes a container's directory. Whatever is still mounted below it
// is detached first: it must not be emptied.
func removeUnmounted(dir string) error {
	if err := mount.DetachBelow(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
