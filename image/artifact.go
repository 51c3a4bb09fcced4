package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
	"unicode"

	"berth/container"
)

// An artifact is what a registry keeps and is no image: model weights, a chart. Its
// configuration says nothing of layers. A layer of it is a file whose name is in an
// annotation, or a tar.
const (
	titleAnnotation = "org.opencontainers.image.title"
	modelAnnotation = "org.cncf.model.filepath" // of the ModelPack specification
	// unpackAnnotation is how ORAS marks the directories that it packs.
	unpackAnnotation = "io.deis.oras.content.unpack"
)

// maxFileName bounds the path of a file, maxNamePart each of its parts (Linux: PATH_MAX,
// NAME_MAX).
const (
	maxFileName = 4000
	maxNamePart = 255
)

// Artifact reports whether m is not the manifest of an image.
func (m *Manifest) Artifact() bool { return !imageConfigs[m.Config.MediaType] }

func parseArtifactLayers(config Descriptor, raw json.RawMessage) ([]Descriptor, error) {
	layers, err := parseLayerList(raw)
	if err != nil {
		return nil, err
	}
	if len(layers) == 0 {
		return nil, fmt.Errorf("config: %w: its media type is %s: an artifact, not a container image, and without any file",
			container.ErrNotSupported, quote(config.MediaType))
	}
	names := make(map[string]bool)
	for i := range layers {
		file, err := artifactFile(layers[i])
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		if file != "" && names[file] {
			return nil, fmt.Errorf("layer %d: %w: there is another file %s", i, container.ErrInvalid, quote(file))
		}
		names[file], layers[i].File = true, file
	}
	return layers, nil
}

// artifactFile returns the name of the file that a layer is; "" for a tar.
func artifactFile(layer Descriptor) (string, error) {
	name := cmp.Or(layer.Annotations[titleAnnotation], layer.Annotations[modelAnnotation])
	_, ofImages := layerTypes[layer.MediaType]
	isTar := ofImages || isTarType(layer.MediaType)
	// ORAS gives each file of which it knows no better the type of an image's layer.
	isFile := name != "" && (!isTar || ofImages) && layer.Annotations[unpackAnnotation] != "true"
	switch {
	case isFile:
		return name, checkFileName(name)
	case isTar:
		return "", nil
	}
	return "", fmt.Errorf("%w: layers of media type %s in an artifact, not a container image, that are neither tars nor files named by the annotation %s",
		container.ErrNotSupported, quote(layer.MediaType), titleAnnotation)
}

func isTarType(mediaType string) bool {
	for _, suffix := range []string{".tar", ".tar+gzip", ".tar.gzip", ".tar+zstd", ".tar.zstd"} {
		if strings.HasSuffix(mediaType, suffix) {
			return true
		}
	}
	return false
}

// checkFileName accepts a path that stays below where it is put, and that means nothing
// to a store of layers.
func checkFileName(name string) error {
	if len(name) > maxFileName || path.IsAbs(name) || path.Clean(name) != name || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("%w: the name of a file %s is not a plain relative path", container.ErrInvalid, quote(name))
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "." || part == ".." || len(part) > maxNamePart || strings.HasPrefix(part, ".wh.") {
			return fmt.Errorf("%w: %s in the name of a file %s", container.ErrInvalid, quote(part), quote(name))
		}
	}
	return nil
}

// Tar returns the tar of a layer, as it is or compressed, when blob is its bytes. Of a
// file it makes one with nothing else in it: readable by all, root's, of no time. The same
// file under the same name always makes the same bytes, whose digest is its diffID.
func (d Descriptor) Tar(blob io.Reader) (io.Reader, error) {
	if d.File == "" {
		return blob, nil
	}
	var header bytes.Buffer
	err := tar.NewWriter(&header).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: d.File, Size: d.Size, Mode: 0o644, ModTime: time.Unix(0, 0)})
	if err != nil {
		return nil, fmt.Errorf("the tar of %s: %w: %w", quote(d.File), container.ErrInvalid, err)
	}
	const block, end = 512, 2 * 512
	padding := (block-d.Size%block)%block + end
	return io.MultiReader(&header, blob, bytes.NewReader(make([]byte, padding))), nil
}
