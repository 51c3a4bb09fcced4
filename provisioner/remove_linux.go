package provisioner

import "berth/internal/mount"

// removeUnmounted removes a container's directory. Whatever is still mounted in it is
// detached, not emptied.
func removeUnmounted(dir string) error {
	_, err := mount.RemoveAll(dir)
	return err
}
