package fetch

import (
	"context"
	"fmt"

	"berth/container"
	"berth/image"
)

// maxIndexDepth bounds indexes of indexes.
const maxIndexDepth = 3

// Document is a manifest or an index as it was found, verified against the digest that
// led to it.
type Document struct {
	MediaType string
	Body      []byte
}

// Documents is where manifests, indexes and configurations are.
type Documents interface {
	// Document returns what an index names.
	Document(ctx context.Context, d image.Descriptor) (Document, error)
	// Config returns the configuration that a manifest names.
	Config(ctx context.Context, d image.Descriptor) ([]byte, error)
}

// Find follows indexes from a document to the image for the wanted platform.
func Find(ctx context.Context, from Documents, first Document, want image.Platform) (*Resolved, error) {
	found, manifest, err := findManifest(ctx, from, first, want)
	if err != nil {
		return nil, err
	}
	if manifest.Artifact() {
		return artifact(manifest), nil
	}
	if found.Config, err = from.Config(ctx, manifest.Config); err != nil {
		return nil, err
	}
	if found.Parsed, err = image.ParseConfig(found.Config); err != nil {
		return nil, err
	}
	if err := Suits(want, found.Parsed.Platform); err != nil {
		return nil, err
	}
	found.Layers, err = Pair(found.Parsed, manifest.Layers)
	return found, err
}

func findManifest(ctx context.Context, from Documents, at Document, want image.Platform) (*Resolved, *image.Manifest, error) {
	found := &Resolved{}
	for range maxIndexDepth + 1 {
		parsed, err := image.ParseManifest(at.MediaType, at.Body)
		if err != nil {
			return nil, nil, err
		}
		switch d := parsed.(type) {
		case *image.Manifest:
			found.Manifest = at.Body
			return found, d, nil
		case *image.Schema1:
			return nil, nil, fmt.Errorf("%w: a manifest of Docker's schema 1, which only registries have", container.ErrNotSupported)
		case *image.Index:
			chosen, err := image.Choose(want, d.Manifests)
			if err != nil {
				return nil, nil, err
			}
			found.Indexes = append(found.Indexes, at.Body)
			if at, err = from.Document(ctx, chosen); err != nil {
				return nil, nil, err
			}
		}
	}
	return nil, nil, fmt.Errorf("%w: indexes are nested more than %d deep", container.ErrInvalid, maxIndexDepth)
}
