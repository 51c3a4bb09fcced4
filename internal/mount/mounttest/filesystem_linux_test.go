package mounttest_test

import (
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/mount/mounttest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

func mkdirs(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// A mount that was moved stands in the table where it was made, so that a mount may
// come before the one that it lies on, and hide one that comes after.
func TestDetachBelow(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := mounttest.Dir(t)
	mkdirs(t, dir+"/in", dir+"/elsewhere", dir+"/outside")
	mounttest.Mount(t, "tmpfs", dir+"/elsewhere", "")
	mkdirs(t, dir+"/elsewhere/a")
	mounttest.Mount(t, "tmpfs", dir+"/in", "")
	mkdirs(t, dir+"/in/a", dir+"/in/b")
	mounttest.Mount(t, "tmpfs", dir+"/in/a", "")
	mounttest.Mount(t, "tmpfs", dir+"/in/b", "")
	if err := unix.Mount(dir+"/elsewhere", dir+"/in", "", unix.MS_MOVE, ""); err != nil {
		t.Fatal(err)
	}
	mounttest.Mount(t, "tmpfs", dir+"/in/a", "")
	mounttest.Mount(t, "tmpfs", dir+"/outside", "")
	if err := mounttest.DetachBelow(dir + "/in"); err != nil {
		t.Error(err)
	}
	if left, err := mounttest.Points(dir); err != nil || !slices.Equal(left, []string{dir + "/outside"}) {
		t.Errorf("left is %q, %v", left, err)
	}
	if err := mounttest.DetachBelow(dir + "/in"); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := mounttest.DetachBelow(dir + "/missing"); err != nil {
		t.Errorf("of nothing: %v", err)
	}
}
