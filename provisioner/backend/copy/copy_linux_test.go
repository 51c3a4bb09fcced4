package copy

import (
	"testing"

	"berth/internal/mount/mounttest"
	"berth/provisioner/backend"
	"berth/provisioner/backend/backendtest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

// On ext4 bytes are copied, on the others blocks are shared.
func TestConformance(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			backendtest.Run(t, func() backend.Backend { return New() }, backendtest.Traits{Writable: true, FileSystem: fstype})
		})
	}
}
