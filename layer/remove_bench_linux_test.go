package layer

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"

	"berth/internal/testrig"
)

// BenchmarkSweep removes a layer of 15 000 files until its space is free, beside what
// removes the same tree and leaves the rest to the kernel.
func BenchmarkSweep(b *testing.B) {
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		b.Run(fstype, func(b *testing.B) {
			needRoot(b)
			mnt := testrig.LoopFS(b, fstype, 2000)
			s := openStore(b, filepath.Join(mnt, "store"), DefaultLimits)
			id := addLayer(b, s, manyFiles()).DiffID
			sweep(b, s)
			for _, c := range []struct {
				name   string
				remove func() error
			}{
				{"sweep", func() error {
					_, err := s.Sweep(context.Background(), keepNothing)
					return err
				}},
				{"rm", func() error { return exec.Command("rm", "-rf", s.layerDir(id)).Run() }},
			} {
				b.Run(c.name, func(b *testing.B) {
					for b.Loop() {
						b.StopTimer()
						addLayer(b, s, manyFiles())
						freeBytes(b, mnt)
						b.StartTimer()
						if err := c.remove(); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}
