package backend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Probe proves that a backend works where root filesystems are to be made: it
// provisions and destroys one, of an empty layer, below dir. The error says why not.
func Probe(ctx context.Context, b Backend, dir string) (err error) {
	probe, err := os.MkdirTemp(dir, ".probe-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(probe)) }()
	lower := filepath.Join(probe, "layer")
	if err := os.Mkdir(lower, 0o755); err != nil {
		return err
	}
	rootfs := filepath.Join(probe, "rootfses", "probe")
	_, err = b.Provision(ctx, []Layer{{Path: lower}}, rootfs, probe)
	_, destroyErr := b.Destroy(ctx, rootfs, probe)
	if err := errors.Join(err, destroyErr); err != nil {
		return fmt.Errorf("try it in %s: %w", dir, err)
	}
	return nil
}
