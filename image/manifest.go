package image

import (
	"encoding/json"
	"fmt"

	"berth/container"
	"berth/internal/strictjson"
)

const (
	// MaxManifestSize bounds a manifest or an index; the distribution-spec asks
	// registries to accept this much.
	MaxManifestSize = 4 << 20
	// MaxLayers bounds the layers of an image.
	MaxLayers = 1000

	schemaVersion = 2
)

// Document is what a registry or a layout has under an image's name: a *Manifest,
// an *Index or, in a registry alone, a *Schema1.
type Document interface {
	document()
}

// Manifest describes one image, or an Artifact. Its Layers are base first; those of an
// image are each of a known LayerType, and there may be none.
type Manifest struct {
	MediaType   string
	Config      Descriptor
	Layers      []Descriptor
	Annotations map[string]string
}

// Index names the manifests of one image for several platforms, or of several
// images; an entry may be an index again. Choose picks one.
type Index struct {
	MediaType   string
	Manifests   []Descriptor
	Annotations map[string]string
}

func (*Manifest) document() {}
func (*Index) document()    {}

// documentJSON has the members of both kinds, to see when a document has both.
type documentJSON struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Config        json.RawMessage   `json:"config"`
	Layers        json.RawMessage   `json:"layers"`
	Manifests     json.RawMessage   `json:"manifests"`
	FSLayers      json.RawMessage   `json:"fsLayers"` // schema 1
	Annotations   map[string]string `json:"annotations"`
}

// ParseManifest reads a manifest or an index, OCI or Docker. mediaType is
// the type under which it was served, or that of the descriptor that led to it; it
// may have parameters, and be "" or generic (application/json): then the document
// has to say itself what it is.
//
// A document that could be taken for either kind is refused, and so is one that
// contradicts mediaType (GHSA-5j5w-g665-5m35: a registry shows one reader a manifest
// and another one an index, under the same digest).
//
// The error is of class ErrInvalid; ErrNotSupported for layers of an unknown type, for
// artifacts without files and for digests other than sha256.
func ParseManifest(mediaType string, body []byte) (Document, error) {
	served, err := ManifestType(mediaType)
	if err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	var wire documentJSON
	if err := strictjson.Decode(body, MaxManifestSize, &wire); err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	document, err := wire.parse(served, body)
	if err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	return document, nil
}

func (w *documentJSON) parse(served string, body []byte) (Document, error) {
	mediaType, err := w.mediaType(served)
	if err != nil {
		return nil, err
	}
	switch {
	case documentKinds[mediaType] == schema1Kind:
		return w.schema1(mediaType, body)
	case w.SchemaVersion != schemaVersion:
		return nil, fmt.Errorf("%w: its schemaVersion is %d, not %d", container.ErrInvalid, w.SchemaVersion, schemaVersion)
	case strictjson.Stated(w.FSLayers):
		return nil, fmt.Errorf("%w: it has the fsLayers of schema 1, and is of schema 2", container.ErrInvalid)
	case documentKinds[mediaType] == indexKind:
		return w.index(mediaType)
	}
	return w.manifest(mediaType)
}

// mediaType finds what the document is from three witnesses: how it was served,
// what it says, and which members it has. They may be silent, not contradict.
func (w *documentJSON) mediaType(served string) (string, error) {
	own, err := ManifestType(w.MediaType)
	switch {
	case err != nil:
		return "", err
	case served != "" && own != "" && served != own:
		return "", fmt.Errorf("%w: it says that it is %s and was named as %s", container.ErrInvalid, own, served)
	case own != "":
		return own, nil
	case served != "":
		return served, nil
	case w.SchemaVersion == 1:
		return MediaTypeSchema1, nil
	case strictjson.Stated(w.Manifests):
		return MediaTypeOCIIndex, nil
	}
	return MediaTypeOCIManifest, nil
}

func (w *documentJSON) manifest(mediaType string) (*Manifest, error) {
	switch {
	case strictjson.Stated(w.Manifests):
		return nil, fmt.Errorf("%w: a manifest with the member manifests could be taken for an index", container.ErrInvalid)
	case !strictjson.Stated(w.Config):
		return nil, fmt.Errorf("%w: it has no config", container.ErrInvalid)
	case !strictjson.Stated(w.Layers):
		return nil, fmt.Errorf("%w: it has no list of layers", container.ErrInvalid)
	}
	config, err := parseConfigDescriptor(mediaType, w.Config)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	parse := parseLayers
	if !imageConfigs[config.MediaType] {
		parse = func(raw json.RawMessage) ([]Descriptor, error) { return parseArtifactLayers(config, raw) }
	}
	layers, err := parse(w.Layers)
	if err != nil {
		return nil, err
	}
	return &Manifest{MediaType: mediaType, Config: config, Layers: layers, Annotations: w.Annotations}, nil
}

