//go:build !linux

package layer

import (
	"context"
	"fmt"
	"io"

	"berth/container"
	"berth/image"
)

func makeTree(io.Reader, string, *budget) (Info, error) {
	return Info{}, fmt.Errorf("unpack a layer: %w on this system, needs Linux", container.ErrNotSupported)
}

// Check is Linux only.
func (s *Store) Check(_ context.Context, id image.Digest, _ Form) ([]Problem, error) {
	return nil, fmt.Errorf("check layer %s: %w on this system, needs Linux", id, container.ErrNotSupported)
}
