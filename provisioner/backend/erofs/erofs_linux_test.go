package erofs

import (
	"os"
	"path/filepath"
	"strings"
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

// What the backend says of its means is what it does: the files of layers are those of loop
// devices, or they are not.
func TestMeans(t *testing.T) {
	mounttest.RequireRoot(t)
	for name, make := range map[string]func(string) *Backend{"as this kernel can": New, "by loop": newByLoop} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.Backend = make(r.mounts)
			r.provision("a", r.layers...)
			defer r.destroy("a")
			devices, err := os.ReadDir("/sys/block")
			if err != nil {
				t.Fatal(err)
			}
			loops := 0
			for _, d := range devices {
				file, err := os.ReadFile(filepath.Join("/sys/block", d.Name(), "loop/backing_file"))
				if err == nil && strings.HasPrefix(string(file), r.root+"/layer-") {
					loops++
				}
			}
			says := r.Means()
			if (loops > 0) != strings.Contains(says, "loop devices") {
				t.Errorf("the layers are mounted by %d loop devices, and the backend says %q", loops, says)
			}
		})
	}
}
