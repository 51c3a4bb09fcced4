package docker

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/klauspost/compress/zstd"

	v1 "berth/api/v1"
	"berth/image"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner/store"
	"berth/provisioner/store/storetest"
	"berth/registry"
)

// newClient returns a client that gives up soon and knows no credentials.
func newClient() *registry.Client {
	return registry.NewClient(registry.Options{Keychain: &registry.DockerConfig{}, StallTimeout: 5 * time.Second, Attempts: 1})
}

// bench is a store on directories of its own.
type bench struct {
	*Store
	layers *layer.Store
	dir    string
	mu     sync.Mutex
	events []store.Event
}

func newBench(t testing.TB) *bench {
	t.Helper()
	testrig.RequireRoot(t)
	b := &bench{dir: testrig.TempDir(t)}
	b.layers = openLayers(t, filepath.Join(b.dir, "layers"))
	b.Store = openStore(t, b.dir, b.layers, func(e store.Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events = append(b.events, e)
	})
	return b
}

func openLayers(t testing.TB, dir string) *layer.Store {
	t.Helper()
	layers, err := layer.Open(dir, layer.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	return layers
}

func openStore(t testing.TB, dir string, layers *layer.Store, progress store.Progress) *Store {
	t.Helper()
	s, err := New(Options{Dir: filepath.Join(dir, "docker"), Layers: layers, Registry: newClient(), Progress: progress})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open opens the store anew, otherwise.
func (b *bench) open(t testing.TB, o Options) {
	t.Helper()
	o.Dir, o.Layers = filepath.Join(b.dir, "docker"), b.layers
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	b.Store = s
}

func named(name string) *v1.Image {
	return &v1.Image{Type: v1.Image_DOCKER.Enum(), Docker: &v1.Image_Docker{Name: &name}}
}

func forPlatform(img *v1.Image, platform string) *v1.Image {
	img.Platform = &platform
	return img
}

func uncached(img *v1.Image) *v1.Image {
	cached := false
	img.Cached = &cached
	return img
}

func (b *bench) pull(t testing.TB, img *v1.Image) storetest.Pulled {
	t.Helper()
	return storetest.Pull(t, b.Store, b.layers, img)
}

func (b *bench) fails(t testing.TB, img *v1.Image) error {
	t.Helper()
	return storetest.Fails(t, b.Store, b.layers, img)
}

func (b *bench) wantNothing(t testing.TB) {
	t.Helper()
	storetest.WantNothing(t, b.Store, b.layers)
}

// testRegistry is go-containerregistry's registry, behind a door that counts and lies.
type testRegistry struct {
	host   string // for the store under test
	direct string // for the tests: not counted
	inner  http.Handler
	mu     sync.Mutex
	log    []string
	answer func(http.ResponseWriter, *http.Request) bool
}

func newTestRegistry(t testing.TB) *testRegistry {
	t.Helper()
	r := &testRegistry{}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	r.inner = inner
	serve := func(h http.Handler) string {
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		return strings.TrimPrefix(server.URL, "http://")
	}
	r.direct = serve(inner)
	r.host = serve(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.log = append(r.log, req.URL.Path)
		answer := r.answer
		r.mu.Unlock()
		if answer == nil || !answer(w, req) {
			inner.ServeHTTP(w, req)
		}
	}))
	return r
}

// intercept lets f answer; false leaves the request to the registry.
func (r *testRegistry) intercept(f func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// requests returns the paths that were asked for and contain part.
func (r *testRegistry) requests(part string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.log), func(path string) bool { return !strings.Contains(path, part) })
}

func (r *testRegistry) send(t testing.TB, method, path, contentType string, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.direct+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		said, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %s: %s: %s", method, path, resp.Status, said)
	}
}

func (r *testRegistry) putBlob(t testing.TB, repository string, blob []byte) {
	t.Helper()
	r.send(t, http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+image.DigestOf(blob).String(), "application/octet-stream", blob)
}

// put pushes a document under a tag, or under its digest for an empty one.
func (r *testRegistry) put(t testing.TB, repository, tag, mediaType string, document []byte) image.Descriptor {
	t.Helper()
	d := image.Descriptor{MediaType: mediaType, Digest: image.DigestOf(document), Size: int64(len(document))}
	if tag == "" {
		tag = d.Digest.String()
	}
	r.send(t, http.MethodPut, "/v2/"+repository+"/manifests/"+tag, mediaType, document)
	return d
}

// madeImage is an image made by hand: each part of it can be wrong.
type madeImage struct {
	docker   bool   // in the formats of Docker, else of OCI
	platform string // "" is this host's; "none": not stated
	layers   []madeLayer
	diffIDs  []image.Digest                // nil: those of layers
	config   []byte                        // nil: made of the above
	edit     func(manifest map[string]any) // before it is pushed
}

type madeLayer struct {
	tar       []byte
	blob      []byte
	mediaType string
}

