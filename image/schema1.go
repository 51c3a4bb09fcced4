package image

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"berth/container"
	"berth/internal/strictjson"
)

// Schema1 is a manifest of Docker's schema 1, the format before 2016. It names blobs and
// not what they contain, and no configuration: that of the image is made of the manifest
// once its layers were uncompressed (Config).
type Schema1 struct {
	// Name and Tag are those that the image was pushed under, "" for what it does not say.
	Name, Tag string
	// Platform is what the image was made for, as it says.
	Platform Platform
	// Layers are the blobs of the layers, base first. One may be there several times.
	Layers []Digest

	config  map[string]json.RawMessage
	history []schema1History
}

func (*Schema1) document() {}

type schema1JSON struct {
	Name     string `json:"name"`
	Tag      string `json:"tag"`
	FSLayers []struct {
		BlobSum Digest `json:"blobSum"`
	} `json:"fsLayers"`
	History []struct {
		V1Compatibility string `json:"v1Compatibility"`
	} `json:"history"`
}

// schema1Image is a v1Compatibility: the configuration of an image of the format before
// schema 1, of which each layer was one.
type schema1Image struct {
	ID              string    `json:"id"`
	Parent          string    `json:"parent"`
	Created         time.Time `json:"created"`
	Author          string    `json:"author"`
	Comment         string    `json:"comment"`
	Throwaway       bool      `json:"throwaway"` // it has no layer
	ContainerConfig struct {
		Cmd []string `json:"Cmd"`
	} `json:"container_config"`
}

// schema1History is an entry of a configuration's history, as Docker makes it.
type schema1History struct {
	Created    time.Time `json:"created"`
	Author     string    `json:"author,omitempty"`
	CreatedBy  string    `json:"created_by,omitempty"`
	Comment    string    `json:"comment,omitempty"`
	EmptyLayer bool      `json:"empty_layer,omitempty"`
}

// schema1Own are the members of a v1Compatibility that describe its layer, not the image.
var schema1Own = []string{"id", "parent", "parent_id", "layer_id", "throwaway", "Size"}

// Canonical returns what the digest of a served document is of: the document, but for a
// signed one of schema 1, which comes with its signatures, the payload of these. mediaType is
// one of ManifestType. Nobody's signature is verified: each registry made its own, with a
// key that comes along.
//
// The error is of class ErrInvalid.
func Canonical(mediaType string, body []byte) (canonicalType string, payload []byte, err error) {
	switch mediaType {
	case MediaTypeSchema1Signed:
	case "":
		var form struct {
			SchemaVersion int             `json:"schemaVersion"`
			Signatures    json.RawMessage `json:"signatures"`
		}
		if json.Unmarshal(body, &form) != nil || form.SchemaVersion != 1 || !strictjson.Stated(form.Signatures) {
			return mediaType, body, nil
		}
	default:
		return mediaType, body, nil
	}
	if payload, err = signedPayload(body); err != nil {
		return "", nil, fmt.Errorf("signed manifest: %w", err)
	}
	return MediaTypeSchema1, payload, nil
}

// signedPayload takes the signatures out of a document, as they say: the payload is the
// document up to some byte and a tail. All of them have to say the same.
func signedPayload(body []byte) ([]byte, error) {
	var wire struct {
		Signatures []struct {
			Protected string `json:"protected"`
		} `json:"signatures"`
	}
	if err := strictjson.Decode(body, MaxManifestSize, &wire); err != nil {
		return nil, err
	}
	if len(wire.Signatures) == 0 {
		return nil, fmt.Errorf("%w: it has no signatures", container.ErrInvalid)
	}
	first := wire.Signatures[0].Protected
	length, tail, err := parseProtected(first, len(body))
	if err != nil {
		return nil, err
	}
	for _, other := range wire.Signatures[1:] {
		if other.Protected == first {
			continue
		}
		otherLength, otherTail, err := parseProtected(other.Protected, len(body))
		if err != nil {
			return nil, err
		}
		if otherLength != length || otherTail != tail {
			return nil, fmt.Errorf("%w: its signatures are of different documents", container.ErrInvalid)
		}
	}
	return append(slices.Clone(body[:length]), tail...), nil
}

// parseProtected reads the header of a signature.
func parseProtected(protected string, most int) (length int, tail string, err error) {
	var header struct {
		FormatLength int    `json:"formatLength"`
		FormatTail   string `json:"formatTail"`
	}
	text, err := unpadded(protected)
	if err == nil {
		err = strictjson.Decode(text, MaxManifestSize, &header)
	}
	var end []byte
	if err == nil {
		end, err = unpadded(header.FormatTail)
	}
	if err == nil && (header.FormatLength <= 0 || header.FormatLength > most) {
		err = fmt.Errorf("%w: it is of %d bytes of a document of %d", container.ErrInvalid, header.FormatLength, most)
	}
	if err != nil {
		return 0, "", fmt.Errorf("header of a signature: %w", err)
	}
	return header.FormatLength, string(end), nil
}

