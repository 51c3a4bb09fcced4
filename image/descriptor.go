package image

import (
	"encoding/json"
	"fmt"

	"berth/container"
	"berth/internal/strictjson"
)

// MaxBlobSize is more than any image has; it keeps sums of sizes far from overflow.
const MaxBlobSize = 1 << 40

// Descriptor points to bytes. In a Document that comes from ParseManifest it has a
// MediaType, a valid Digest and a Size from 0 to 1 TiB.
type Descriptor struct {
	MediaType string    `json:"mediaType"`
	Digest    Digest    `json:"digest"`
	Size      int64     `json:"size"`
	Platform  *Platform `json:"platform,omitempty"`
	// Annotations are free text of whoever made the image.
	Annotations map[string]string `json:"annotations,omitempty"`
	// URLs are further places of the bytes, in the words of whoever made the image:
	// nothing secret may be sent there.
	URLs []string `json:"urls,omitempty"`
	// File is the path of the one file that a layer of an artifact is, checked; "" for a
	// layer that is a tar, as those of images are.
	File string `json:"-"`
}

// choosable reports whether an entry of an index can be an image.
func (d Descriptor) choosable() bool {
	if kind := documentKinds[d.MediaType]; kind != manifestKind && kind != indexKind {
		return false
	}
	if d.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
		return false
	}
	return d.Platform == nil || (d.Platform.OS != unknown && d.Platform.Architecture != unknown)
}

func parseDescriptor(raw json.RawMessage) (Descriptor, error) {
	var wire struct {
		Descriptor
		Size *int64 `json:"size"` // hides that of Descriptor, to tell 0 from nothing
	}
	if err := strictjson.Unmarshal(raw, &wire); err != nil {
		return Descriptor{}, err
	}
	d := wire.Descriptor
	switch {
	case d.MediaType == "":
		return Descriptor{}, fmt.Errorf("%w: it has no mediaType", container.ErrInvalid)
	case d.Digest == "":
		return Descriptor{}, fmt.Errorf("%w: it has no digest", container.ErrInvalid)
	case wire.Size == nil:
		return Descriptor{}, fmt.Errorf("%w: it has no size", container.ErrInvalid)
	case *wire.Size < 0 || *wire.Size > MaxBlobSize:
		return Descriptor{}, fmt.Errorf("%w: its size is %d bytes", container.ErrInvalid, *wire.Size)
	}
	d.Size = *wire.Size
	if d.Platform != nil {
		if err := d.Platform.check(); err != nil {
			return Descriptor{}, err
		}
	}
	return d, nil
}
