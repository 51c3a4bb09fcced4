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
	forms, err := s.Forms(id)
	if err != nil {
		return err
	}
	if len(forms) == 0 {
		return fmt.Errorf("layer %s: %w in the store", id, container.ErrNotFound)
	}
	return s.writeTarOf(ctx, id, forms[0], w)
}

// writeTarOf is WriteTar by one form.
func (s *Store) writeTarOf(ctx context.Context, id image.Digest, form Form, w io.Writer) error {
	var found problems
	sum := sha256.New()
	write := s.writeTar
	if form == EROFS {
		write = s.copyTar
	}
	if err := write(ctx, id, io.MultiWriter(w, sum), &found); err != nil {
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

// copyTar copies the tar of the form EROFS.
func (s *Store) copyTar(ctx context.Context, id image.Digest, w io.Writer, found *problems) error {
	dir, err := disk.Open(s.formDir(id, EROFS))
	if err != nil {
		return err
	}
	defer dir.Close()
	file, err := openBelow(int(dir.Fd()), TarFile, unix.O_RDONLY)
	if err != nil {
		return found.note(err)
	}
	defer file.Close()
	_, err = io.CopyBuffer(w, endingWith(ctx, file), make([]byte, 256<<10))
	return err
}

// writeTar makes the tar of the form Tree again.
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
	_, err = io.CopyBuffer(w, endingWith(ctx, made), make([]byte, 256<<10))
	return err
}

// endingWith ends a stream with its context.
func endingWith(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	})
}
