package fetcher

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"berth/container"
	"berth/internal/disk"
)

// unpack makes what is in an archive of this name. ErrInvalid: the archive is damaged or
// hostile; what it has before that point may have been made.
func (t *tree) unpack(ctx context.Context, name string, archive *disk.File, l limits) error {
	info, err := archive.Stat()
	if err != nil {
		return err
	}
	f, b := formatOf(name), newBudget(l, info.Size())
	if f.kind == zipped {
		return t.unpackZip(ctx, archive, info.Size(), b)
	}
	inflated, err := f.inflate(io.NewSectionReader(archive, 0, info.Size()))
	if err != nil {
		return damaged(err)
	}
	content := b.metered(ctx, inflated)
	if f.kind == single {
		return t.file(strings.TrimSuffix(name, f.suffix), 0o644, time.Time{}, func(f *disk.File) error {
			return copyContent(ctx, f, content)
		})
	}
	return t.unpackTar(ctx, bufio.NewReaderSize(content, 64<<10), b)
}

// damaged is the class of an error of a decoder, which reads of a file that can be read.
func damaged(err error) error {
	var system *fs.PathError
	if errors.Is(err, container.ErrInvalid) || errors.As(err, &system) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", container.ErrInvalid, err)
}

// copyContent writes what a decoder returns.
func copyContent(ctx context.Context, to *disk.File, content io.Reader) error {
	return copyBytes(ctx, to, readerFunc(func(p []byte) (int, error) {
		n, err := content.Read(p)
		if err != nil && err != io.EOF && context.Cause(ctx) == nil {
			err = damaged(err)
		}
		return n, err
	}))
}

func (t *tree) unpackTar(ctx context.Context, content io.Reader, b *budget) error {
	r := tar.NewReader(content)
	for {
		header, err := r.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, content) // to the checksum of what it is compressed with
			return damagedOrNil(ctx, err)
		}
		if err != nil {
			return damagedOrNil(ctx, err)
		}
		if err := b.entry(); err != nil {
			return err
		}
		if err := t.member(ctx, header, r); err != nil {
			return fmt.Errorf("entry %.200q: %w", header.Name, err)
		}
	}
}

func damagedOrNil(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	if err == nil {
		return nil
	}
	return damaged(err)
}

// member makes what one entry of a tar says.
func (t *tree) member(ctx context.Context, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if name == "." && h.Typeflag != tar.TypeDir {
		return fmt.Errorf("%w: it has no name", container.ErrInvalid)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return t.directory(name, uint32(h.Mode))
	case tar.TypeReg, tar.TypeGNUSparse:
		return t.file(name, uint32(h.Mode), h.ModTime, func(f *disk.File) error { return copyContent(ctx, f, content) })
	case tar.TypeSymlink:
		return t.symlink(name, h.Linkname)
	case tar.TypeLink:
		target, err := cleanName(h.Linkname)
		if err != nil {
			return err
		}
		return t.link(name, target)
	}
	return fmt.Errorf("%w: it is of type %q: an archive may have files, directories and links", container.ErrInvalid, h.Typeflag)
}

// unpackZip lists the archive first: the list is at its end.
func (t *tree) unpackZip(ctx context.Context, archive *disk.File, size int64, b *budget) error {
	list := &bounded{r: archive, left: b.limits.directory}
	r, err := zip.NewReader(list, size)
	if err != nil {
		return damaged(err)
	}
	list.left = -1
	for _, f := range r.File {
		if err := b.entry(); err != nil {
			return err
		}
		if err := t.zipMember(ctx, f, b); err != nil {
			return fmt.Errorf("entry %.200q: %w", f.Name, err)
		}
	}
	return nil
}

// bounded reads no more than left bytes; a negative number is no bound.
type bounded struct {
	r    io.ReaderAt
	left int64
}

func (b *bounded) ReadAt(p []byte, offset int64) (int, error) {
	if b.left >= 0 {
		if b.left -= int64(len(p)); b.left < 0 {
			return 0, fmt.Errorf("%w: its list of entries is too long", container.ErrInvalid)
		}
	}
	return b.r.ReadAt(p, offset)
}

// zipMember makes what one entry of a zip says.
func (t *tree) zipMember(ctx context.Context, f *zip.File, b *budget) error {
	name, err := cleanName(f.Name)
	if err != nil {
		return err
	}
	const encrypted = 1
	if f.Flags&encrypted != 0 {
		return fmt.Errorf("%w: it is encrypted", container.ErrNotSupported)
	}
	mode := f.Mode()
	if mode.IsDir() {
		return t.directory(name, permissions(mode, 0o755))
	}
	if name == "." {
		return fmt.Errorf("%w: it has no name", container.ErrInvalid)
	}
	if !mode.IsRegular() && mode.Type() != fs.ModeSymlink {
		return fmt.Errorf("%w: it is a %v: an archive may have files, directories and links", container.ErrInvalid, mode.Type())
	}
	opened, err := f.Open()
	if err != nil {
		return damaged(err)
	}
	defer opened.Close() // frees a decoder
	content := b.metered(ctx, opened)
	if mode.IsRegular() {
		return t.file(name, permissions(mode, 0o644), f.Modified, func(f *disk.File) error { return copyContent(ctx, f, content) })
	}
	target, err := io.ReadAll(io.LimitReader(content, 4096))
	if err != nil {
		return damagedOrNil(ctx, err)
	}
	return t.symlink(name, string(target))
}

// permissions are those of an entry; of one that was made on a system without any, other's.
func permissions(mode os.FileMode, other uint32) uint32 {
	if mode.Perm() == 0 {
		return other
	}
	return uint32(mode.Perm())
}
