package fetch

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"berth/container"
	"berth/image"
)

// Source is one image at the place where it comes from.
type Source interface {
	// Resolve finds the image; it fetches no layer.
	Resolve(ctx context.Context) (*Resolved, error)
	// Recall stands in for Resolve where the image is recorded. It asks nobody what the
	// name means by now. ErrNotFound: the source is no longer what it was.
	Recall(ctx context.Context, from Recorded) error
	// Open returns the bytes of a layer, which prove themselves at their end. A
	// stages.Clock in ctx is told of the connection. It may be of Request.Partials.
	Open(ctx context.Context, l Layer) (io.ReadCloser, error)
	Close() error
}

// Resolved is an image of a source.
type Resolved struct {
	// Manifest is the document as it was found, nil where there is none. Indexes are
	// those that led to it, the outermost first.
	Manifest []byte
	Indexes  [][]byte
	// File is what was read, for a source that may change under its name.
	File   *File
	Config []byte
	Parsed *image.Config // of Config
	// Complete makes Config of the DiffIDs of all Layers, for a source that does not know
	// these before the layers are unpacked. They are "" then, and there is no Config.
	Complete func(diffIDs []image.Digest) ([]byte, error)
	// Warning is what a person should know of, if not "".
	Warning string
	Layers  []Layer // base first
	// Origin has the layers by the blobs under which they are to be fetched again, where
	// those are not the ones in Layers.
	Origin []Layer
	// Notes are those of an Annotator; Parsed is what their Check makes of Config.
	Notes Notes
}

// Layer is a layer of a source.
type Layer struct {
	DiffID image.Digest
	image.Descriptor
}

// id tells one layer from another. One that is a file depends on its name, too.
func (l Layer) id() string { return cmp.Or(string(l.DiffID), string(l.Digest)+" "+l.File) }

func diffIDs(layers []Layer) []image.Digest {
	ids := make([]image.Digest, len(layers))
	for i, l := range layers {
		ids[i] = l.DiffID
	}
	return ids
}

// knownDiffIDs leaves out those that are not known yet.
func knownDiffIDs(layers []Layer) []image.Digest {
	return slices.DeleteFunc(diffIDs(layers), func(id image.Digest) bool { return id == "" })
}

// Pair ties the layers of a manifest to the diffIDs of the configuration.
func Pair(config *image.Config, layers []image.Descriptor) ([]Layer, error) {
	if len(config.DiffIDs) != len(layers) {
		return nil, fmt.Errorf("%w: the manifest has %d layers, the configuration names %d", container.ErrInvalid, len(layers), len(config.DiffIDs))
	}
	pairs := make([]Layer, len(layers))
	for i, l := range layers {
		pairs[i] = Layer{config.DiffIDs[i], l}
	}
	return pairs, nil
}

// Suits checks that an image made for a platform can be used where want is. What its
// configuration leaves out, as those of old and of minimal tools do, does not speak
// against it.
func Suits(want, made image.Platform) error {
	made.OS = cmp.Or(made.OS, want.OS)
	made.Architecture = cmp.Or(made.Architecture, want.Architecture)
	made.Variant = cmp.Or(made.Variant, want.Variant)
	if !want.Accepts(made) {
		return fmt.Errorf("image for %s: %w: it is for %s; name another platform with --platform", want, container.ErrNotFound, made)
	}
	return nil
}
