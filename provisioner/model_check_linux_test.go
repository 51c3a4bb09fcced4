package provisioner_test

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"pgregory.net/rapid"

	"berth/image"
	"berth/layer"
)

var bg = context.Background()

// check compares what is on disk with the model.
func (w *world) check(t *rapid.T) {
	f := w.look(t)
	for k := range union(w.model.images, f.images) {
		if !w.model.images[k].is(f.images[k]) {
			t.Errorf("image %v has the layers %q, want %v", k, f.images[k], w.model.images[k])
		}
		if p := w.model.images[k]; p != nil { // durable before visible (I1)
			for _, l := range p.layers {
				if !w.model.layers[l] && !w.model.lost[l] {
					t.Errorf("image %v is recorded and lacks its layer %s", k, l)
				}
			}
		}
	}
	wantNames(t, "the layers", sorted(f.layers), sorted(w.model.layers))
	wantNames(t, "the layers with copies that were replaced", sorted(f.superseded), sorted(w.model.superseded))
	if !w.model.untidy && len(f.leftovers) > 0 {
		t.Errorf("left behind: %q", f.leftovers)
	}
	for at := range union(w.model.containers, f.containers) {
		c := w.model.containers[at]
		seen, there := f.containers[at]
		if c != nil && c.vague {
			if c.vague = false; !there {
				delete(w.model.containers, at)
				continue
			}
		}
		if !there || c == nil {
			t.Errorf("container %s: there is %v, want %v", at, there, c != nil)
			continue
		}
		w.checkContainer(t, at, c, seen, f.made[at])
	}
	w.checkMounts(t, f.mounts)
}

func (w *world) checkContainer(t reporter, at string, c *modelContainer, seen map[string]foundRootfs, made map[string]bool) {
	t.Helper()
	for id, rootfs := range c.rootfses {
		recorded := seen[id]
		if recorded.Backend != rootfs.backend || (recordKey{recorded.Image, recorded.Platform}) != rootfs.key || !rootfs.picture.is(layersOf(recorded.Layers)) {
			t.Errorf("container %s: the root filesystem %s is recorded as %+v, want %+v", at, id, recorded, rootfs)
		}
		if !rootfs.half && !rootfs.spoilt {
			wantTree(t, rootfs.path, rootfs.tree)
		}
	}
	if len(seen) != len(c.rootfses) {
		t.Errorf("container %s has the root filesystems %v, want %v", at, seen, c.rootfses)
	}
	for id := range made { // recorded before made (I3)
		if _, ok := seen[id]; !ok && !c.half {
			t.Errorf("container %s has the root filesystem %s, which is not recorded", at, id)
		}
	}
}

// checkMounts says that everything that is mounted is a root filesystem, and that those
// of the backends that mount are.
func (w *world) checkMounts(t reporter, mounts []string) {
	t.Helper()
	want := make(map[string]bool) // false: it may be
	for at, c := range w.model.containers {
		for id, rootfs := range c.rootfses {
			if rootfs.backend != "copy" {
				want[filepath.Join(w.Paths.BackendDir(mustID(at), rootfs.backend), "rootfses", id)] = !rootfs.half
			}
		}
	}
	for _, m := range mounts {
		if _, ok := want[m]; !ok {
			t.Errorf("still mounted: %s", m)
		}
		delete(want, m)
	}
	for m, must := range want {
		if must {
			t.Errorf("not mounted: %s", m)
		}
	}
}

// wantTree compares a root filesystem with what it is to show.
func wantTree(t reporter, root string, want map[string]string) {
	t.Helper()
	got := make(map[string]string)
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		if e.IsDir() {
			got[path] = "/"
			return nil
		}
		content, err := os.ReadFile(filepath.Join(root, path))
		got[path] = string(content)
		return err
	})
	if err != nil {
		t.Errorf("%s: %v", root, err)
	}
	for path := range union(got, want) {
		if got[path] != want[path] {
			t.Errorf("%s/%s is %q, want %q", root, path, got[path], want[path])
		}
	}
}

// scribble does in the root filesystem what containers do: all of that must stay in
// this one.
func (r *modelRootfs) scribble(t reporter) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(r.tree)) {
		full := filepath.Join(r.path, path)
		switch {
		case strings.HasPrefix(path, "marker-"):
			r.tree[path] = "overwritten"
			if err := os.WriteFile(full, []byte(r.tree[path]), 0o644); err != nil {
				t.Fatal(err)
			}
		case path == "drop" || path == "etc/base":
			removeBelow(r.tree, path)
			delete(r.tree, path)
			if err := os.RemoveAll(full); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.tree["new"] = r.path
	if err := os.WriteFile(filepath.Join(r.path, "new"), []byte(r.path), 0o600); err != nil {
		t.Fatal(err)
	}
}

// occupied is what the file system has of a layer, by its own account.
func (w *world) occupied(t reporter, id image.Digest) (bytes int64) {
	t.Helper()
	info, err := w.Layers.Info(id, layer.Tree)
	if err != nil {
		t.Fatal(err)
	}
	return info.Disk
}

// diskUsage is what the layers and their copies occupy, as du counts it. A process that
// died in a Commit may have left an empty directory.
func (w *world) diskUsage(t reporter) (bytes int64) {
	t.Helper()
	dir := filepath.Join(w.Layers.Dir(), "layers")
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := e.Info()
		if empty := filepath.Dir(path) == dir && len(list(t, path)) == 0; err == nil && !empty {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}
