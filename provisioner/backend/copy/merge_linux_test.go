package copy

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
	"berth/internal/mount/mounttest"
	"berth/provisioner/backend"
	"berth/provisioner/backend/backendtest"
)

// What upper layers hide is neither made nor removed again.
func TestOnlyWhatIsSeenIsMade(t *testing.T) {
	dir := mounttest.FileSystem(t, "ext4")
	var layers []backend.Layer
	for i := range 20 {
		tree := backendtest.Tree{backendtest.Dir("d"), backendtest.File("d/file", fmt.Sprint(i))}
		layers = append(layers, tree.Write(t, filepath.Join(dir, fmt.Sprint("layer", i))))
	}
	rootfs := filepath.Join(dir, "rootfs")
	var mu sync.Mutex
	steps := make(map[string]int)
	restore := disk.Intercept(func(step disk.Step) error {
		mu.Lock()
		defer mu.Unlock()
		steps[step.Op+" "+filepath.Base(step.Path)]++
		return nil
	})
	err := New().Provision(t.Context(), layers, rootfs, dir)
	restore()
	if err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(rootfs, "d/file")); err != nil || string(content) != "19" {
		t.Errorf("the file has %q, %v", content, err)
	}
	for step, want := range map[string]int{"mkdir d": 1, "open file": 2, "remove file": 0} {
		if steps[step] != want {
			t.Errorf("%s: %d times, want %d", step, steps[step], want)
		}
	}
}

// A file system may not say in a listing what is a directory.
func TestListingsWithoutKinds(t *testing.T) {
	dir := mounttest.FileSystem(t, "ext4", "-O", "^filetype")
	lower := backendtest.Tree{backendtest.Dir("d"), backendtest.File("d/a", "lower"), backendtest.File("d/b", "lower"), backendtest.Dir("e"), backendtest.File("e/c", "lower")}
	upper := backendtest.Tree{backendtest.Dir("d"), backendtest.File("d/a", "upper"), backendtest.File("e", "upper")}
	layers := []backend.Layer{lower.Write(t, filepath.Join(dir, "lower")), upper.Write(t, filepath.Join(dir, "upper"))}
	rootfs := filepath.Join(dir, "rootfs")
	if err := New().Provision(t.Context(), layers, rootfs, dir); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"d/a": "upper", "d/b": "lower", "e": "upper"} {
		if content, err := os.ReadFile(filepath.Join(rootfs, path)); err != nil || string(content) != want {
			t.Errorf("%s has %q, %v; want %q", path, content, err, want)
		}
	}
}

// The names of a file may be made by several workers at the same time.
func TestHardLinksInManyDirectories(t *testing.T) {
	dir := mounttest.FileSystem(t, "ext4")
	const directories, files = 100, 20
	tree := backendtest.Tree{}
	for d := range directories {
		tree = append(tree, backendtest.Dir(fmt.Sprint(d)))
		for f := range files {
			tree = append(tree, backendtest.File(fmt.Sprintf("%d/file %d", d, f), "x"))
		}
	}
	layer := tree.Write(t, filepath.Join(dir, "layer"))
	for d := range directories {
		for f := range 10 {
			if err := os.Link(fmt.Sprintf("%s/0/file %d", layer.Path, f), fmt.Sprintf("%s/%d/link %d", layer.Path, d, f)); err != nil {
				t.Fatal(err)
			}
		}
	}
	rootfs := filepath.Join(dir, "rootfs")
	if err := New().Provision(t.Context(), []backend.Layer{layer}, rootfs, dir); err != nil {
		t.Fatal(err)
	}
	for f := range 10 {
		var st unix.Stat_t
		if err := unix.Lstat(fmt.Sprintf("%s/%d/link %d", rootfs, directories-1, f), &st); err != nil || st.Nlink != directories+1 {
			t.Errorf("file %d has %d names, %v; want %d", f, st.Nlink, err, directories+1)
		}
	}
}
