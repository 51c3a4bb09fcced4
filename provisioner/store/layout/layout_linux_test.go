package layout

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"berth/container"
	"berth/image"
	"berth/provisioner/store/fetch"
	"berth/provisioner/store/storetest"
)

// inMemory is an archive with these files.
func inMemory(t testing.TB, all ...storetest.Entry) *Layout {
	t.Helper()
	content := storetest.Tar(all...)
	members, err := fetch.IndexMembers(t.Context(), bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	return InArchive(members)
}

func descriptor(mediaType string, content []byte) image.Descriptor {
	return image.Descriptor{MediaType: mediaType, Digest: image.DigestOf(content), Size: int64(len(content))}
}

// However a blob is read, its end is reached only if it is the one that is wanted.
func TestBlobsProveThemselves(t *testing.T) {
	good, bad := []byte("the content of a blob"), []byte("the c0ntent of a blob")
	for _, c := range []struct {
		name    string
		content []byte
		want    image.Descriptor
		class   error
	}{
		{"whole", good, descriptor("", good), nil},
		{"empty", nil, descriptor("", nil), nil},
		{"another byte", bad, descriptor("", good), container.ErrInvalid},
		{"a byte less", good[1:], descriptor("", good), container.ErrInvalid},
		{"a byte more", append(bytes.Clone(good), 'x'), descriptor("", good), container.ErrInvalid},
	} {
		l := inMemory(t, storetest.File(image.BlobPath(c.want.Digest), string(c.content)))
		blob, err := l.Blob(c.want)
		if err == nil {
			var got []byte
			if got, err = io.ReadAll(blob); err == nil && !bytes.Equal(got, c.content) {
				t.Errorf("%s: read %q", c.name, got)
			}
		}
		if !errors.Is(err, c.class) {
			t.Errorf("%s: %v, want %v", c.name, err, c.class)
		}
	}
}

// A file that grows while it is read does not pass for longer than it was.
func TestABlobThatGrows(t *testing.T) {
	v := &verified{ReadCloser: io.NopCloser(bytes.NewReader(make([]byte, 100))), want: image.Descriptor{Size: 50}, sum: sha256.New()}
	if _, err := io.ReadAll(v); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("read: %v", err)
	}
}

func FuzzLayout(f *testing.F) {
	config := `{"os":"linux","rootfs":{"diff_ids":[]}}`
	d := descriptor(image.MediaTypeOCIConfig, []byte(config))
	manifest, err := (&image.Manifest{MediaType: image.MediaTypeOCIManifest, Config: d}).MarshalJSON()
	if err != nil {
		f.Fatal(err)
	}
	entry := descriptor(image.MediaTypeOCIManifest, manifest)
	entry.Annotations = map[string]string{image.RefNameAnnotation: "tag"}
	index, err := (&image.Index{MediaType: image.MediaTypeOCIIndex, Manifests: []image.Descriptor{entry}}).MarshalJSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(image.LayoutMark(), index, manifest, []byte(config), "tag")
	f.Add(image.LayoutMark(), index, []byte(nil), []byte(nil), "")
	f.Add(image.LayoutMark(), []byte(`{"schemaVersion":2,"manifests":[]}`), manifest, []byte(config), "x")
	f.Add([]byte(`{"imageLayoutVersion":"9"}`), index, index, index, "")
	f.Fuzz(func(t *testing.T, mark, index, manifest, config []byte, ref string) {
		blobs := [][]byte{manifest, config}
		all := []storetest.Entry{storetest.File(image.LayoutFile, string(mark)), storetest.File(image.LayoutIndexFile, string(index))}
		for _, b := range blobs {
			all = append(all, storetest.File(image.BlobPath(image.DigestOf(b)), string(b)))
		}
		l := inMemory(t, all...)
		parsed, file, err := l.Index()
		if err != nil {
			return
		}
		if file != nil {
			t.Error("the index of an archive has a file of its own")
		}
		chosen, err := Choose(parsed, ref, image.HostPlatform())
		if err != nil {
			return
		}
		if ref != "" && chosen.Annotations[image.RefNameAnnotation] != ref {
			t.Errorf("chose %v for %q", chosen, ref)
		}
		first, err := l.Document(t.Context(), chosen)
		if err != nil {
			return
		}
		found, err := fetch.Find(t.Context(), l, first, image.HostPlatform())
		if err == nil && found.Config != nil && (image.DigestOf(found.Config) != image.DigestOf(config) && image.DigestOf(found.Config) != image.DigestOf(manifest)) {
			t.Errorf("found the configuration %q", found.Config)
		}
	})
}

