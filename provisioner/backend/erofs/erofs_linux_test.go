package erofs

import (
	"os"
	"path/filepath"
	"testing"

	"berth/internal/mount/mounttest"
	"berth/provisioner/backend"
	"berth/provisioner/backend/backendtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(processRoot) != "" { // its mounts are those of others, too
		os.Exit(m.Run())
	}
	mounttest.Main(m)
}

// conformance runs the suite for the backends that share a directory.
func conformance(t *testing.T, factory func(dir string) *Backend) {
	mounttest.RequireRoot(t)
	dir := filepath.Join(mounttest.Dir(t), "mounts")
	backendtest.Run(t, func() backend.Backend { return factory(dir) },
		backendtest.Traits{Writable: true, Mounts: true, MaxLayers: backend.MaxOverlayLayers, OfTars: true, Shared: dir})
}

func TestConformance(t *testing.T) { conformance(t, New) }

// Kernels before 6.12 know no other way.
func TestConformanceByLoop(t *testing.T) { conformance(t, newByLoop) }
