package overlay

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"berth/container"
	"berth/internal/mount/mounttest"
	"berth/provisioner/backend"
	"berth/provisioner/backend/backendtest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

var traits = backendtest.Traits{Writable: true, Mounts: true, MaxLayers: backend.MaxOverlayLayers}

func TestConformance(t *testing.T) {
	backendtest.Run(t, func() backend.Backend { return New() }, traits)
}

// Kernels before 6.8 know no other way, and long paths need it on all.
func TestConformanceByLinks(t *testing.T) {
	backendtest.Run(t, func() backend.Backend { return newByLinks() }, traits)
}

// The mount itself succeeds there, with a warning in the log of the kernel.
func TestFileSystemsWithoutEntryTypesAreRefused(t *testing.T) {
	dir := mounttest.FileSystem(t, "ext4", "-O", "^filetype")
	base := backendtest.Tree{backendtest.File("a", "")}.Write(t, filepath.Join(dir, "base"))
	rootfs := filepath.Join(dir, "rootfses", "x")
	err := New().Provision(t.Context(), []backend.Layer{base}, rootfs, dir)
	if !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), "d_type") {
		t.Errorf("the error is %v", err)
	}
	if _, err := New().Destroy(t.Context(), rootfs, dir); err != nil {
		t.Error(err)
	}
	if err := backend.Probe(t.Context(), New(), dir, dir); !errors.Is(err, container.ErrNotSupported) {
		t.Errorf("the probe says %v", err)
	}

	// Of layers, too, when there are whiteouts to see.
	whole := mounttest.FileSystem(t, "ext4")
	base.Whiteouts = true
	rootfs = filepath.Join(whole, "rootfses", "x")
	if err := New().Provision(t.Context(), []backend.Layer{base}, rootfs, whole); !errors.Is(err, container.ErrNotSupported) {
		t.Errorf("the error is %v", err)
	}
	if _, err := New().Destroy(t.Context(), rootfs, whole); err != nil {
		t.Error(err)
	}
}

func TestAnOverlayIsRefusedAsUpperDirectory(t *testing.T) {
	dir := mounttest.FileSystem(t, "ext4")
	base := backendtest.Tree{backendtest.Dir("inner")}.Write(t, filepath.Join(dir, "base"))
	rootfs := filepath.Join(dir, "rootfses", "x")
	if err := New().Provision(t.Context(), []backend.Layer{base}, rootfs, dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := New().Destroy(t.Context(), rootfs, dir); err != nil {
			t.Error(err)
		}
	})
	for name, b := range map[string]*Backend{"new calls": New(), "links": newByLinks()} {
		err := backend.Probe(t.Context(), b, filepath.Join(rootfs, "inner"), dir)
		if err == nil || !strings.Contains(err.Error(), "file system") {
			t.Errorf("%s: the probe says %v", name, err)
		}
	}
	if names, err := filepath.Glob(filepath.Join(rootfs, "inner", "*")); len(names) > 0 || err != nil {
		t.Errorf("the probe left %q, %v", names, err)
	}
}
