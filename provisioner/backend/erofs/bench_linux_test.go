package erofs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/mount"
	"berth/provisioner/backend"
	"berth/provisioner/backend/backendtest"
	"berth/state"
)

// Beside the system calls that no backend can do without: when the root filesystem is the
// first that has the layers, and when another one has them.
func BenchmarkProvisionDestroy(b *testing.B) {
	bench := backendtest.NewBench(b, "ext4", New("").Form(), 6)
	of := New(filepath.Join(filepath.Dir(bench.Dir), "mounts"))
	b.Run("first, backend", func(b *testing.B) { bench.ProvisionDestroy(b, of) })
	b.Run("first, bare calls", func(b *testing.B) {
		bare := newBare(b, bench)
		for b.Loop() {
			if err := errors.Join(bare.mountLayers(), bare.mount(), bare.unmount(), bare.unmountLayers()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("another, backend", func(b *testing.B) {
		first := state.Rootfs(bench.Dir, "first")
		if err := of.Provision(b.Context(), bench.Layers, first, bench.Dir); err != nil {
			b.Fatal(err)
		}
		bench.ProvisionDestroy(b, of)
		if _, err := of.Destroy(b.Context(), first, bench.Dir); err != nil {
			b.Fatal(err)
		}
	})
	b.Run("another, bare calls", func(b *testing.B) {
		bare := newBare(b, bench)
		if err := bare.mountLayers(); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := errors.Join(bare.mount(), bare.unmount()); err != nil {
				b.Fatal(err)
			}
		}
		if err := bare.unmountLayers(); err != nil {
			b.Fatal(err)
		}
	})
}

// bare is the mounts alone, with the directories of the overlay.
type bare struct {
	dir    string
	layers []backend.Layer
}

func newBare(b *testing.B, bench backendtest.Bench) bare {
	bare := bare{filepath.Join(bench.Dir, "bare-"+filepath.Base(b.Name())), bench.Layers}
	for i := range bare.layers {
		if err := os.MkdirAll(bare.layer(i), 0o700); err != nil {
			b.Fatal(err)
		}
	}
	return bare
}

func (b bare) layer(i int) string { return filepath.Join(b.dir, "layers", fmt.Sprint(i)) }

func (b bare) mountLayers() error {
	for i, l := range b.layers {
		made, err := mount.EROFS{Index: l.Path + "/index", Device: l.Path + "/tar"}.Mount()
		if err != nil {
			return err
		}
		if err := errors.Join(made.Attach(b.layer(i)), made.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (b bare) unmountLayers() (err error) {
	for i := range b.layers {
		err = errors.Join(err, unix.Unmount(b.layer(i), unix.MNT_DETACH))
	}
	return err
}

func (b bare) mount() error {
	o := mount.Overlay{Upper: b.dir + "/o/upper", Work: b.dir + "/o/work"}
	for i := range slices.Backward(b.layers) {
		o.Lowers = append(o.Lowers, b.layer(i))
	}
	return errors.Join(os.Mkdir(b.dir+"/o", 0o700), os.Mkdir(o.Upper, 0o700), os.Mkdir(o.Work, 0o700), os.Mkdir(b.dir+"/o/rootfs", 0o755),
		o.Attach(b.dir+"/o/rootfs"))
}

func (b bare) unmount() error {
	return errors.Join(unix.Unmount(b.dir+"/o/rootfs", unix.MNT_DETACH), os.RemoveAll(b.dir+"/o"))
}
