package atomicfile

import (
	"errors"
	"io"
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

func TestAStreamThatFailsLeavesWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	stream := func(content string, err error) error {
		return Stream(path, 0o600, func(w io.Writer) error {
			if _, err := io.WriteString(w, content); err != nil {
				t.Error(err)
			}
			return err
		})
	}
	want := func(content string) {
		t.Helper()
		if data, err := os.ReadFile(path); err != nil || string(data) != content {
			t.Errorf("content %q, %v, want %q", data, err, content)
		}
		only(t, dir, "file")
	}
	if err := stream("first", nil); err != nil {
		t.Error(err)
	}
	want("first")
	if err := stream("half of the sec", io.ErrUnexpectedEOF); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("stream: %v", err)
	}
	want("first")
	if err := stream("second", nil); err != nil {
		t.Error(err)
	}
	want("second")
}

// What a link leads to is replaced, and a device is written to.
func TestAStreamToWhatIsNoFile(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	link := filepath.Join(dir, "link")
	target := filepath.Join(elsewhere, "target")
	if err := errors.Join(os.WriteFile(target, nil, 0o600), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	write := func(w io.Writer) error { _, err := io.WriteString(w, "content"); return err }
	if err := Stream(link, 0o600, write); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(target); err != nil || string(data) != "content" {
		t.Errorf("content %q, %v", data, err)
	}
	only(t, dir, "link")
	if err := Stream("/dev/null", 0o600, write); err != nil {
		t.Error(err)
	}
	if info, err := os.Lstat("/dev/null"); err != nil || info.Mode().IsRegular() {
		t.Errorf("/dev/null is %v, %v", info.Mode(), err)
	}
}
