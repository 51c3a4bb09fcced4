package provisioner

import (
	"berth/internal/mount"
	"berth/provisioner/backend"
)

// removeUnmounted removes a container's directory. Whatever is still mounted in it is
// detached, not emptied.
func removeUnmounted(dir string) error {
	_, err := mount.RemoveAll(dir)
	return err
}

// recoverProbes removes what killed probes of backends have left.
func recoverProbes(dirs ...string) error { return backend.RecoverProbes(dirs...) }
