package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	v1 "berth/api/v1"
	"berth/image"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner/store"
	"berth/provisioner/store/fetch"
	"berth/provisioner/store/storetest"
)

var (
	layerA = storetest.Layer("a", 5000)
	layerB = storetest.Layer("b", 300_000)
	layerC = storetest.Layer("c", 700)
)

func digestsOf(layers ...[]byte) []image.Digest { return storetest.Image(layers).DiffIDs() }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func toJSON(v any) []byte {
	data, err := json.Marshal(v)
	must(err)
	return data
}

func gzipped(content []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(content)
	must(errors.Join(err, w.Close()))
	return out.Bytes()
}

func zstandard(content []byte) []byte {
	w, err := zstd.NewWriter(nil)
	must(err)
	return w.EncodeAll(content, nil)
}

// made is a layout made by hand, by the names of its files: each part of it can be wrong.
type made struct {
	files map[string][]byte
	index image.Index
}

func newMade() *made {
	return &made{files: map[string][]byte{image.LayoutFile: image.LayoutMark()}, index: image.Index{MediaType: image.MediaTypeOCIIndex}}
}

func (m *made) blob(mediaType string, content []byte) image.Descriptor {
	d := image.Descriptor{MediaType: mediaType, Digest: image.DigestOf(content), Size: int64(len(content))}
	m.files[image.BlobPath(d.Digest)] = content
	return d
}

func configuration(platform image.Platform, layers ...[]byte) []byte {
	return toJSON(&image.Config{Platform: platform, Run: image.RunConfig{Env: []string{"FOR=" + platform.String()}}, DiffIDs: digestsOf(layers...)})
}

// image adds the blobs of an image, whose layers are compressed in turn in each way.
func (m *made) image(platform image.Platform, layers ...[]byte) image.Descriptor {
	manifest := image.Manifest{MediaType: image.MediaTypeOCIManifest, Config: m.blob(image.MediaTypeOCIConfig, configuration(platform, layers...))}
	for i, l := range layers {
		switch i % 3 {
		case 0:
			manifest.Layers = append(manifest.Layers, m.blob("application/vnd.oci.image.layer.v1.tar+gzip", gzipped(l)))
		case 1:
			manifest.Layers = append(manifest.Layers, m.blob("application/vnd.oci.image.layer.v1.tar+zstd", zstandard(l)))
		case 2:
			manifest.Layers = append(manifest.Layers, m.blob("application/vnd.oci.image.layer.v1.tar", l))
		}
	}
	d := m.blob(image.MediaTypeOCIManifest, toJSON(&manifest))
	d.Platform = &platform
	return d
}

// name puts an entry into the index; ref may be empty.
func (m *made) name(ref string, d image.Descriptor) *made {
	if ref != "" {
		d.Annotations = map[string]string{image.RefNameAnnotation: ref}
	}
	m.index.Manifests = append(m.index.Manifests, d)
	m.files[image.LayoutIndexFile] = toJSON(&m.index)
	return m
}

// with adds or replaces a file.
func (m *made) with(name string, content []byte) *made {
	m.files[name] = content
	return m
}

// single is a layout of one image.
func single(layers ...[]byte) *made {
	m := newMade()
	return m.name("tag", m.image(image.HostPlatform(), layers...))
}

// write makes a directory of it, with index.json last and at once.
func (m *made) write(t testing.TB, dir string) {
	t.Helper()
	must(os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755))
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		if name != image.LayoutIndexFile {
			must(os.WriteFile(filepath.Join(dir, name), m.files[name], 0o644))
		}
	}
	if index, ok := m.files[image.LayoutIndexFile]; ok {
		replace(t, filepath.Join(dir, image.LayoutIndexFile), index)
	}
}

func replace(t testing.TB, path string, content []byte) {
	t.Helper()
	must(os.WriteFile(path+".new", content, 0o644))
	must(os.Rename(path+".new", path))
}

// tar makes an archive of it, with its members in the opposite order of their names: blobs
// that are needed last come first.
func (m *made) tar() []byte {
	var all []storetest.Entry
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(m.files))) {
		all = append(all, storetest.File(name, string(m.files[name])))
	}
	return storetest.Tar(all...)
}

func named(name string) *v1.Image {
	return &v1.Image{Type: v1.Image_OCI.Enum(), Oci: &v1.Image_Oci{Name: &name}}
}

func forPlatform(img *v1.Image, platform string) *v1.Image {
	img.Platform = &platform
	return img
}

// bench is a store on directories of its own.
type bench struct {
	*Store
	layers *layer.Store
	dir    string
}

func newBench(t testing.TB) *bench {
	t.Helper()
	testrig.RequireRoot(t)
	dir := testrig.TempDir(t)
	layers, err := layer.Open(filepath.Join(dir, "layers"), layer.DefaultLimits)
	must(err)
	return &bench{openStore(t, dir, layers, nil), layers, dir}
}

func openStore(t testing.TB, dir string, layers *layer.Store, progress store.Progress) *Store {
	t.Helper()
	s, err := New(fetch.Options{Dir: filepath.Join(dir, "oci"), Layers: layers, Progress: progress})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (b *bench) pull(t testing.TB, img *v1.Image) storetest.Pulled {
	t.Helper()
	return storetest.Pull(t, b.Store, b.layers, img)
}

func (b *bench) fails(t testing.TB, img *v1.Image) error {
	t.Helper()
	return storetest.Fails(t, b.Store, b.layers, img)
}

// opens counts how often files are opened.
type opens struct {
	watch int
	seen  int
}

func newOpens(t testing.TB) *opens {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(err)
	t.Cleanup(func() { unix.Close(fd) })
	return &opens{watch: fd}
}

func (o *opens) add(path string) {
	_, err := unix.InotifyAddWatch(o.watch, path, unix.IN_OPEN)
	must(err)
}

func (o *opens) count() int {
	buffer := make([]byte, 64<<10)
	n, err := unix.Read(o.watch, buffer)
	if err != unix.EAGAIN {
		must(err)
	}
	for at := 0; at < n; at += unix.SizeofInotifyEvent { // of a file, events have no name
		if event := buffer[at : at+unix.SizeofInotifyEvent]; event[4]&unix.IN_OPEN != 0 {
			o.seen++
		}
	}
	return o.seen
}
