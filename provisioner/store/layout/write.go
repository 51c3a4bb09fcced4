package layout

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"berth/image"
	"berth/layer"
	"berth/provisioner/store"
)

// Format is one of archives.
type Format string

// The formats. A docker-archive is an oci-archive that has the file manifest.json, too, as
// `docker save` has written them since Docker 25.
const (
	DockerArchive Format = "docker-archive"
	OCIArchive    Format = "oci-archive"
)

const tarLayer = "application/vnd.oci.image.layer.v1.tar"

// Write writes images as one archive, as a stream and with bounded memory. Layers are
// their uncompressed tars, whose digests are the diffIDs, so that nothing has to be made
// twice to know its digest. The same images make the same bytes.
//
// The images are held by the caller. The archive is whole when the error is nil. Errors
// are those of layer.Store.WriteTar, of the records and of to.
func Write(ctx context.Context, to io.Writer, layers *layer.Store, format Format, images ...*store.Image) error {
	w := &writer{tar: tar.NewWriter(to), layers: layers, written: make(map[image.Digest]bool)}
	for _, img := range images {
		if err := w.add(img); err != nil {
			return fmt.Errorf("save %s: %w", img.Reference, err)
		}
	}
	if err := w.write(ctx, format); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return w.tar.Close()
}

// writer is an archive that is being written. All but the layers is made before the first
// byte.
type writer struct {
	tar    *tar.Writer
	layers *layer.Store

	index   image.Index
	saved   []savedImage
	blobs   []blob
	diffIDs []sizedLayer
	written map[image.Digest]bool
}

// savedImage is an entry of manifest.json.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

type blob struct {
	digest  image.Digest
	content []byte
}

type sizedLayer struct {
	id   image.Digest
	size int64
}

func (w *writer) blob(mediaType string, content []byte) image.Descriptor {
	d := image.Descriptor{MediaType: mediaType, Digest: image.DigestOf(content), Size: int64(len(content))}
	if !w.written[d.Digest] {
		w.written[d.Digest] = true
		w.blobs = append(w.blobs, blob{d.Digest, content})
	}
	return d
}

func (w *writer) layer(id image.Digest) (image.Descriptor, error) {
	info, err := w.layers.InfoOfAny(id)
	if err != nil {
		return image.Descriptor{}, err
	}
	if !w.written[id] {
		w.written[id] = true
		w.diffIDs = append(w.diffIDs, sizedLayer{id, info.Size})
	}
	return image.Descriptor{MediaType: tarLayer, Digest: id, Size: info.Size}, nil
}

func (w *writer) add(img *store.Image) error {
	manifest := &image.Manifest{MediaType: image.MediaTypeOCIManifest, Config: w.blob(image.MediaTypeOCIConfig, []byte(img.Documents.Config))}
	saved := savedImage{Config: image.BlobPath(manifest.Config.Digest), Layers: []string{}}
	for _, id := range img.Config.DiffIDs {
		d, err := w.layer(id)
		if err != nil {
			return err
		}
		manifest.Layers = append(manifest.Layers, d)
		saved.Layers = append(saved.Layers, image.BlobPath(id))
	}
	body, err := manifest.MarshalJSON()
	if err != nil {
		return err
	}
	entry := w.blob(image.MediaTypeOCIManifest, body)
	if p := img.Config.Platform; p.OS != "" && p.Architecture != "" {
		entry.Platform = &p
	}
	if entry.Annotations, err = w.annotations(img); err != nil {
		return err
	}
	if name, ok := NameOf(entry); ok && name.Tag != "" {
		saved.RepoTags = []string{withoutDigest(name)}
	}
	w.index.Manifests = append(w.index.Manifests, entry)
	w.saved = append(w.saved, saved)
	return nil
}

// annotations say how the image was called and what it came with.
func (w *writer) annotations(img *store.Image) (map[string]string, error) {
	all := make(map[string]string)
	reference, err := image.ParseReference(img.Reference)
	if err != nil {
		return nil, err
	}
	switch name := reference.Name; {
	case name.IsZero() && reference.Ref != "":
		all[image.RefNameAnnotation] = reference.Ref
	case !name.IsZero():
		all[nameAnnotation] = name.String()
		all[image.RefNameAnnotation] = withoutDigest(name)
		all[containerdName] = withoutDigest(name)
	}
	if img.Documents.Manifest == "" {
		return all, nil
	}
	var documents []image.Descriptor
	for _, body := range append(append([]string{}, img.Documents.Indexes...), img.Documents.Manifest) {
		documents = append(documents, w.blob("", []byte(body)))
	}
	text, err := json.Marshal(documents)
	all[documentsAnnotation] = string(text)
	return all, err
}

// withoutDigest is the form of a name that other tools take for one: its tag alone, if it
// has one.
func withoutDigest(name image.Name) string {
	if name.Tag != "" {
		name.Digest = ""
	}
	return name.String()
}

// write writes everything, the layers last.
func (w *writer) write(ctx context.Context, format Format) error {
	w.index.MediaType = image.MediaTypeOCIIndex
	index, err := w.index.MarshalJSON()
	if err != nil {
		return err
	}
	files := []struct {
		name    string
		content []byte
	}{{image.LayoutFile, image.LayoutMark()}, {image.LayoutIndexFile, index}}
	if format == DockerArchive {
		manifest, err := json.Marshal(w.saved)
		if err != nil {
			return err
		}
		files = append(files, struct {
			name    string
			content []byte
		}{"manifest.json", manifest})
	}
	for _, f := range files {
		if err := w.file(f.name, f.content); err != nil {
			return err
		}
	}
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	for _, b := range w.blobs {
		if err := w.file(image.BlobPath(b.digest), b.content); err != nil {
			return err
		}
	}
	for _, l := range w.diffIDs {
		if err := w.header(image.BlobPath(l.id), l.size); err != nil {
			return err
		}
		if err := w.layers.WriteTar(ctx, l.id, w.tar); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) file(name string, content []byte) error {
	if err := w.header(name, int64(len(content))); err != nil {
		return err
	}
	_, err := w.tar.Write(content)
	return err
}

func (w *writer) header(name string, size int64) error {
	return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)})
}
