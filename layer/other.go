//go:build !linux

package layer

import (
	"context"
	"fmt"
	"io"
	"syscall"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
)

func (Form) make(*stream, string) (Info, error) {
	return Info{}, fmt.Errorf("unpack a layer: %w on this system, needs Linux", container.ErrNotSupported)
}

func occupiedBeside(string) (int64, error) { return 0, nil }

func (s *Store) writeTarOf(ctx context.Context, id image.Digest, _ Form, w io.Writer) error {
	return s.WriteTar(ctx, id, w)
}

func currentSession(string) (string, error) { return "unknown", nil }

func removeTree(path string) error { return disk.RemoveAll(path) }

func awaitFree(*disk.File) error { return nil }

func measureTree(string) (int64, error) { return 0, nil }

func exchange(string, string) error { return syscall.ENOSYS }

// Check is Linux only.
func (s *Store) Check(_ context.Context, id image.Digest, _ Form) ([]Problem, error) {
	return nil, fmt.Errorf("check layer %s: %w on this system, needs Linux", id, container.ErrNotSupported)
}

// WriteTar is Linux only.
func (s *Store) WriteTar(_ context.Context, id image.Digest, _ io.Writer) error {
	return fmt.Errorf("layer %s: make its tar again: %w on this system, needs Linux", id, container.ErrNotSupported)
}
