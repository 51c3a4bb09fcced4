package docker

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/container"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store/fetch"
	"berth/provisioner/store/storetest"
)

// lose removes a layer from the store.
func (b *bench) lose(t testing.TB, layers ...[]byte) {
	t.Helper()
	for _, id := range digestsOf(layers...) {
		if err := os.RemoveAll(filepath.Join(b.layers.Dir(), "layers", id.String())); err != nil {
			t.Fatal(err)
		}
	}
}

// refetch fetches layers again, makes them visible and returns which they were.
func (b *bench) refetch(t testing.TB, layers ...[]byte) ([]image.Digest, error) {
	t.Helper()
	lease, err := b.layers.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lease.Release(); err != nil {
			t.Errorf("release: %v", err)
		}
		storetest.WantNoTrace(t, b.layers)
	}()
	fetched, failed := b.Refetch(t.Context(), layer.Tree, digestsOf(layers...), lease)
	if err := lease.Commit(t.Context()); err != nil {
		t.Errorf("commit: %v", err)
	}
	for _, id := range fetched {
		problems, err := b.layers.Check(t.Context(), id, layer.Tree)
		if err != nil || len(problems) > 0 {
			t.Errorf("layer %s: %v, %v", id, problems, err)
		}
	}
	return fetched, failed
}

// since returns what was asked for after the first n requests.
func (r *testRegistry) since(n int) []string { return r.requests("")[n:] }

func (r *testRegistry) blobPath(repository string, l madeLayer) string {
	return "/v2/" + repository + "/blobs/" + image.DigestOf(l.blob).String()
}

// failing answers requests for paths that end so with a status.
func failing(status int, suffix string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, req *http.Request) bool {
		if strings.HasSuffix(req.URL.Path, suffix) {
			w.WriteHeader(status)
			return true
		}
		return false
	}
}

// Whatever the tag names by now, the layer of the recorded image is fetched, with one
// request.
func TestRefetchAsksForTheBlobAlone(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	wanted := gzipped(layerB)
	r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerA), wanted, gzipped(layerC)}})
	b.pull(t, r.ref("a:1"))
	r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerA)}})
	b.lose(t, layerB, layerC)
	before := len(r.requests(""))
	fetched, err := b.refetch(t, layerB)
	if err != nil || !slices.Equal(fetched, digestsOf(layerB)) {
		t.Errorf("refetch: %v, %v", fetched, err)
	}
	if asked := r.since(before); !slices.Equal(asked, []string{r.blobPath("a", wanted)}) {
		t.Errorf("asked for %q, want the blob alone", asked)
	}
}

func TestRefetchTriesEveryPlaceOnce(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	blob := gzipped(layerB)
	r.push(t, "first", "1", madeImage{layers: []madeLayer{gzipped(layerA), blob}})
	r.push(t, "first", "2", madeImage{layers: []madeLayer{gzipped(layerC), blob}})
	r.push(t, "second", "1", madeImage{layers: []madeLayer{blob}})
	for _, name := range []string{"first:1", "first:2", "second:1"} {
		b.pull(t, r.ref("%s", name))
	}
	b.lose(t, layerB)
	r.intercept(failing(http.StatusNotFound, r.blobPath("first", blob)))
	before := len(r.requests(""))
	fetched, err := b.refetch(t, layerB)
	if err != nil || !slices.Equal(fetched, digestsOf(layerB)) {
		t.Errorf("refetch: %v, %v", fetched, err)
	}
	if asked := r.since(before); !slices.Equal(asked, []string{r.blobPath("first", blob), r.blobPath("second", blob)}) {
		t.Errorf("asked for %q", asked)
	}

	b.lose(t, layerB)
	r.intercept(failing(http.StatusBadGateway, image.DigestOf(blob.blob).String()))
	fetched, err = b.refetch(t, layerB)
	storetest.WantError(t, err, container.ErrUnavailable, "fetch again from "+r.host+"/first:1", "fetch again from "+r.host+"/second:1", "502")
	if len(fetched) > 0 {
		t.Errorf("fetched %v", fetched)
	}
}

