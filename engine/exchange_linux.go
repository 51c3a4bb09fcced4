package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/atomicfile"
	"berth/layer"
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
	return i.Stores[img.GetType()].Get(ctx, img, layer.Tree)
}

// Load records the images of an archive under their names and returns them; "-" is the
// standard input. What is returned beside an error is recorded.
func (i *Images) Load(ctx context.Context, file string) ([]store.Record, error) {
	s, ok := i.Stores[v1.Image_DOCKER].(*docker.Store)
	if !ok {
		return nil, fmt.Errorf("load %s: %w: docker is not among --image_providers", file, container.ErrNotSupported)
	}
	if file == "-" {
		return s.LoadStream(ctx, os.Stdin)
	}
	return s.Load(ctx, file)
}
