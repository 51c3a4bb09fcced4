package layer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
)

// WriteTar writes the tar of a visible layer to w, the very one that it was made of. It
// always has the Size of its Info, unless w fails or ctx ends. The caller holds the layer.
//
// A nil error proves that what was written has the digest id. ErrNotFound: the layer is
// absent; ErrFailedPrecondition: it is broken.
func (s *Store) WriteTar(ctx context.Context, id image.Digest, w io.Writer) error {
	if !s.visible(id, Tree) {
		return fmt.Errorf("layer %s: %w in the store", id, container.ErrNotFound)
	}
	var found problems
	sum := sha256.New()
	if err := s.writeTar(ctx, id, io.MultiWriter(w, sum), &found); err != nil {
		return fmt.Errorf("layer %s: make its tar again: %w", id, err)
	}
	switch got := image.DigestOfSum([sha256.Size]byte(sum.Sum(nil))); {
	case found.unable != nil:
		return fmt.Errorf("layer %s: make its tar again: %w", id, found.unable)
	case len(found.list) > 0:
		return fmt.Errorf("layer %s: %w: it is broken (%s): mend it with `berth repair`", id, container.ErrFailedPrecondition, found.list[0])
	case got != id:
		return fmt.Errorf("layer %s: %w: it is broken (its tar has the digest %s): mend it with `berth repair`", id, container.ErrFailedPrecondition, got)
	}
	return nil
}

func (s *Store) writeTar(ctx context.Context, id image.Digest, w io.Writer, found *problems) error {
	dir, err := disk.Open(s.formDir(id, Tree))
	if err != nil {
		return err
	}
	defer dir.Close()
	root, err := openBelow(int(dir.Fd()), contentDir, directoryFlags)
	if err != nil {
		return err
	}
	defer root.Close()
	split, err := openBelow(int(dir.Fd()), splitFile, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer split.Close()
	made, err := newTarball(split, newTree(int(root.Fd())), found)
	if err != nil {
		return err
	}
	defer made.close()
	_, err = io.CopyBuffer(w, readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return made.Read(p)
	}), make([]byte, 256<<10))
	return err
}
