//go:build linux

package bench

import (
	"context"
	"path/filepath"
	"testing"

	"berth/internal/testrig"
	"berth/provisioner/backend/copy"
	"berth/state"
)

// BenchmarkCopy makes a root filesystem by the copy backend, of seven layers, beside cp
// of the tree that they make together.
func BenchmarkCopy(b *testing.B) {
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		b.Run(fstype, func(b *testing.B) { copyTree(b, fstype) })
	}
}

func copyTree(b *testing.B, fstype string) {
	d := newDebian(b, fstype, "overlay")
	layers := d.layers(b)
	tree := testrig.SkopeoUmoci(b, d.image.GetDocker().GetName(), d.disk)
	contest{title: "Copy a root filesystem of 16 000 files, on " + fstype, disk: d.disk, contenders: []contender{
		{"berth's copy backend", nil, func(b *testing.B) (work, func()) {
			dir, clean := freshDir(b, d.disk, "copy")
			return times(1, func() error {
				err := copy.New().Provision(context.Background(), layers, state.Rootfs(dir, "rootfs"), dir)
				return err
			}), clean
		}},
		{"cp -a --reflink=auto", nil, func(b *testing.B) (work, func()) {
			dir, clean := freshDir(b, d.disk, "cp")
			return programs([]string{"cp", "-a", "--reflink=auto", tree, filepath.Join(dir, "rootfs")}), clean
		}},
	}}.run(b)
}