// unpadded decodes base64 as JSON Web Signatures have it (RFC 7515).
func unpadded(text string) ([]byte, error) {
	decoded, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", container.ErrInvalid, err)
	}
	return decoded, nil
}

// parseSchema1 reads a manifest that says that it is of schema 1.
func parseSchema1(body []byte) (*Schema1, error) {
	var wire schema1JSON
	if err := strictjson.Unmarshal(body, &wire); err != nil {
		return nil, err
	}
	switch n := len(wire.FSLayers); {
	case n == 0:
		return nil, fmt.Errorf("%w: it has no fsLayers", container.ErrInvalid)
	case n > MaxLayers:
		return nil, fmt.Errorf("%w: it has %d layers, at most %d are allowed", container.ErrInvalid, n, MaxLayers)
	case n != len(wire.History):
		return nil, fmt.Errorf("%w: it has %d fsLayers, and %d entries of history", container.ErrInvalid, n, len(wire.History))
	}
	images, err := wire.images()
	if err != nil {
		return nil, err
	}
	parsed := &Schema1{Name: wire.Name, Tag: wire.Tag}
	for i := len(images) - 1; i >= 0; i-- {
		img := images[i]
		if i+1 < len(images) && img.ID == images[i+1].ID {
			continue // the same once more, which old versions of Docker pushed
		}
		parsed.history = append(parsed.history, schema1History{img.Created, img.Author, strings.Join(img.ContainerConfig.Cmd, " "), img.Comment, img.Throwaway})
		if img.Throwaway {
			continue
		}
		if wire.FSLayers[i].BlobSum == "" {
			return nil, fmt.Errorf("fsLayers %d: %w: it has no blobSum", i, container.ErrInvalid)
		}
		parsed.Layers = append(parsed.Layers, wire.FSLayers[i].BlobSum)
	}
	return parsed, parsed.configured(wire.History[0].V1Compatibility)
}

// images reads the history, the topmost first. Each is the child of the next one.
func (w *schema1JSON) images() ([]schema1Image, error) {
	images := make([]schema1Image, len(w.History))
	seen := make(map[string]int)
	for i, h := range w.History {
		if err := strictjson.Decode([]byte(h.V1Compatibility), MaxConfigSize, &images[i]); err != nil {
			return nil, fmt.Errorf("history %d: %w", i, err)
		}
		id := images[i].ID
		if !isHexSHA256(id) {
			return nil, fmt.Errorf("history %d: %w: the id %s is not of 64 lower-case hexadecimal digits", i, container.ErrInvalid, quote(id))
		}
		if before, again := seen[id]; again && before != i-1 {
			return nil, fmt.Errorf("history %d: %w: the id %s is that of entry %d, too", i, container.ErrInvalid, id, before)
		}
		seen[id] = i
	}
	for i, img := range images {
		parent := ""
		if i+1 < len(images) {
			if parent = images[i+1].ID; parent == img.ID {
				continue
			}
		}
		if img.Parent != parent {
			return nil, fmt.Errorf("history %d: %w: its parent is %s, the next entry is %s", i, container.ErrInvalid, quote(img.Parent), quote(parent))
		}
	}
	return images, nil
}

// configured keeps what the configuration is made of, that of the topmost layer, if it can
// be made.
func (s *Schema1) configured(top string) error {
	if err := strictjson.Unmarshal([]byte(top), &s.config); err != nil {
		return err
	}
	for _, own := range schema1Own {
		delete(s.config, own)
	}
	any := slices.Repeat([]Digest{DigestOf(nil)}, len(s.Layers))
	text, err := s.Config(any)
	if err != nil {
		return err
	}
	parsed, err := ParseConfig(text)
	if err != nil {
		return err
	}
	s.Platform = parsed.Platform
	return nil
}

// Config makes the image's configuration, of which diffIDs are those of Layers. The same
// ones make the same bytes, those that Docker since 1.10 makes, so the image has the same
// id everywhere. (Of an image that was made by Docker before 1.8.3 it has another one than
// in Docker, which adds empty members.)
func (s *Schema1) Config(diffIDs []Digest) ([]byte, error) {
	if len(diffIDs) != len(s.Layers) {
		return nil, fmt.Errorf("%w: the manifest has %d layers, not %d", container.ErrInvalid, len(s.Layers), len(diffIDs))
	}
	whole := make(map[string]any, len(s.config)+2) // whose keys are printed in order
	for key, value := range s.config {
		whole[key] = value
	}
	whole["history"] = s.history
	whole["rootfs"] = rootFSJSON{Type: rootFSLayers, DiffIDs: diffIDs}
	return json.Marshal(whole)
}
