//go:build linux

package bench

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkRead reads all files of a root filesystem of 7 layers through it: with nothing of
// the machine's files in memory, and with all of these in memory.
func BenchmarkRead(b *testing.B) {
	unpacked := newDebian(b, "ext4", "overlay")
	mounted := pulled(b, unpacked.image, unpacked.disk, "erofs")
	trees, layers := unpacked.rootfs(b), mounted.rootfs(b)
	size, err := readTree(layers)
	if err != nil {
		b.Fatal(err)
	}
	for _, state := range []struct {
		name    string
		prepare func(root string) error
	}{
		{"cold", func(string) error { return dropCaches() }},
		{"warm", func(root string) error {
			_, err := readTree(root)
			return err
		}},
	} {
		reads := func(root string) func(b *testing.B) (work, func()) {
			return func(b *testing.B) (work, func()) {
				if err := state.prepare(root); err != nil {
					b.Fatal(err)
				}
				return times(1, func() error {
					_, err := readTree(root)
					return err
				}), nothing
			}
		}
		b.Run(state.name, func(b *testing.B) {
			contest{title: fmt.Sprintf("Read all files of a root filesystem, %d MB, %s", size>>20, state.name), disk: unpacked.disk, contenders: []contender{
				{"erofs", nil, reads(layers)},
				{"overlay on trees", nil, reads(trees)},
			}}.run(b)
		})
	}
}

// rootfs provisions a container for the time of the benchmark.
func (d *debian) rootfs(b *testing.B) string {
	b.Helper()
	made, err := d.Provisioner.Provision(b.Context(), numbered(0), d.image)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := d.destroy(0); err != nil {
			b.Error(err)
		}
	})
	return made.Path
}

// dropCaches has nothing in memory of any file that is stored elsewhere.
func dropCaches() error {
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

// readTree reads all regular files below a directory and returns how many bytes they have.
func readTree(root string) (size int64, err error) {
	buffer := make([]byte, 128<<10)
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		for {
			n, err := f.Read(buffer)
			size += int64(n)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	return size, err
}
