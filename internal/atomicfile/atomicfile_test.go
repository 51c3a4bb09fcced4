package atomicfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWriteReplacesTheWholeFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record")
	for _, c := range []struct {
		content string
		sync    bool
	}{{"a long first content", true}, {"short", false}, {"", true}} {
		if err := Write(path, []byte(c.content), 0o640, c.sync); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil || string(data) != c.content {
			t.Errorf("content %q, %v, want %q", data, err, c.content)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	only(t, dir, "record")
}

func TestAFailedWriteLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	// A directory cannot be replaced by a file.
	target := filepath.Join(dir, "directory")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(target, []byte("x"), 0o600, true); err == nil {
		t.Error("a directory was replaced")
	}
	only(t, dir, "directory")
	if err := Write(filepath.Join(dir, "missing", "record"), nil, 0o600, true); err == nil {
		t.Error("written into a directory that does not exist")
	}
}

func only(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("in the directory: %v, want only %s", entries, name)
	}
}
