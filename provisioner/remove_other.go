//go:build !linux

package provisioner

import "os"

// removeUnmounted removes a container's directory; nothing is ever mounted there.
func removeUnmounted(dir string) error { return os.RemoveAll(dir) }

// recoverProbes has nothing to do: backends are probed on Linux only.
func recoverProbes(...string) error { return nil }