func TestRefetchThatFailsForSomeLayers(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	bad := gzipped(layerB)
	r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerA), bad, gzipped(layerC)}})
	b.pull(t, r.ref("a:1"))
	b.lose(t, layerA, layerB, layerC)
	r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == r.blobPath("a", bad) {
			_, _ = w.Write(make([]byte, len(bad.blob)))
			return true
		}
		return false
	})
	fetched, err := b.refetch(t, layerA, layerB, layerC)
	storetest.WantError(t, err, container.ErrInvalid, "layer "+image.DigestOf(bad.blob).String())
	if slices.Sort(fetched); !slices.Equal(fetched, slices.Sorted(slices.Values(digestsOf(layerA, layerC)))) {
		t.Errorf("fetched %v, want the two others", fetched)
	}
}

func TestRefetchFromAnArchive(t *testing.T) {
	for name, layout := range layouts {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			file := filepath.Join(b.dir, "a.tar")
			writeArchive(t, file, layout(archivedImage("a:1", layerA, layerB)))
			b.pull(t, named("docker-archive:"+file))
			b.lose(t, layerA, layerB)
			fetched, err := b.refetch(t, layerB)
			if err != nil || !slices.Equal(fetched, digestsOf(layerB)) {
				t.Errorf("refetch: %v, %v", fetched, err)
			}
			writeArchive(t, file, layout(archivedImage("a:1", layerA, layerB)))
			_, err = b.refetch(t, layerA)
			storetest.WantError(t, err, container.ErrNotFound, "fetch again from docker-archive:"+file, "it has changed since the image was read")
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			_, err = b.refetch(t, layerA)
			storetest.WantError(t, err, container.ErrNotFound, file, "no such file")
		})
	}
}

func TestRefetchLeavesBrokenRecordsOut(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerA)}})
	r.push(t, "b", "1", madeImage{layers: []madeLayer{gzipped(layerB)}})
	b.pull(t, r.ref("a:1"))
	b.pull(t, r.ref("b:1"))
	b.lose(t, layerA, layerB)
	b.spoil(t, fetch.Key{Reference: mustParse(t, r.host+"/a:1")}, func([]byte) []byte { return nil })
	fetched, err := b.refetch(t, layerA, layerB)
	if err != nil || !slices.Equal(fetched, digestsOf(layerB)) {
		t.Errorf("refetch: %v, %v; want that of the image whose record is whole", fetched, err)
	}
}

// A recorded image stays what it was, as long as its source has what it lacks.
func TestARecordedImageThatLacksALayer(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	lost := gzipped(layerB)
	r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerA), lost}})
	pulled := b.pull(t, r.ref("a:1"))
	r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerC)}})
	b.lose(t, layerB)
	before := len(r.requests(""))
	found, err := b.Get(t.Context(), r.ref("a:1"), layer.Tree)
	if err != nil {
		t.Fatal(err)
	}
	if err := found.Release(); err != nil {
		t.Error(err)
	}
	if found.ID != pulled.ID || !found.Pulled.Equal(pulled.Pulled) {
		t.Errorf("the image is %+v, was %+v", found.Record, pulled.Record)
	}
	if asked := r.since(before); !slices.Equal(asked, []string{r.blobPath("a", lost)}) {
		t.Errorf("asked for %q, want the blob alone", asked)
	}
	storetest.WantWholeReport(t, found.Pull)
	if l := found.Pull.Layers; len(l) != 2 || l[0].Fetched || !l[1].Fetched || l[1].Blob != image.DigestOf(lost.blob) {
		t.Errorf("the report has the layers %+v", l)
	}
	b.pull(t, r.ref("a:1")) // checks the layers
}

