package mount

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/mount/mounttest"
)

func TestShared(t *testing.T) {
	dir := mounttest.Dir(t)
	below := filepath.Join(dir, "with a blank", "below")
	for _, step := range []func() error{
		func() error { return unix.Mount("outer", dir, "tmpfs", 0, "") },
		func() error { return os.MkdirAll(below, 0o755) },
		func() error { return unix.Mount("inner", filepath.Dir(below), "tmpfs", 0, "") },
		func() error { return os.Mkdir(below, 0o755) },
		func() error { return unix.Mount("", dir, "", unix.MS_SHARED, "") },
		func() error { return unix.Mount("", filepath.Dir(below), "", unix.MS_PRIVATE, "") },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if at, shared, err := Shared(dir); at != dir || !shared || err != nil {
		t.Errorf("the outer one: %q, %v, %v", at, shared, err)
	}
	if at, shared, err := Shared(below); at != filepath.Dir(below) || shared || err != nil {
		t.Errorf("the inner one: %q, %v, %v", at, shared, err)
	}
	if _, _, err := Shared(dir + "/missing"); err == nil {
		t.Error("of nothing there is no error")
	}
}