// An artifact has no configuration, so no document of it says what its layers are.
func TestDocumentsOfArtifactsProveNothing(t *testing.T) {
	weights := []byte("weights")
	layer := descriptor("application/x.weights", weights)
	layer.Annotations = map[string]string{"org.opencontainers.image.title": "w"}
	manifest := func(mediaType string, config []byte, layers ...image.Descriptor) []byte {
		body, err := (&image.Manifest{MediaType: image.MediaTypeOCIManifest, Config: descriptor(mediaType, config), Layers: layers}).MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	config := []byte(`{"os":"linux","rootfs":{"diff_ids":["` + image.DigestOf([]byte("another")).String() + `"]}}`)
	tar := descriptor("application/vnd.oci.image.layer.v1.tar", weights)
	id := strings.Repeat("0", 64)
	old := []byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"` + tar.Digest.String() + `"}],"history":[{"v1Compatibility":"{\"id\":\"` + id + `\"}"}]}`)
	for name, c := range map[string]struct{ entry, document []byte }{
		"an image, proven by an artifact": {manifest(image.MediaTypeOCIConfig, config, tar), manifest("application/x.config", config, layer)},
		"an artifact, proven by itself":   {manifest("application/x.config", nil, layer), manifest("application/x.config", nil, layer)},
		"an artifact, proven by an image": {manifest("application/x.config", nil, layer), manifest(image.MediaTypeOCIConfig, nil, tar)},
		"an artifact, by a schema 1":      {manifest("application/x.config", nil, layer), old},
	} {
		var all []storetest.Entry
		for _, b := range [][]byte{c.entry, c.document, config, weights, {}} {
			all = append(all, storetest.File(image.BlobPath(image.DigestOf(b)), string(b)))
		}
		entry := descriptor(image.MediaTypeOCIManifest, c.entry)
		list, err := json.Marshal([]image.Descriptor{descriptor("", c.document)})
		if err != nil {
			t.Fatal(err)
		}
		entry.Annotations = map[string]string{documentsAnnotation: string(list)}
		found, err := inMemory(t, all...).Find(t.Context(), entry, image.Name{}, image.HostPlatform())
		if !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), "is not that of the configuration") {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
	}
}

// Whatever documents come with an image, they are believed only if they lead to it.
func FuzzOrigin(f *testing.F) {
	config := `{"os":"linux","rootfs":{"diff_ids":[]}}`
	manifest, err := (&image.Manifest{MediaType: image.MediaTypeOCIManifest, Config: descriptor(image.MediaTypeOCIConfig, []byte(config))}).MarshalJSON()
	if err != nil {
		f.Fatal(err)
	}
	original := append([]byte("  "), manifest...)
	index, err := (&image.Index{MediaType: image.MediaTypeOCIIndex, Manifests: []image.Descriptor{descriptor(image.MediaTypeOCIManifest, original)}}).MarshalJSON()
	if err != nil {
		f.Fatal(err)
	}
	list := func(documents ...[]byte) string {
		var all []image.Descriptor
		for _, d := range documents {
			all = append(all, descriptor("", d))
		}
		text, err := json.Marshal(all)
		if err != nil {
			f.Fatal(err)
		}
		return string(text)
	}
	f.Add(list(index, original), index, original)
	f.Add(list(original), index, original)
	f.Add(list(original, index), index, original)
	f.Add(list(index, index, index), index, original)
	f.Add(`[{"size":-1}]`, []byte("{}"), original)
	f.Add(`{}`, index, []byte(nil))
	f.Fuzz(func(t *testing.T, annotation string, one, other []byte) {
		var all []storetest.Entry
		for _, b := range [][]byte{one, other, manifest, []byte(config)} {
			all = append(all, storetest.File(image.BlobPath(image.DigestOf(b)), string(b)))
		}
		entry := descriptor(image.MediaTypeOCIManifest, manifest)
		entry.Annotations = map[string]string{documentsAnnotation: annotation}
		name, err := image.ParseName("example.com/a@" + image.DigestOf(one).String())
		if err != nil {
			t.Fatal(err)
		}
		found, err := inMemory(t, all...).Find(t.Context(), entry, name, image.HostPlatform())
		if err != nil {
			return
		}
		parsed, err := image.ParseManifest("", found.Manifest)
		if err != nil || parsed.(*image.Manifest).Config.Digest != image.DigestOf([]byte(config)) {
			t.Errorf("believed the manifest %q", found.Manifest)
		}
		chain := slices.Concat(found.Indexes, [][]byte{found.Manifest})
		if !bytes.Equal(chain[0], one) {
			t.Errorf("believed that %q is what the name says", chain[0])
		}
	})
}
