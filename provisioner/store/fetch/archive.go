package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"berth/container"
	"berth/internal/disk"
	"berth/layer"
)

// Archive is an open tar file that holds images. It is read in place, by an index of its
// members; one that is compressed, or that comes as a stream, is copied once, uncompressed,
// into a file without a name.
type Archive struct {
	*Members
	// File identifies what was opened; nil: a stream.
	File *File

	path  string
	file  *disk.File // nil: a stream
	whole *disk.File // the copy
	tmp   func() (string, error)
	// limits bound what a compressed one becomes.
	limits layer.Limits
}

// OpenArchive opens the file of an archive and reads nothing of it yet: Index does. tmp is
// that of Kind.Source. ErrNotFound: there is no such file.
func OpenArchive(path string, tmp func() (string, error)) (*Archive, error) {
	// Without O_NONBLOCK, a FIFO would be waited for.
	file, err := disk.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", container.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	return &Archive{path: path, file: file, tmp: tmp, limits: layer.DefaultLimits}, nil
}

// ReadArchive reads an archive from a stream, to its end, and finds its members. tmp is that
// of Kind.Source. ErrInvalid: it is no whole tar archive.
func ReadArchive(ctx context.Context, from io.Reader, tmp func() (string, error)) (*Archive, error) {
	a := &Archive{tmp: tmp, limits: layer.DefaultLimits}
	size, err := a.copy(ctx, from)
	if err == nil {
		a.Members, err = IndexMembers(ctx, a.whole, size)
	}
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", errors.Join(err, a.Close()))
	}
	return a, nil
}

// Index finds the members. ErrInvalid: it is no whole tar archive; ErrNotSupported: it is
// of a kind that cannot be read.
func (a *Archive) Index(ctx context.Context) error {
	// Of the open file and before it is read: should another take its place, or it
	// change meanwhile, then it is not the recorded one.
	info, err := a.file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("read archive %s: %w: it is not a regular file", a.path, container.ErrInvalid)
	}
	a.File = Identify(a.path, info)
	if err := a.index(ctx, info.Size()); err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	return nil
}

func (a *Archive) index(ctx context.Context, size int64) error {
	compressed, err := isCompressed(a.file)
	if err != nil {
		return err
	}
	from := a.file
	if compressed {
		if _, err := a.file.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if size, err = a.copy(ctx, a.file); err != nil {
			return err
		}
		from = a.whole
	}
	a.Members, err = IndexMembers(ctx, from, size)
	return err
}

// copy copies what is in from, uncompressed: members of a stream or of a compressed archive
// can only be read in their order, and several are needed at a time. The copy has no name,
// so it goes with this process, and it is bounded as a layer is.
func (a *Archive) copy(ctx context.Context, from io.Reader) (size int64, err error) {
	dir, err := a.tmp()
	if err != nil {
		return 0, err
	}
	if a.whole, err = disk.CreateTemp(dir, "archive-*"); err != nil {
		return 0, err
	}
	if err := disk.Remove(a.whole.Name()); err != nil {
		return 0, err
	}
	inflated, err := layer.Inflate(ctx, from, a.limits, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, inflated.Close()) }()
	size, err = io.Copy(onlyWriter{a.whole}, inflated)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("%w: the archive, uncompressed, needs space on the file system of the images until they are read from it", err)
	}
	return size, err
}

// onlyWriter hides what os.File has besides, so that each write is a step of package disk.
type onlyWriter struct{ io.Writer }

// Close closes the file. The archive can be opened again.
func (a *Archive) Close() (err error) {
	for _, f := range []*disk.File{a.file, a.whole} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// isCompressed reports whether a file is compressed in a way that layer.Inflate undoes.
func isCompressed(file io.ReaderAt) (bool, error) {
	begin := make([]byte, layer.CompressionPeek)
	n, err := file.ReadAt(begin, 0)
	if err != nil && err != io.EOF {
		return false, err
	}
	return layer.Compression(begin[:n]) != "", nil
}
