package appc

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/image"
	"berth/image/appc"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner/store"
	"berth/provisioner/store/fetch"
	"berth/provisioner/store/storetest"
	"berth/registry"
)

const domain = "example.com/"

func newWeb() *registry.Client {
	return registry.NewClient(registry.Options{StallTimeout: 5 * time.Second})
}

// bench is a store on directories of its own, and a server of images.
type bench struct {
	*Store
	*testrig.ACIServer
	dir    string
	layers *layer.Store
	mu     sync.Mutex
	events []store.Event
}

// newBench opens a store; change may change its options.
func newBench(t testing.TB, change ...func(*Options)) *bench {
	t.Helper()
	testrig.RequireRoot(t)
	b := &bench{dir: testrig.TempDir(t), ACIServer: testrig.NewACIServer(t)}
	b.open(t, change...)
	return b
}

// open opens the store anew.
func (b *bench) open(t testing.TB, change ...func(*Options)) {
	t.Helper()
	layers, err := layer.Open(filepath.Join(b.dir, "layers"), layer.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	b.layers = layers
	o := Options{Options: fetch.Options{Dir: filepath.Join(b.dir, "appc"), Layers: layers, Progress: func(e store.Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events = append(b.events, e)
	}}, Web: newWeb(), Prefix: b.Prefix}
	for _, f := range change {
		f(&o)
	}
	if b.Store, err = New(o); err != nil {
		t.Fatal(err)
	}
}

// manifest is one in the making.
type manifest map[string]any

func named(name string, change ...func(manifest)) manifest {
	m := manifest{"acKind": "ImageManifest", "acVersion": "0.8.11", "name": domain + name}
	for _, f := range change {
		f(m)
	}
	return m
}

func with(key string, value any) func(manifest) { return func(m manifest) { m[key] = value } }

// on makes an image depend on others, by name.
func on(names ...string) func(manifest) {
	var all []any
	for _, name := range names {
		all = append(all, map[string]any{"imageName": domain + name})
	}
	return with("dependencies", all)
}

func file(name, content string) testrig.ACIEntry { return testrig.ACIFile("rootfs/"+name, content) }

// place is where simple discovery looks for an image.
func place(name, version string) string {
	return domain + name + "-" + version + "-linux-" + testrig.ACIArch() + ".aci"
}

// publish packs an image and serves it.
func (b *bench) publish(t testing.TB, m manifest, entries ...testrig.ACIEntry) []byte {
	t.Helper()
	aci := testrig.ACI(t, m, entries...)
	b.Put(place(strings.TrimPrefix(m["name"].(string), domain), "latest"), aci)
	return aci
}

// ask is how to ask for an image.
func ask(name string) *v1.Image {
	return &v1.Image{Type: v1.Image_APPC.Enum(), Appc: &v1.Image_Appc{Name: proto.String(domain + name)}}
}

func uncached(img *v1.Image) *v1.Image {
	img.Cached = proto.Bool(false)
	return img
}

func (b *bench) pull(t testing.TB, img *v1.Image) storetest.Pulled {
	t.Helper()
	defer b.wantOnlyRecords(t)
	return storetest.Pull(t, b.Store, b.layers, img)
}

func (b *bench) fails(t testing.TB, img *v1.Image) error {
	t.Helper()
	defer b.wantOnlyRecords(t)
	return storetest.Fails(t, b.Store, b.layers, img)
}

// wantOnlyRecords says that nothing is left among the records, where they are made.
func (b *bench) wantOnlyRecords(t testing.TB) {
	t.Helper()
	if unknown, err := b.Unknown(); err != nil || len(unknown) > 0 {
		t.Errorf("left behind: %q, %v", unknown, err)
	}
}

func (b *bench) wantNothing(t testing.TB) {
	t.Helper()
	storetest.WantNothing(t, b.Store, b.layers)
}

// seen is what a container of the image sees below its root: the content of the files, by
// name.
func (b *bench) seen(t testing.TB, layers []image.Digest) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, id := range layers {
		root := b.layers.Path(id, layer.Tree)
		err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			name, _ := filepath.Rel(root, path)
			if !d.Type().IsRegular() {
				all[name] = d.Type().String()
				return nil
			}
			content, err := os.ReadFile(path)
			all[name] = string(content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// inRootfs are the entries of a layer's tar as those of an image; nil for what is no tar.
func inRootfs(layer []byte) (entries []testrig.ACIEntry) {
	r := tar.NewReader(bytes.NewReader(layer))
	for {
		hdr, err := r.Next()
		if err != nil {
			return entries
		}
		content, _ := io.ReadAll(r)
		e := testrig.ACIEntry{Header: *hdr, Content: string(content)}
		e.Name, e.Format = "rootfs/"+hdr.Name, tar.FormatUnknown
		entries = append(entries, e)
	}
}

// TestConformance has the topmost layer in the image itself and the others in images that
// it depends on, one compressed by each program.
func TestConformance(t *testing.T) {
	storetest.Run(t, func(tb testing.TB, dir string) storetest.Source {
		server := testrig.NewACIServer(tb)
		pack := func(m manifest, layer []byte, n int) {
			aci := layer
			if entries := inRootfs(layer); entries != nil {
				aci = testrig.ACI(tb, m, entries...)
			}
			if program := []string{"gzip", "", "xz", "bzip2"}[n%4]; program != "" {
				aci = testrig.Compress(tb, program, aci)
			}
			server.Put(place(strings.TrimPrefix(m["name"].(string), domain), "latest"), aci)
		}
		return storetest.Source{
			Open: func(tb testing.TB, layers *layer.Store, progress store.Progress) store.Store {
				s, err := New(Options{Options: fetch.Options{Dir: filepath.Join(dir, "appc"), Layers: layers, Progress: progress}, Web: newWeb(), Prefix: server.Prefix})
				if err != nil {
					tb.Fatal(err)
				}
				return s
			},
			Publish: func(tb testing.TB, name string, img storetest.Image) {
				var below []string
				for n, l := range img[:len(img)-1] {
					part := fmt.Sprintf("part-%x", sha256.Sum256(l))
					pack(named(part), l, n)
					below = append(below, part)
				}
				pack(named(name, on(below...)), img[len(img)-1], len(img)-1)
			},
			Image:    ask,
			Requests: func() int { return len(server.Requests()) },
		}
	})
}

// idOf is the id of an uncompressed image.
func idOf(aci []byte) string { return appc.IDOf(aci).String() }
