package image

import (
	"fmt"
	"mime"

	"berth/container"
)

// The media types of documents: OCI's and Docker's.
const (
	MediaTypeOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeOCIIndex       = "application/vnd.oci.image.index.v1+json"
	MediaTypeOCIConfig      = "application/vnd.oci.image.config.v1+json"
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerConfig   = "application/vnd.docker.container.image.v1+json"

	// Docker's schema 1, the format before 2016, which old registries still serve, mostly
	// signed.
	MediaTypeSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	MediaTypeSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

type kind int

const (
	unstatedKind kind = iota
	manifestKind
	indexKind
	schema1Kind
)

// documentKinds are the media types that a manifest may be served under. The
// generic ones state nothing: the document itself has to.
var documentKinds = map[string]kind{
	MediaTypeOCIManifest:       manifestKind,
	MediaTypeDockerManifest:    manifestKind,
	MediaTypeOCIIndex:          indexKind,
	MediaTypeDockerList:        indexKind,
	MediaTypeSchema1:           schema1Kind,
	MediaTypeSchema1Signed:     schema1Kind,
	"":                         unstatedKind,
	"application/json":         unstatedKind,
	"application/octet-stream": unstatedKind,
	"text/plain":               unstatedKind,
}

// ManifestTypes returns the media types of the documents that ParseManifest reads, those that
// are wanted first.
func ManifestTypes() []string {
	return []string{MediaTypeOCIIndex, MediaTypeOCIManifest, MediaTypeDockerList, MediaTypeDockerManifest,
		MediaTypeSchema1Signed, MediaTypeSchema1}
}

// ManifestType brings a Content-Type under which a document was served to the media
// type that ParseManifest takes: without parameters, "" if it is a generic one that
// states nothing. The error is of class ErrInvalid: it is no manifest, but an HTML page, say.
func ManifestType(contentType string) (string, error) {
	// Malformed parameters do not matter, and come with the media type.
	mediaType, _, _ := mime.ParseMediaType(contentType)
	if mediaType == "" && contentType != "" {
		return "", fmt.Errorf("%w: the content type %s", container.ErrInvalid, quote(contentType))
	}
	kind, known := documentKinds[mediaType]
	switch {
	case mediaType == "text/html":
		return "", fmt.Errorf("%w: an HTML page is not a manifest", container.ErrInvalid)
	case !known:
		return "", fmt.Errorf("%w: the media type %s is none of a manifest or an index", container.ErrInvalid, quote(mediaType))
	case kind == unstatedKind:
		return "", nil
	}
	return mediaType, nil
}

// Compression is how the bytes of a layer wrap its tar.
type Compression string

// The compressions of layers.
const (
	Uncompressed Compression = "none"
	Gzip         Compression = "gzip"
	Zstd         Compression = "zstd"
)

// LayerType is what the media type of a layer says.
type LayerType struct {
	Compression Compression
	// Foreign layers may not be distributed: a registry need not have them (OCI:
	// nondistributable). They occur in Windows images.
	Foreign bool
}

var layerTypes = map[string]LayerType{
	"application/vnd.oci.image.layer.v1.tar":      {Compression: Uncompressed},
	"application/vnd.oci.image.layer.v1.tar+gzip": {Compression: Gzip},
	"application/vnd.oci.image.layer.v1.tar+zstd": {Compression: Zstd},

	"application/vnd.oci.image.layer.nondistributable.v1.tar":      {Compression: Uncompressed, Foreign: true},
	"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": {Compression: Gzip, Foreign: true},
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": {Compression: Zstd, Foreign: true},

	"application/vnd.docker.image.rootfs.diff.tar":      {Compression: Uncompressed},
	"application/vnd.docker.image.rootfs.diff.tar.gzip": {Compression: Gzip},
	"application/vnd.docker.image.rootfs.diff.tar.zstd": {Compression: Zstd},

	"application/vnd.docker.image.rootfs.foreign.diff.tar":      {Compression: Uncompressed, Foreign: true},
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": {Compression: Gzip, Foreign: true},
}

// ParseLayerType reads the media type of a layer. The error is of class
// ErrNotSupported and names the type.
func ParseLayerType(mediaType string) (LayerType, error) {
	t, known := layerTypes[mediaType]
	if !known {
		return LayerType{}, fmt.Errorf("%w: layers of media type %s", container.ErrNotSupported, quote(mediaType))
	}
	return t, nil
}
