package bind

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/metrics"
	"berth/internal/mount/mounttest"
	"berth/internal/testrig"
	"berth/provisioner/backend"
	"berth/provisioner/backend/backendtest"
	"berth/state"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

func TestConformance(t *testing.T) {
	backendtest.Run(t, func() backend.Backend { return New(nil) }, backendtest.Traits{Mounts: true, MaxLayers: 1})
}

// Somebody else on the host may keep the directory busy. The root filesystem is gone
// nevertheless.
func TestADirectoryThatIsBusyIsCounted(t *testing.T) {
	testrig.RequireRoot(t)
	base := testrig.TempDir(t)
	content, dir := filepath.Join(base, "layer"), filepath.Join(base, "backend")
	for _, d := range []string{content, dir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	set := metrics.New()
	b, rootfs := New(set), state.Rootfs(dir, "busy")
	if err := b.Provision(t.Context(), []backend.Layer{{Path: content}}, rootfs, dir); err != nil {
		t.Fatal(err)
	}
	if n, ok := set.Snapshot()[RemoveRootfsErrors]; n != 0 || !ok {
		t.Errorf("counted are %v (%v)", n, ok)
	}
	restore := disk.Intercept(func(s disk.Step) error {
		if s.Op == "rmdir" || s.Op == "remove" {
			return unix.EBUSY
		}
		return nil
	})
	existed, err := b.Destroy(t.Context(), rootfs, dir)
	restore()
	if !existed || err != nil || set.Snapshot()[RemoveRootfsErrors] != 1 {
		t.Errorf("%v, %v; %v", existed, err, set.Snapshot())
	}
	if points, err := mounttest.Points(dir); err != nil || len(points) > 0 {
		t.Errorf("still mounted: %q, %v", points, err)
	}
	if existed, err := b.Destroy(t.Context(), rootfs, dir); !existed || err != nil {
		t.Errorf("tried again: %v, %v", existed, err)
	}
	if existed, err := b.Destroy(t.Context(), rootfs, dir); existed || err != nil {
		t.Errorf("tried once more: %v, %v", existed, err)
	}
}
