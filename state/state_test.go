package state

import (
	"os"
	"path/filepath"
	"testing"

	"berth/container"
)

func id(t *testing.T, s string) container.ID {
	t.Helper()
	id, err := container.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestPathsNest(t *testing.T) {
	l := Layout{Work: "/w", Runtime: "/r"}
	child := id(t, "root.child.grandchild")
	for _, c := range []struct{ got, want string }{
		{l.Container(child).Keeper(), "/r/containers/root/containers/child/containers/grandchild/keeper"},
		{l.Sandbox(id(t, "root")), "/w/containers/root"},
		{l.Foreground(id(t, "root")), "/w/containers/root.foreground"},
		{l.Provisioner().Layers(id(t, "root.child")), "/w/provisioner/containers/root/containers/child/layers"},
		{Scratch(l.Provisioner().BackendDir(id(t, "root"), "overlay"), Rootfs("/any", "1")), "/w/provisioner/containers/root/backends/overlay/scratch/1"},
	} {
		if c.got != c.want {
			t.Errorf("%s, want %s", c.got, c.want)
		}
	}
}

func TestChildrenAreDirectoriesWithNamesOfContainers(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"one", "two", "not an id", "a.b"} {
		if err := os.MkdirAll(filepath.Join(dir, "containers", name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "containers", "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	roots, err := Children(dir, container.ID{})
	if err != nil {
		t.Fatal(err)
	}
	// "a.b" would be the child b of a: a directory is one value.
	if want := []container.ID{id(t, "one"), id(t, "two")}; len(roots) != 2 || roots[0] != want[0] || roots[1] != want[1] {
		t.Errorf("roots %v, want %v", roots, want)
	}
	nested, err := Children(dir, id(t, "parent"))
	if err != nil {
		t.Fatal(err)
	}
	if len(nested) != 2 || nested[0] != id(t, "parent.one") {
		t.Errorf("children %v", nested)
	}
	none, err := Children(filepath.Join(dir, "missing"), container.ID{})
	if err != nil || none != nil {
		t.Errorf("children of nothing: %v, %v", none, err)
	}
}

func TestLayoutResolvesLinks(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	l, err := NewLayout(filepath.Join(dir, "link", "work"), filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "real", "work"); l.Work != want {
		t.Errorf("work directory %s, want %s", l.Work, want)
	}
	info, err := os.Stat(l.Work)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v: strangers must not look into it", info.Mode(), err)
	}
}
