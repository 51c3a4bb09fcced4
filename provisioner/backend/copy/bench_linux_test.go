package copy

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"berth/layer"
	"berth/provisioner/backend/backendtest"
)

// Beside cp and rm of the same layers.
func BenchmarkProvisionDestroy(b *testing.B) {
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		b.Run(fstype, func(b *testing.B) {
			bench := backendtest.NewBench(b, fstype, layer.Tree, 6)
			b.Run("backend", func(b *testing.B) { bench.ProvisionDestroy(b, New()) })
			b.Run("cp and rm", func(b *testing.B) {
				rootfs := filepath.Join(bench.Dir, "cp")
				for b.Loop() {
					if err := os.MkdirAll(rootfs, 0o755); err != nil {
						b.Fatal(err)
					}
					for _, l := range bench.Layers {
						if out, err := exec.Command("cp", "-a", "--reflink=auto", "-T", l.Path, rootfs).CombinedOutput(); err != nil {
							b.Fatalf("cp: %v: %s", err, out)
						}
					}
					if out, err := exec.Command("rm", "-rf", rootfs).CombinedOutput(); err != nil {
						b.Fatalf("rm: %v: %s", err, out)
					}
				}
			})
		})
	}
}

func BenchmarkDestroy(b *testing.B) {
	bench := backendtest.NewBench(b, "ext4", layer.Tree, 6)
	rootfs := filepath.Join(bench.Dir, "rootfs")
	for b.Loop() {
		b.StopTimer()
		if err := New().Provision(context.Background(), bench.Layers, rootfs, bench.Dir); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := New().Destroy(context.Background(), rootfs, bench.Dir); err != nil {
			b.Fatal(err)
		}
	}
}