func plain(tar []byte) madeLayer {
	return madeLayer{tar, tar, "application/vnd.oci.image.layer.v1.tar"}
}

func gzipped(tar []byte) madeLayer {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(tar)
	must(errors.Join(err, w.Close()))
	return madeLayer{tar, out.Bytes(), "application/vnd.oci.image.layer.v1.tar+gzip"}
}

func zstandard(tar []byte) madeLayer {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out)
	must(err)
	_, err = w.Write(tar)
	must(errors.Join(err, w.Close()))
	return madeLayer{tar, out.Bytes(), "application/vnd.oci.image.layer.v1.tar+zstd"}
}

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

// configuration is the image's, with an environment that tells two images apart.
func (m madeImage) configuration() []byte {
	if m.config != nil {
		return m.config
	}
	config := map[string]any{
		"config": map[string]any{"Env": []string{"FOR=" + m.platform}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": m.ids()},
	}
	platform := image.HostPlatform()
	if m.platform != "" && m.platform != "none" {
		var err error
		platform, err = image.ParsePlatform(m.platform)
		must(err)
	}
	if m.platform != "none" {
		config["os"], config["architecture"] = platform.OS, platform.Architecture
		if platform.Variant != "" {
			config["variant"] = platform.Variant
		}
	}
	return toJSON(config)
}

func (m madeImage) ids() []image.Digest {
	if m.diffIDs != nil {
		return m.diffIDs
	}
	ids := []image.Digest{}
	for _, l := range m.layers {
		ids = append(ids, image.DigestOf(l.tar))
	}
	return ids
}

var dockerTypes = map[string]string{
	image.MediaTypeOCIManifest:                    image.MediaTypeDockerManifest,
	image.MediaTypeOCIConfig:                      image.MediaTypeDockerConfig,
	"application/vnd.oci.image.layer.v1.tar":      "application/vnd.docker.image.rootfs.diff.tar",
	"application/vnd.oci.image.layer.v1.tar+gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip",
	"application/vnd.oci.image.layer.v1.tar+zstd": "application/vnd.docker.image.rootfs.diff.tar.zstd",
}

func (m madeImage) mediaType(oci string) string {
	if docker, ok := dockerTypes[oci]; ok && m.docker {
		return docker
	}
	return oci
}

func (m madeImage) descriptor(mediaType string, blob []byte) map[string]any {
	return map[string]any{"mediaType": m.mediaType(mediaType), "digest": image.DigestOf(blob), "size": len(blob)}
}

// push makes the image and pushes it.
func (r *testRegistry) push(t testing.TB, repository, tag string, m madeImage) image.Descriptor {
	t.Helper()
	config := m.configuration()
	r.putBlob(t, repository, config)
	layers := []any{}
	for _, l := range m.layers {
		r.putBlob(t, repository, l.blob)
		layers = append(layers, m.descriptor(l.mediaType, l.blob))
	}
	manifest := map[string]any{
		"schemaVersion": 2,
		"mediaType":     m.mediaType(image.MediaTypeOCIManifest),
		"config":        m.descriptor(image.MediaTypeOCIConfig, config),
		"layers":        layers,
	}
	if m.edit != nil {
		m.edit(manifest)
	}
	return r.put(t, repository, tag, m.mediaType(image.MediaTypeOCIManifest), toJSON(manifest))
}

// entry is one of an index; without a platform it states none.
func entry(d image.Descriptor, platform string) image.Descriptor {
	if platform != "" {
		p, err := image.ParsePlatform(platform)
		must(err)
		d.Platform = &p
	}
	return d
}

func (r *testRegistry) pushIndex(t testing.TB, repository, tag, mediaType string, entries ...image.Descriptor) image.Descriptor {
	t.Helper()
	document := toJSON(&image.Index{MediaType: mediaType, Manifests: entries})
	return r.put(t, repository, tag, mediaType, document)
}

func (r *testRegistry) ref(format string, args ...any) *v1.Image {
	return named(r.host + "/" + fmt.Sprintf(format, args...))
}

// The conformance suite, over a registry; the layers are of each compression.
func TestRegistryConformance(t *testing.T) {
	storetest.Run(t, func(tb testing.TB, dir string) storetest.Source {
		r := newTestRegistry(tb)
		return storetest.Source{
			Open: func(tb testing.TB, layers *layer.Store, progress store.Progress) store.Store {
				return openStore(tb, dir, layers, progress)
			},
			Publish: func(tb testing.TB, name string, img storetest.Image) {
				m := madeImage{}
				wraps := []func([]byte) madeLayer{gzipped, zstandard, plain}
				for i, l := range img {
					m.layers = append(m.layers, wraps[i%len(wraps)](l))
				}
				r.push(tb, name, "latest", m)
			},
			Image:    func(name string) *v1.Image { return r.ref("%s", name) },
			Requests: func() int { return len(r.requests("")) },
		}
	})
}
