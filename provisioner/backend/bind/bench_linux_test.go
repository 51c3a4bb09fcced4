package bind

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"berth/layer"
	"berth/provisioner/backend/backendtest"
)

// Beside the system calls that no backend can do without.
func BenchmarkProvisionDestroy(b *testing.B) {
	bench := backendtest.NewBench(b, "ext4", layer.Tree, 1)
	b.Run("backend", func(b *testing.B) { bench.ProvisionDestroy(b, New(nil)) })
	b.Run("bare mount and umount", func(b *testing.B) {
		rootfs := filepath.Join(bench.Dir, "bare")
		for b.Loop() {
			err := errors.Join(
				os.Mkdir(rootfs, 0o700),
				unix.Mount(bench.Layers[0].Path, rootfs, "", unix.MS_BIND, ""),
				unix.Mount("", rootfs, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""),
				unix.Unmount(rootfs, unix.MNT_DETACH),
				os.Remove(rootfs))
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
