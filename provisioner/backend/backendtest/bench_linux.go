package backendtest

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"berth/internal/mount/mounttest"
	"berth/layer"
	"berth/provisioner/backend"
	"berth/state"
)

// Bench is layers to measure with, and a place to provision them in.
type Bench struct {
	Layers []backend.Layer
	Dir    string // of the backend
}

// NewBench makes layers that have 15 000 files together, on a new file system.
func NewBench(b *testing.B, fstype string, form layer.Form, layers int) Bench {
	b.Helper()
	root := mounttest.FileSystem(b, fstype)
	bench := Bench{Dir: filepath.Join(root, "backend")}
	for i := range layers {
		tree := benchTree(i, 15_000/layers)
		bench.Layers = append(bench.Layers, tree.WriteAs(b, form, filepath.Join(root, fmt.Sprint("layer-", i))))
	}
	return bench
}

// benchTree is like the layers of a distribution: directories of about 20 files, most of
// which are small.
func benchTree(layer, files int) Tree {
	tree := Tree{Dir("usr")}
	dir := ""
	for i := range files {
		if i%20 == 0 {
			dir = fmt.Sprintf("usr/%d-%d", layer, i)
			tree = append(tree, Dir(dir))
		}
		name := fmt.Sprintf("%s/file-%d", dir, i)
		switch {
		case i%20 == 10:
			tree = append(tree, symlink(name, "file"))
		case i%100 == 1:
			tree = append(tree, File(name, pattern(200_000)))
		default:
			tree = append(tree, File(name, pattern(i*7919%16_000)))
		}
	}
	return tree
}

// ProvisionDestroy measures a Provision with its Destroy.
func (bench Bench) ProvisionDestroy(b *testing.B, of backend.Backend) {
	rootfs := state.Rootfs(bench.Dir, "rootfs")
	for b.Loop() {
		if err := of.Provision(context.Background(), bench.Layers, rootfs, bench.Dir); err != nil {
			b.Fatal(err)
		}
		if _, err := of.Destroy(context.Background(), rootfs, bench.Dir); err != nil {
			b.Fatal(err)
		}
	}
}
