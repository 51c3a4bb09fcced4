package mount_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/idmap"
	"berth/internal/mount"
	"berth/internal/mount/mounttest"
)

// Owners are mapped in both directions, and the layers stay as they are.
func TestAnOverlayOfMappedLayers(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := mounttest.FileSystem(t, "ext4")
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"low", "low2", "scratch", "scratch/upper", "scratch/work", "at"} {
		if err := os.Mkdir(path(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(path("low/file"), []byte("x"), 0o644), os.Chown(path("low/file"), 33, 44)); err != nil {
		t.Fatal(err)
	}
	ids := container.IDRange{Start: 3_000_000_000, Size: 65536}
	namespace, err := idmap.Namespace(ids)
	if err != nil {
		t.Fatal(err)
	}
	defer namespace.Close()
	o := mount.Overlay{Lowers: []string{path("low2"), path("low")}, Upper: path("scratch/upper"), Work: path("scratch/work")}
	attach := func(o mount.Overlay) error {
		return idmap.AsOwner(ids, func() error { return o.AttachMapped(path("at"), int(namespace.Fd())) })
	}
	if err := attach(o); errors.Is(err, mount.ErrOldKernel) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	owner := func(name string) [2]uint32 {
		var st unix.Stat_t
		if err := unix.Lstat(path(name), &st); err != nil {
			t.Fatal(err)
		}
		return [2]uint32{st.Uid, st.Gid}
	}
	mapped := [2]uint32{ids.OnHost(33), ids.OnHost(44)}
	if got := owner("at/file"); got != mapped {
		t.Errorf("the file is of %v", got)
	}
	if err := os.Chown(path("at/file"), int(ids.OnHost(5)), int(ids.OnHost(0))); err != nil {
		t.Fatal(err)
	}
	if got := owner("scratch/upper/file"); got != [2]uint32{5, 0} {
		t.Errorf("its copy on disk is of %v", got)
	}
	if got := owner("low/file"); got != [2]uint32{33, 44} {
		t.Errorf("the layer's is of %v", got)
	}
	if err := os.Chown(path("at/file"), 0, 0); !errors.Is(err, unix.EOVERFLOW) && !errors.Is(err, unix.EINVAL) {
		t.Errorf("an owner that is not mapped: %v", err)
	}
	if err := unix.Unmount(path("at"), 0); err != nil {
		t.Error(err)
	}
	nowhere := o
	nowhere.Lowers = []string{"/proc"}
	if err := attach(nowhere); !errors.Is(err, mount.ErrCannotMap) {
		t.Errorf("a layer on procfs: %v", err)
	}
}
