package backend_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"berth/internal/mount/mounttest"
	"berth/internal/testrig"
	"berth/provisioner/backend"
	"berth/provisioner/backend/backendtest"
	"berth/provisioner/backend/copy"
	"berth/provisioner/backend/erofs"
	"berth/provisioner/backend/overlay"
	"berth/state"
)

// Whichever backend makes a root filesystem, its container finds the same.

func TestBackendsAgree(t *testing.T) {
	root := mounttest.FileSystem(t, "ext4")
	outside := filepath.Join(root, "outside")
	backendtest.Tree{backendtest.Dir("d"), backendtest.File("file", "outside")}.Write(t, outside)
	for rule, trees := range backendtest.Stacks(outside) {
		t.Run(rule, func(t *testing.T) { agree(t, t, filepath.Join(root, rule), trees) })
	}
}

func TestBackendsAgreeOnRandomLayers(t *testing.T) {
	root := mounttest.FileSystem(t, "ext4")
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		agree(t, rt, filepath.Join(root, fmt.Sprint(n)), backendtest.RandomLayers(rt))
	})
}

// agree provisions layers, which it writes below dir, with each backend, and reports to
// report how what they make differs.
func agree(t *testing.T, report interface{ Errorf(string, ...any) }, dir string, trees []backendtest.Tree) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	backends := []backend.Backend{copy.New(), overlay.New(), erofs.New(filepath.Join(dir, "mounts"))}
	manifests := make([][]testrig.Entry, len(backends))
	for i, b := range backends {
		var layers []backend.Layer
		for n, tree := range trees {
			layers = append(layers, tree.WriteAs(t, b.Form(), filepath.Join(dir, fmt.Sprint("layer-", i, "-", n))))
		}
		rootfs := state.Rootfs(dir, fmt.Sprint(i))
		defer func() {
			if _, err := b.Destroy(context.Background(), rootfs, dir); err != nil {
				t.Error(err)
			}
		}()
		if err := b.Provision(context.Background(), layers, rootfs, dir); err != nil {
			t.Fatal(err)
		}
		var err error
		if manifests[i], err = testrig.Manifest(rootfs); err != nil {
			t.Fatal(err)
		}
	}
	links := testrig.Exception{Field: testrig.Links, Reason: "overlayfs counts the links that the file has in its layer"}
	for i, b := range backends[1:] {
		for _, d := range testrig.Compare(manifests[0], manifests[i+1], links) {
			report.Errorf("copy (wanted here) and %T (got) differ: %s", b, d)
		}
	}
}
