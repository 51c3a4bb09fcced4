package layout

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"berth/container"
	"berth/image"
	"berth/provisioner/store/fetch"
)

// A saved image has blobs of its own, because a store keeps layers and not the bytes that
// a registry compressed them into: so its manifest is another one than the image had. The
// documents that it had are kept as further blobs, so that the layers can be fetched from
// the registry by the names that they have there, and a name with a digest be proven: the
// digest is that of the first document, each document names the next one, the manifest
// names the configuration, and this the layers, by their uncompressed bytes.
const (
	// nameAnnotation is the whole name under which an image was recorded.
	nameAnnotation = "berth.name"
	// documentsAnnotation has the descriptors of the documents, as JSON.
	documentsAnnotation = "berth.documents"
	// containerdName is where Docker and containerd have the name of an image.
	containerdName = "io.containerd.image.name"

	maxDocuments = 16
)

// NameOf returns the name that a registry would know an entry of an index by. ok is false
// for one that has only a tag, or no name.
func NameOf(d image.Descriptor) (name image.Name, ok bool) {
	for _, key := range []string{nameAnnotation, containerdName, image.RefNameAnnotation} {
		text := d.Annotations[key]
		// "latest" could be read as the name of a repository, but is a tag.
		if parsed, err := image.ParseName(text); err == nil && (key != image.RefNameAnnotation || strings.ContainsAny(text, "/:")) {
			return parsed, true
		}
	}
	return image.Name{}, false
}

// Find resolves an entry of the layout's index for a name of a registry: as the image is
// in the layout, with the documents that it came with from the registry, when the layout
// has them. ErrInvalid: these are not of this image, or the name has a digest, and they
// do not prove it.
func (l *Layout) Find(ctx context.Context, entry image.Descriptor, name image.Name, want image.Platform) (*fetch.Resolved, error) {
	first, err := l.Document(ctx, entry)
	if err != nil {
		return nil, err
	}
	found, err := fetch.Find(ctx, l, first, want)
	if err != nil {
		return nil, err
	}
	documents, err := l.documents(ctx, entry)
	if err != nil {
		return nil, fmt.Errorf("annotation %s: %w", documentsAnnotation, err)
	}
	if documents != nil {
		last := len(documents) - 1
		found.Indexes, found.Manifest = documents[:last], documents[last]
		if found.Origin, err = prove(name, found); err != nil {
			return nil, fmt.Errorf("the documents that the image came with: %w", err)
		}
	}
	return found, proveName(name, found)
}

// documents reads what the annotation names.
func (l *Layout) documents(ctx context.Context, entry image.Descriptor) (documents [][]byte, err error) {
	text, ok := entry.Annotations[documentsAnnotation]
	if !ok {
		return nil, nil
	}
	var descriptors []image.Descriptor
	if err := json.Unmarshal([]byte(text), &descriptors); err != nil {
		return nil, fmt.Errorf("%w: %w", container.ErrInvalid, err)
	}
	if len(descriptors) == 0 || len(descriptors) > maxDocuments {
		return nil, fmt.Errorf("%w: it names %d documents", container.ErrInvalid, len(descriptors))
	}
	for _, d := range descriptors {
		document, err := l.Document(ctx, d)
		if err != nil {
			return nil, err
		}
		documents = append(documents, document.Body)
	}
	return documents, nil
}

// prove follows the documents to the configuration, and returns the layers as the
// manifest names them; none for one of schema 1, which does not say what is in them.
func prove(name image.Name, found *fetch.Resolved) ([]fetch.Layer, error) {
	chain := slices.Concat(found.Indexes, [][]byte{found.Manifest})
	for i, body := range chain {
		parsed, err := image.ParseManifest("", body)
		if err != nil {
			return nil, err
		}
		switch d := parsed.(type) {
		case *image.Index:
			if i == len(chain)-1 || !slices.ContainsFunc(d.Manifests, func(m image.Descriptor) bool { return m.Digest == image.DigestOf(chain[i+1]) }) {
				return nil, fmt.Errorf("%w: the index %s does not lead to the image", container.ErrInvalid, image.DigestOf(body))
			}
		case *image.Manifest:
			if i < len(chain)-1 || d.Artifact() || found.Parsed == nil || d.Config.Digest != image.DigestOf(found.Config) {
				return nil, errNotItsManifest(body, found)
			}
			return fetch.Pair(found.Parsed, d.Layers)
		case *image.Schema1:
			if found.Parsed == nil { // an artifact
				return nil, errNotItsManifest(body, found)
			}
			return nil, proveSchema1(name, found, d)
		}
	}
	panic("layout: a chain of documents ends with its last one")
}

// proveSchema1 checks that the configuration is made of the manifest, and of the layers that
// are here. Whether these are its layers, only a registry shows.
func proveSchema1(name image.Name, found *fetch.Resolved, m *image.Schema1) error {
	if name.Digest != "" {
		return fmt.Errorf("image %s: %w: its manifest is of Docker's schema 1, which does not say what its layers contain: pull the image", name, container.ErrNotSupported)
	}
	config, err := m.Config(found.Parsed.DiffIDs)
	if err == nil && (len(found.Indexes) > 0 || !bytes.Equal(config, found.Config)) {
		err = errNotItsManifest(found.Manifest, found)
	}
	return err
}

func errNotItsManifest(manifest []byte, found *fetch.Resolved) error {
	return fmt.Errorf("%w: the manifest %s is not that of the configuration %s", container.ErrInvalid, image.DigestOf(manifest), image.DigestOf(found.Config))
}

func proveName(name image.Name, found *fetch.Resolved) error {
	if name.Digest == "" {
		return nil
	}
	first := found.Manifest
	if len(found.Indexes) > 0 {
		first = found.Indexes[0]
	}
	if got := image.DigestOf(first); got != name.Digest {
		return fmt.Errorf("image %s: %w: nothing here has the digest in its name; what there is leads from %s", name, container.ErrInvalid, got)
	}
	return nil
}
