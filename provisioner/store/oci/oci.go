// Package oci is the store of images in OCI image layouts on this machine: in directories
// and in archives, as skopeo, buildah, podman and umoci write them. Package layout reads
// them, package fetch is what happens with them.
package oci

import (
	"context"
	"fmt"
	"io"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/provisioner/store/fetch"
	"berth/provisioner/store/layout"
)

// Store implements store.Store.
type Store struct {
	*fetch.Store
}

// New returns the store, and makes its directory when missing.
func New(o fetch.Options) (*Store, error) {
	s, err := fetch.New(kind{}, o)
	if err != nil {
		return nil, err
	}
	return &Store{s}, nil
}

// kind implements fetch.Kind.
type kind struct{}

func (kind) Name() string { return "oci" }

func (kind) Parse(img *v1.Image) (image.Reference, *v1.Secret, error) {
	if img.GetType() != v1.Image_OCI {
		return image.Reference{}, nil, fmt.Errorf("image of type %s: %w for the oci store", img.GetType(), container.ErrInvalid)
	}
	reference, err := image.ParseReference(img.GetOci().GetName())
	if err != nil {
		return image.Reference{}, nil, err
	}
	switch reference.Transport {
	case image.OCI, image.OCIArchive:
		reference, err = fetch.Absolute(reference)
		return reference, nil, err
	}
	return image.Reference{}, nil, fmt.Errorf("image %s: %w: the oci store has images as oci:DIR[:REF] and oci-archive:FILE[:REF]",
		reference, container.ErrNotSupported)
}

func (kind) Source(r fetch.Request) (fetch.Source, error) {
	want, err := r.Want()
	if err != nil {
		return nil, err
	}
	if r.Reference.Transport == image.OCIArchive {
		file, err := fetch.OpenArchive(r.Reference.Path, r.Tmp)
		if err != nil {
			return nil, err
		}
		return &archive{source{ref: r.Reference.Ref, want: want}, file}, nil
	}
	l, err := layout.Open(r.Reference.Path)
	if err != nil {
		return nil, err
	}
	return &directory{source{l, r.Reference.Ref, want}, r.Reference.Path}, nil
}

// source is an image of a layout. What it fetches it finds by digest, so that it is of no
// importance what else the layout has by then.
type source struct {
	*layout.Layout
	ref  string
	want image.Platform
}

func (s *source) find(ctx context.Context) (*fetch.Resolved, error) {
	index, file, err := s.Index()
	if err != nil {
		return nil, err
	}
	chosen, err := layout.Choose(index, s.ref, s.want)
	if err != nil {
		return nil, err
	}
	first, err := s.Document(ctx, chosen)
	if err != nil {
		return nil, err
	}
	found, err := fetch.Find(ctx, s, first, s.want)
	if err != nil {
		return nil, err
	}
	found.File = file
	return found, nil
}

// Open implements fetch.Source.
func (s *source) Open(_ context.Context, l fetch.Layer) (io.ReadCloser, error) {
	return s.Blob(l.Descriptor)
}

// directory is a source in a directory.
type directory struct {
	source
	path string
}

// Resolve implements fetch.Source.
func (d *directory) Resolve(ctx context.Context) (*fetch.Resolved, error) {
	found, err := d.find(ctx)
	if err != nil {
		return nil, fmt.Errorf("read layout %s: %w", d.path, err)
	}
	return found, nil
}

// Recall has nothing to do: what a digest names does not change.
func (d *directory) Recall(context.Context, fetch.Recorded) error { return nil }

// archive is a source in a tar file.
type archive struct {
	source
	file *fetch.Archive
}

// Resolve implements fetch.Source.
func (a *archive) Resolve(ctx context.Context) (*fetch.Resolved, error) {
	if err := a.Recall(ctx, fetch.Recorded{}); err != nil {
		return nil, err
	}
	found, err := a.find(ctx)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	found.File = a.file.File
	return found, nil
}

// Recall finds where the blobs are: what a digest names does not change.
func (a *archive) Recall(ctx context.Context, _ fetch.Recorded) error {
	if err := a.file.Index(ctx); err != nil {
		return err
	}
	a.Layout = layout.InArchive(a.file.Members)
	return nil
}

// Close implements fetch.Source.
func (a *archive) Close() error { return a.file.Close() }
