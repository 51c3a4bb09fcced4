package docker

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"berth/container"
	"berth/image"
	"berth/provisioner/store/fetch"
)

const (
	schema1Warning = "its manifest is of Docker's schema 1, the format before 2016, which names neither a configuration nor what the layers contain: push the image again with a current tool"
	schema1Layer   = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	// sizesAtATime is how many sizes of blobs are asked for side by side.
	sizesAtATime = 8
)

// resolveSchema1 resolves a manifest that does not say what its layers contain, nor how
// large they are.
func (r *registrySource) resolveSchema1(ctx context.Context, document fetch.Document, m *image.Schema1) (*fetch.Resolved, error) {
	if err := r.checkName(m, image.DigestOf(document.Body)); err != nil {
		return nil, err
	}
	if err := fetch.Suits(r.want, m.Platform); err != nil {
		return nil, err
	}
	found := &fetch.Resolved{Manifest: document.Body, Complete: m.Config, Warning: schema1Warning}
	found.Layers = make([]fetch.Layer, len(m.Layers))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(sizesAtATime)
	first := make(map[image.Digest]int)
	for i, digest := range m.Layers {
		found.Layers[i].Descriptor = image.Descriptor{MediaType: schema1Layer, Digest: digest}
		if _, again := first[digest]; again {
			continue
		}
		first[digest] = i
		group.Go(func() (err error) {
			found.Layers[i].Size, err = r.client.BlobSize(ctx, r.name, digest)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, digest := range m.Layers {
		found.Layers[i].Size = found.Layers[first[digest]].Size
	}
	return found, nil
}

// checkName refuses a manifest that says that it is another image. One that was asked for by
// its digest is what it is. A mirror may have the repository in a directory, or Docker Hub's
// under its short name.
func (r *registrySource) checkName(m *image.Schema1, digest image.Digest) error {
	if r.name.Digest != "" {
		return nil
	}
	within := func(dir, name string) bool { return name == "" || strings.HasSuffix("/"+dir, "/"+name) }
	sameName := within(r.name.Repository, m.Name) || within(m.Name, r.name.Repository)
	if sameName && (m.Tag == "" || m.Tag == r.name.Tag) {
		return nil
	}
	byDigest := r.name
	byDigest.Tag, byDigest.Digest = "", digest
	return fmt.Errorf("%w: its manifest says that it is %.200q; if that is what you want, name it %s",
		container.ErrInvalid, m.Name+":"+m.Tag, byDigest)
}