// When the source has it no longer, the image is what its name means by now.
func TestARecordedImageWhoseLayerIsGone(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	lost := gzipped(layerB)
	r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerA), lost}})
	b.pull(t, r.ref("a:1"))
	r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerA), gzipped(layerC)}})
	b.lose(t, layerA, layerB)
	r.intercept(failing(http.StatusNotFound, r.blobPath("a", lost)))
	if got, want := b.pull(t, r.ref("a:1")), digestsOf(layerA, layerC); !slices.Equal(got.Record.Layers, want) {
		t.Errorf("layers are %v, want %v", got.Record.Layers, want)
	}

	b.lose(t, layerC)
	lost = gzipped(layerC)
	r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		return failing(http.StatusNotFound, r.blobPath("a", lost))(w, req) || failing(http.StatusForbidden, "/manifests/1")(w, req)
	})
	storetest.WantError(t, b.fails(t, r.ref("a:1")), container.ErrDenied,
		"fetch manifest", "403", "layer "+digestsOf(layerC)[0].String()+" is missing in the store", "404")
}

func TestARecordedImageWhoseSourceIsAway(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerA), gzipped(layerB)}})
	b.pull(t, r.ref("a:1"))
	b.lose(t, layerA, layerB)
	r.intercept(failing(http.StatusServiceUnavailable, ""))
	storetest.WantError(t, b.fails(t, r.ref("a:1")), container.ErrUnavailable,
		"pull "+r.host+"/a:1: ", "layer "+digestsOf(layerA)[0].String()+" is missing in the store, and 1 more", "503")
	if n := len(r.requests("/manifests/")); n != 1 {
		t.Errorf("%d requests for the manifest, want that of the first pull", n)
	}
	r.intercept(nil)
	b.pull(t, r.ref("a:1"))
}

func TestManyGetsOfAnImageThatLacksALayerFetchItOnce(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	lost := gzipped(layerB)
	r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerA), lost}})
	b.pull(t, r.ref("a:1"))
	b.lose(t, layerB)
	before := len(r.requests(""))
	done := make(chan error)
	for range 8 {
		go func() {
			found, err := b.Get(t.Context(), r.ref("a:1"), layer.Tree)
			if err == nil {
				err = found.Release()
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if asked := r.since(before); len(asked) != 1 {
		t.Errorf("asked for %q", asked)
	}
	storetest.WantNoTrace(t, b.layers)
}

// crash lets the machine go down with the store open, and comes back: what is in it is
// verified before it is used.
func (b *bench) crash(t testing.TB) {
	t.Helper()
	if err := b.layers.Close(); err != nil {
		t.Fatal(err)
	}
	session := filepath.Join(b.layers.Dir(), "session")
	if err := os.WriteFile(session, []byte("open   epoch session-before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.layers = openLayers(t, b.layers.Dir())
	b.Store = openStore(t, b.dir, b.layers, nil)
}

// flip changes a byte of a file in a layer.
func (b *bench) flip(t testing.TB, content []byte, name string) {
	t.Helper()
	path := filepath.Join(b.layers.Path(digestsOf(content)[0], layer.Tree), name)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestAnUncleanShutdownHasBrokenALayer(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	broken := gzipped(layerB)
	r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerA), broken}})
	pulled := b.pull(t, r.ref("a:1"))
	r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerC)}})
	b.flip(t, layerB, "b")
	b.crash(t)

	r.intercept(failing(http.StatusServiceUnavailable, ""))
	storetest.WantError(t, b.fails(t, r.ref("a:1")), container.ErrUnavailable, "pull "+r.host+"/a:1: ",
		"layer "+digestsOf(layerB)[0].String()+` in the store is broken ("b": `, "and it cannot be fetched again", "503")

	r.intercept(nil)
	before := len(r.requests(""))
	if again := b.pull(t, r.ref("a:1")); again.ID != pulled.ID {
		t.Errorf("the image is %s, was %s", again.ID, pulled.ID)
	}
	if asked := r.since(before); !slices.Equal(asked, []string{r.blobPath("a", broken)}) {
		t.Errorf("asked for %q, want the blob alone", asked)
	}
}
