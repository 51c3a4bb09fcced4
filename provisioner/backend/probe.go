package backend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Probe proves that a backend works where root filesystems are to be made: it
// provisions and destroys one below dir. The error says why not.
func Probe(ctx context.Context, b Backend, dir string) (err error) {
	probe, err := os.MkdirTemp(dir, ".probe-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(probe)) }()
	lower := filepath.Join(probe, "layer")
	if err := os.MkdirAll(filepath.Join(lower, "directory", "file"), 0o755); err != nil {
		return err
	}
	rootfs := filepath.Join(probe, "rootfses", "probe")
	_, err = b.Provision(ctx, []Layer{{Path: lower}}, rootfs, probe)
	if err == nil {
		err = probeRootfs(rootfs)
	}
	_, destroyErr := b.Destroy(context.WithoutCancel(ctx), rootfs, probe)
	if err := errors.Join(err, destroyErr); err != nil {
		return fmt.Errorf("try it in %s: %w", dir, err)
	}
	return nil
}

// probeRootfs tries what an overlay needs of the file system below it. On one that is
// not fit an overlay may be mounted nevertheless, and what was removed stays, or comes
// back.
func probeRootfs(rootfs string) error {
	dir := filepath.Join(rootfs, "directory")
	err := os.RemoveAll(dir)
	if errors.Is(err, syscall.EROFS) {
		return nil // nothing can ever be removed
	}
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return lists(rootfs) },
		func() error { return os.Mkdir(dir, 0o755) },
		func() error { return lists(rootfs, filepath.Base(dir)) },
		func() error { return lists(dir) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// lists checks which names a directory has.
func lists(dir string, want ...string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	// os.ReadDir would leave out what is listed but does not exist.
	got, err := f.Readdirnames(-1)
	if err == nil && !slices.Equal(got, want) {
		err = fmt.Errorf("%q was removed, and is there", slices.DeleteFunc(got, func(name string) bool { return slices.Contains(want, name) }))
	}
	return err
}