// schema1 returns nothing else for a document that could be taken for something else.
func (w *documentJSON) schema1(mediaType string, body []byte) (Document, error) {
	switch {
	case w.SchemaVersion != 1:
		return nil, fmt.Errorf("%w: its schemaVersion is %d, and it is %s", container.ErrInvalid, w.SchemaVersion, mediaType)
	case strictjson.Stated(w.Layers), strictjson.Stated(w.Config), strictjson.Stated(w.Manifests):
		return nil, fmt.Errorf("%w: a manifest of schema 1 with members of schema 2", container.ErrInvalid)
	}
	old, err := parseSchema1(body)
	if err != nil {
		return nil, fmt.Errorf("schema 1: %w", err)
	}
	return old, nil
}

func (w *documentJSON) index(mediaType string) (*Index, error) {
	switch {
	case strictjson.Stated(w.Layers), strictjson.Stated(w.Config):
		return nil, fmt.Errorf("%w: an index with the member layers or config could be taken for a manifest", container.ErrInvalid)
	case !strictjson.Stated(w.Manifests):
		return nil, fmt.Errorf("%w: it has no list of manifests", container.ErrInvalid)
	}
	manifests, err := parseDescriptors("manifest", w.Manifests)
	if err != nil {
		return nil, err
	}
	return &Index{MediaType: mediaType, Manifests: manifests, Annotations: w.Annotations}, nil
}

// imageConfigs are the media types of configurations of images; the last: Docker 1.10.
var imageConfigs = map[string]bool{MediaTypeOCIConfig: true, MediaTypeDockerConfig: true, "application/octet-stream": true}

// parseConfigDescriptor reads the config of a manifest of the given type. Only OCI's may
// be that of an artifact.
func parseConfigDescriptor(manifest string, raw json.RawMessage) (Descriptor, error) {
	d, err := parseDescriptor(raw)
	if err != nil {
		return Descriptor{}, err
	}
	if !imageConfigs[d.MediaType] && manifest != MediaTypeOCIManifest {
		return Descriptor{}, fmt.Errorf("%w: its media type is %s: an artifact, not a container image",
			container.ErrNotSupported, quote(d.MediaType))
	}
	if d.Size > MaxConfigSize {
		return Descriptor{}, fmt.Errorf("%w: its size is %d bytes, at most %d are allowed", container.ErrInvalid, d.Size, MaxConfigSize)
	}
	return d, nil
}

func parseLayerList(raw json.RawMessage) ([]Descriptor, error) {
	layers, err := parseDescriptors("layer", raw)
	if err == nil && len(layers) > MaxLayers {
		err = fmt.Errorf("%w: it has %d layers, at most %d are allowed", container.ErrInvalid, len(layers), MaxLayers)
	}
	return layers, err
}

func parseLayers(raw json.RawMessage) ([]Descriptor, error) {
	layers, err := parseLayerList(raw)
	if err != nil {
		return nil, err
	}
	for i, layer := range layers {
		if _, err := ParseLayerType(layer.MediaType); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return layers, nil
}

func parseDescriptors(noun string, raw json.RawMessage) ([]Descriptor, error) {
	var list []json.RawMessage
	if err := strictjson.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("%ss: %w", noun, err)
	}
	descriptors := make([]Descriptor, 0, len(list))
	for i, raw := range list {
		d, err := parseDescriptor(raw)
		if err != nil {
			return nil, fmt.Errorf("%s %d: %w", noun, i, err)
		}
		descriptors = append(descriptors, d)
	}
	return descriptors, nil
}

// MarshalJSON prints a document that ParseManifest reads back as the same Manifest.
// Its digest is another one than that of the document m came from.
func (m *Manifest) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Config        Descriptor        `json:"config"`
		Layers        []Descriptor      `json:"layers"`
		Annotations   map[string]string `json:"annotations,omitempty"`
	}{schemaVersion, m.MediaType, m.Config, list(m.Layers), m.Annotations})
}

// MarshalJSON prints a document that ParseManifest reads back as the same Index.
func (x *Index) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Manifests     []Descriptor      `json:"manifests"`
		Annotations   map[string]string `json:"annotations,omitempty"`
	}{schemaVersion, x.MediaType, list(x.Manifests), x.Annotations})
}

// list prints as [] where nil would print as null, which says that there is no list.
func list(descriptors []Descriptor) []Descriptor {
	if descriptors == nil {
		return []Descriptor{}
	}
	return descriptors
}
