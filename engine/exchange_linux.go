package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/atomicfile"
	"berth/provisioner/store"
	"berth/provisioner/store/docker"
	"berth/provisioner/store/layout"
)

// ArchiveFormats are the formats that Save knows, the first by default.
func ArchiveFormats() []string {
	return []string{string(layout.DockerArchive), string(layout.OCIArchive)}
}

// Save writes recorded images to a file as one archive, which appears when it is whole; "-"
// is the standard output. The round trip to Load keeps an image's id, its layers and its
// manifest.
//
// ErrNotFound: an image is not in the store; ErrInvalid: the format.
func (i *Images) Save(ctx context.Context, file, format string, images ...*v1.Image) (err error) {
	if format != string(layout.DockerArchive) && format != string(layout.OCIArchive) {
		return fmt.Errorf("--format %q: %w: known are %q", format, container.ErrInvalid, ArchiveFormats())
	}
	var held []*store.Image
	defer func() {
		for _, img := range held {
			err = errors.Join(err, img.Release())
		}
	}()
	for _, img := range images {
		found, err := i.hold(ctx, img)
		if err != nil {
			return err
		}
		held = append(held, found)
	}
	write := func(to io.Writer) error {
		return layout.Write(ctx, to, i.Layers, layout.Format(format), held...)
	}
	if file == "-" {
		return write(os.Stdout)
	}
	return atomicfile.Stream(file, 0o600, write)
}

// hold gets an image that is recorded, with the layers that it may lack.
func (i *Images) hold(ctx context.Context, img *v1.Image) (*store.Image, error) {
	known, err := i.Has(ctx, img)
	if err == nil && !known {
		err = fmt.Errorf("image %s: %w in the store: get it with `berth pull`", ImageName(img), container.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return i.Stores[img.GetType()].Get(ctx, img, i.form(ctx))
}

// Load records the images of an archive under their names and returns them; "-" is the
// standard input. What is returned beside an error is recorded.
func (i *Images) Load(ctx context.Context, file string) ([]store.Record, error) {
	s, ok := i.Stores[v1.Image_DOCKER].(*docker.Store)
	if !ok {
		return nil, fmt.Errorf("load %s: %w: docker is not among --image_providers", file, container.ErrNotSupported)
	}
	if file != "-" {
		return s.Load(ctx, file, i.form(ctx))
	}
	in, err := interruptible(ctx, os.Stdin)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	loaded, err := s.LoadStream(ctx, in, i.form(ctx))
	return loaded, errors.Join(err, in.Close())
}

// interruptible returns a reader of what is piped in that ends with ctx: whoever writes may
// have stopped to. Close leaves from open.
func interruptible(ctx context.Context, from *os.File) (io.ReadCloser, error) {
	info, err := from.Stat()
	if err != nil || info.Mode()&fs.ModeNamedPipe == 0 {
		return io.NopCloser(from), err
	}
	// Opened once more: not to wait is a mode of the pipe's end, which others may share.
	again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", from.Fd()), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = again.SetReadDeadline(time.Now()) })
	return &pipe{again, ctx, stop}, nil
}

// pipe is an end of one that is read until ctx ends.
type pipe struct {
	*os.File
	ctx  context.Context
	stop func() bool
}

func (p *pipe) Read(b []byte) (int, error) {
	n, err := p.File.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = context.Cause(p.ctx)
	}
	return n, err
}

func (p *pipe) Close() error {
	p.stop()
	return p.File.Close()
}
