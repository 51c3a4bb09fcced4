package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/layer"
	"berth/provisioner/backend/backendtest"
	"berth/state"
)

// Beside the system calls that no backend can do without.
func BenchmarkProvisionDestroy(b *testing.B) {
	bench := backendtest.NewBench(b, "ext4", layer.Tree, 6)
	b.Run("backend", func(b *testing.B) { bench.ProvisionDestroy(b, New()) })
	b.Run("by links", func(b *testing.B) { bench.ProvisionDestroy(b, newByLinks()) })
	b.Run("backend, among 1000 others", func(b *testing.B) {
		others := func(do func(rootfs string) error) {
			for i := range 1000 {
				if err := do(state.Rootfs(bench.Dir, fmt.Sprint(i))); err != nil {
					b.Fatal(err)
				}
			}
		}
		others(func(rootfs string) error {
			err := New().Provision(b.Context(), bench.Layers, rootfs, bench.Dir)
			return err
		})
		defer others(func(rootfs string) error {
			_, err := New().Destroy(context.Background(), rootfs, bench.Dir)
			return err
		})
		bench.ProvisionDestroy(b, New())
	})
	b.Run("bare mount and umount", func(b *testing.B) {
		dir := filepath.Join(bench.Dir, "bare")
		var lowers []string
		for _, l := range bench.Layers {
			lowers = append([]string{l.Path}, lowers...)
		}
		options := "lowerdir=" + strings.Join(lowers, ":") + ",upperdir=" + dir + "/upper,workdir=" + dir + "/work,volatile"
		for b.Loop() {
			err := errors.Join(
				os.MkdirAll(dir+"/upper", 0o700), os.Mkdir(dir+"/work", 0o700), os.Mkdir(dir+"/rootfs", 0o700),
				unix.Mount("overlay", dir+"/rootfs", "overlay", 0, options),
				unix.Unmount(dir+"/rootfs", unix.MNT_DETACH),
				os.RemoveAll(dir))
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
