package fetch

import "berth/image"

// artifact is what a manifest tells of an artifact: it becomes an image of its layers and
// nothing else. The manifest is none of that image, and is not recorded.
func artifact(manifest *image.Manifest) *Resolved {
	found := &Resolved{Complete: func(diffIDs []image.Digest) ([]byte, error) {
		return (&image.Config{DiffIDs: diffIDs}).MarshalJSON()
	}}
	for _, l := range manifest.Layers {
		found.Layers = append(found.Layers, Layer{Descriptor: l})
	}
	return found
}
