package image

import (
	"fmt"

	"berth/container"
	"berth/internal/strictjson"
)

// What the image-spec ("Image Layout") names the parts of a layout.
const (
	LayoutFile      = "oci-layout"
	LayoutIndexFile = "index.json"

	layoutVersion = "1.0.0"
	maxLayoutFile = 4 << 10
)

// RefNameAnnotation is what the image-spec ("Pre-Defined Annotation Keys") has for the
// name of an image in a layout's index.
const RefNameAnnotation = "org.opencontainers.image.ref.name"

// BlobPath is where a layout has the bytes of a digest.
func BlobPath(d Digest) string { return "blobs/sha256/" + d.Hex() }

// LayoutMark is the content of the file that makes a directory a layout.
func LayoutMark() []byte { return []byte(`{"imageLayoutVersion":"` + layoutVersion + `"}`) }

// CheckLayout reads the content of the file that says which version of layout a directory
// or archive has. The error is of class ErrInvalid, or ErrNotSupported for another version.
func CheckLayout(mark []byte) error {
	var wire struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := strictjson.Decode(mark, maxLayoutFile, &wire); err != nil {
		return fmt.Errorf("parse %s: %w", LayoutFile, err)
	}
	switch wire.Version {
	case layoutVersion:
		return nil
	case "":
		return fmt.Errorf("parse %s: %w: it has no imageLayoutVersion", LayoutFile, container.ErrInvalid)
	}
	return fmt.Errorf("parse %s: %w: the layout is of version %s, known is %s", LayoutFile, container.ErrNotSupported, quote(wire.Version), layoutVersion)
}
