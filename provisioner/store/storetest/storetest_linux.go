package storetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/filelock"
	"berth/internal/stages"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner/store"
)

// Source is a kind of images, and where its store gets them from.
type Source struct {
	// Open opens the store, whose records lie where they lay the last time. progress
	// is told of every layer.
	Open func(tb testing.TB, layers *layer.Store, progress store.Progress) store.Store
	// Publish puts an image under a name, in place of an earlier one.
	Publish func(tb testing.TB, name string, img Image)
	// Image is how to ask for the image of a name, published or not. Names are like
	// "alpha".
	Image func(name string) *v1.Image
	// Requests counts what a store wanted of the source so far.
	Requests func() int
}

// Run holds a store against the contract, with layers in each form. newSource is called for every rule; dir is
// new, and on the file system of the layers.
func Run(t *testing.T, newSource func(tb testing.TB, dir string) Source) {
	testrig.RequireRoot(t)
	for _, rule := range []struct {
		name string
		hold func(*testing.T, *rig)
	}{
		{"Get returns the layers in order and visible", testOrder},
		{"a layer that occurs twice keeps its upper place", testDuplicates},
		{"layers are held until Release and swept after Remove", testHeld},
		{"a cached image needs no source", testCached},
		{"Use records an image that is there, and no other", testUse},
		{"without Cached the source is asked and only what is absent is fetched", testNotCached},
		{"a layer that went missing is fetched again", testMissingLayer},
		{"images survive reopening", testReopen},
		{"List is ordered and Remove forgets", testListRemove},
		{"Forget forgets what it is told", testForget},
		{"Refetch stages what images have", testRefetch},
		{"Refetch mends a layer that is in use", testRefetchSupersedes},
		{"Refetch that is cancelled leaves nothing", testRefetchCancelled},
		{"only a pull has a report", testReport},
		{"an unknown image is not found", testUnknown},
		{"an image of another type is invalid", testOtherType},
		{"one store gets an image eight times at once", testConcurrentGets},
		{"two stores get an image at once", testTwoStores},
		{"a Get that is cancelled leaves nothing", testCancelled},
		{"a layer that is no tar fails the image", testBadLayer},
		{"the record comes after the layers", testRecordLast},
	} {
		for _, form := range []layer.Form{layer.Tree, layer.EROFS} {
			t.Run(rule.name+" as "+string(form), func(t *testing.T) {
				r := newRig(t, newSource)
				r.form = form
				rule.hold(t, r)
				r.wantNoTrace(t)
			})
		}
	}
}

// rig is a store under test.
type rig struct {
	Source
	form   layer.Form
	layers *layer.Store
	store  store.Store
	mu     sync.Mutex
	events []store.Event
	// on is called for each event, too.
	on func(store.Event)
}

func newRig(t *testing.T, newSource func(testing.TB, string) Source) *rig {
	t.Helper()
	dir := testrig.TempDir(t)
	r := &rig{Source: newSource(t, dir), on: func(store.Event) {}}
	r.layers = openLayers(t, filepath.Join(dir, "layers"))
	r.store = r.Open(t, r.layers, r.progress)
	return r
}

func openLayers(t *testing.T, dir string) *layer.Store {
	t.Helper()
	layers, err := layer.Open(dir, layer.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	return layers
}

func (r *rig) progress(e store.Event) {
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	r.on(e)
}

// fetched counts the layers that were fetched since the last call.
func (r *rig) fetched() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := make(map[image.Digest]bool)
	for _, e := range r.events {
		if e.Stage == store.Fetching {
			seen[e.Layer] = true
		}
	}
	r.events = nil
	return len(seen)
}

// publish puts an image to the source and returns how to ask for it.
func (r *rig) publish(t *testing.T, name string, img Image) *v1.Image {
	t.Helper()
	r.Publish(t, name, img)
	return r.Image(name)
}

// get fails the test unless the image can be had.
func (r *rig) get(t *testing.T, img *v1.Image) *store.Image {
	t.Helper()
	found, err := r.store.Get(t.Context(), img, r.form)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	return found
}

// getFails returns why the image cannot be had, and proves that nothing was recorded.
func (r *rig) getFails(ctx context.Context, t *testing.T, img *v1.Image) error {
	t.Helper()
	found, err := r.store.Get(ctx, img, r.form)
	if err == nil {
		release(t, found)
		t.Fatal("get: no error")
	}
	r.wantRecorded(t)
	return err
}

// pull gets an image and releases it.
func (r *rig) pull(t *testing.T, img *v1.Image) {
	t.Helper()
	release(t, r.get(t, img))
}

func release(t *testing.T, found *store.Image) {
	t.Helper()
	if err := found.Release(); err != nil {
		t.Errorf("release: %v", err)
	}
}

// wantRecorded compares List with the references of images, in order.
func (r *rig) wantRecorded(t *testing.T, want ...string) {
	t.Helper()
	recorded, err := r.store.List(t.Context())
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	var got []string
	for _, rec := range recorded {
		got = append(got, rec.Reference)
	}
	if !slices.Equal(got, want) {
		t.Errorf("recorded are %q, want %q", got, want)
	}
}

// wantWhole says that the layers are visible and have their digests.
func (r *rig) wantWhole(t *testing.T, ids []image.Digest) {
	t.Helper()
	for _, id := range ids {
		problems, err := r.layers.Check(t.Context(), id, r.form)
		if err != nil {
			t.Errorf("layer %s: %v", id, err)
		}
		for _, p := range problems {
			t.Errorf("layer %s: %s", id, p)
		}
	}
}

// sweep removes what no recorded image has and returns how many layers that were.
func (r *rig) sweep(t *testing.T) int {
	t.Helper()
	swept, err := r.layers.Sweep(t.Context(), func(map[image.Digest]bool) (layer.Decision, error) {
		keep := make(map[image.Digest]bool)
		recorded, err := r.store.List(t.Context())
		for _, rec := range recorded {
			for _, id := range rec.Layers {
				keep[id] = true
			}
		}
		return layer.Decision{Keep: keep}, err
	})
	if err != nil {
		t.Fatalf("sweep: %v", err)
	}
	return len(swept.Layers)
}

// wantNoTrace says that nothing is left of what was under way.
func (r *rig) wantNoTrace(t *testing.T) {
	t.Helper()
	for _, sub := range []string{"staging", "leases"} {
		left, err := os.ReadDir(filepath.Join(r.layers.Dir(), sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range left {
			t.Errorf("left behind: %s/%s", sub, e.Name())
		}
	}
}

// uncached is img without its leave to use what is recorded.
func uncached(img *v1.Image) *v1.Image {
	img = proto.CloneOf(img)
	img.Cached = proto.Bool(false)
	return img
}

// Sizes differ, so that fetching by size is not in order.
var threeLayers = Image{Layer("base", 1000), Layer("middle", 300_000), Layer("top", 40_000)}

func testOrder(t *testing.T, r *rig) {
	found := r.get(t, r.publish(t, "alpha", threeLayers))
	defer release(t, found)
	if want := threeLayers.DiffIDs(); !slices.Equal(found.Layers, want) {
		t.Errorf("layers are %v, want %v", found.Layers, want)
	}
	if found.Config == nil || found.ID == "" {
		t.Errorf("config %v, id %q", found.Config, found.ID)
	}
	r.wantWhole(t, found.Layers)
	for i, file := range []string{"base", "middle", "top"} {
		if r.form != layer.Tree {
			file = layer.TarFile
		}
		if _, err := os.Stat(filepath.Join(r.layers.Path(found.Layers[i], r.form), file)); err != nil {
			t.Error(err)
		}
	}
	r.wantRecorded(t, found.Reference)
}

func testDuplicates(t *testing.T, r *rig) {
	a, b := Layer("a", 1000), Layer("b", 1000)
	found := r.get(t, r.publish(t, "alpha", Image{a, b, a}))
	defer release(t, found)
	if want := (Image{b, a}).DiffIDs(); !slices.Equal(found.Layers, want) {
		t.Errorf("layers of [a b a] are %v, want [b a]: %v", found.Layers, want)
	}
}

func testHeld(t *testing.T, r *rig) {
	img := r.publish(t, "alpha", threeLayers)
	for _, how := range []string{"pulled", "cached"} {
		found := r.get(t, img)
		if how == "cached" {
			if err := r.store.Remove(t.Context(), img); err != nil {
				t.Fatal(err)
			}
		}
		if n := r.sweep(t); n != 0 {
			t.Errorf("%s: a sweep took %d layers of an image that is not released", how, n)
		}
		r.wantWhole(t, found.Layers)
		release(t, found)
	}
	if n := r.sweep(t); n != len(threeLayers) {
		t.Errorf("a sweep took %d layers of an image that is released and removed, want %d", n, len(threeLayers))
	}
}

func testCached(t *testing.T, r *rig) {
	img := r.publish(t, "alpha", threeLayers)
	r.pull(t, img)
	if n := r.fetched(); n != len(threeLayers) {
		t.Errorf("the first Get fetched %d layers", n)
	}
	before := r.Requests()
	if before == 0 {
		t.Fatal("the source counts no requests")
	}
	found := r.get(t, img)
	defer release(t, found)
	if after := r.Requests(); after != before || r.fetched() != 0 {
		t.Errorf("the second Get made %d requests", after-before)
	}
	if want := threeLayers.DiffIDs(); !slices.Equal(found.Layers, want) {
		t.Errorf("layers are %v, want %v", found.Layers, want)
	}
}

func testUse(t *testing.T, r *rig) {
	img := r.publish(t, "alpha", threeLayers)
	var records []store.Record
	use := func(img *v1.Image) *store.Image {
		t.Helper()
		records = nil
		found, infos, err := r.store.Use(t.Context(), img, r.form, func(rec store.Record) error {
			records = append(records, rec)
			return nil
		})
		if err != nil || (found != nil) != (len(records) == 1) || (found != nil) != (infos != nil) {
			t.Fatalf("Use returns %v, %v, %v and has recorded %v", found, infos, err, records)
		}
		for i, info := range infos {
			if info.DiffID != found.Layers[i] {
				t.Errorf("layer %d is %s, want %s", i, info.DiffID, found.Layers[i])
			}
		}
		return found
	}
	if use(img) != nil {
		t.Error("an image is used that is not there")
	}
	got := r.get(t, img)
	release(t, got)
	before := r.Requests()
	found := use(img)
	if found == nil {
		t.Fatal("the image is there, and not used")
	}
	for _, rec := range []store.Record{found.Record, records[0]} {
		if rec.Reference != got.Reference || rec.ID != got.ID || !slices.Equal(rec.Layers, got.Layers) {
			t.Errorf("used is %+v, got was %+v", rec, got.Record)
		}
	}
	if !slices.Equal(found.Config.DiffIDs, got.Config.DiffIDs) {
		t.Errorf("the configuration is %+v, want %+v", found.Config, got.Config)
	}
	release(t, found)
	failure := errors.New("it cannot be recorded")
	if found, _, err := r.store.Use(t.Context(), img, r.form, func(store.Record) error { return failure }); found != nil || !errors.Is(err, failure) {
		t.Errorf("Use returns %v, %v", found, err)
	}
	if use(uncached(r.Image("alpha"))) != nil {
		t.Error("an image is used of which the source is to be asked")
	}
	if err := os.Rename(filepath.Join(r.layers.Dir(), "layers", string(got.Layers[1])), filepath.Join(r.layers.Dir(), "elsewhere")); err != nil {
		t.Fatal(err)
	}
	if use(img) != nil {
		t.Error("an image is used that lacks a layer")
	}
	if after := r.Requests(); after != before {
		t.Errorf("the source was asked %d times", after-before)
	}
}

func testNotCached(t *testing.T, r *rig) {
	r.pull(t, r.publish(t, "alpha", threeLayers))
	r.fetched()
	before := r.Requests()
	r.pull(t, uncached(r.Image("alpha")))
	if n := r.fetched(); n != 0 || r.Requests() == before {
		t.Errorf("of the same image %d layers were fetched, with %d requests", n, r.Requests()-before)
	}
	grown := append(slices.Clone(threeLayers), Layer("more", 1000))
	found := r.get(t, uncached(r.publish(t, "alpha", grown)))
	defer release(t, found)
	if n := r.fetched(); n != 1 {
		t.Errorf("of an image with one more layer %d layers were fetched", n)
	}
	if want := grown.DiffIDs(); !slices.Equal(found.Layers, want) {
		t.Errorf("layers are %v, want %v", found.Layers, want)
	}
	r.wantRecorded(t, found.Reference)
}

func testMissingLayer(t *testing.T, r *rig) {
	img := r.publish(t, "alpha", threeLayers)
	r.pull(t, img)
	r.fetched()
	lost := threeLayers.DiffIDs()[1]
	if err := os.RemoveAll(filepath.Join(r.layers.Dir(), "layers", lost.String())); err != nil {
		t.Fatal(err)
	}
	found := r.get(t, img)
	defer release(t, found)
	if n := r.fetched(); n != 1 {
		t.Errorf("%d layers were fetched, want the one that was missing", n)
	}
	r.wantWhole(t, found.Layers)
}

func testReopen(t *testing.T, r *rig) {
	img := r.publish(t, "alpha", threeLayers)
	first := r.get(t, img)
	release(t, first)
	before := r.Requests()
	r.layers = openLayers(t, r.layers.Dir())
	r.store = r.Open(t, r.layers, r.progress)
	found := r.get(t, img)
	defer release(t, found)
	if n := r.Requests() - before; n != 0 {
		t.Errorf("a store that was opened again made %d requests", n)
	}
	if !slices.Equal(found.Layers, first.Layers) || found.ID != first.ID || !found.Pulled.Equal(first.Pulled) {
		t.Errorf("got %+v, recorded was %+v", found.Record, first.Record)
	}
}

func testListRemove(t *testing.T, r *rig) {
	r.wantRecorded(t)
	var references []string
	for _, name := range []string{"gamma", "alpha", "beta"} {
		found := r.get(t, r.publish(t, name, Image{Layer("same", 1000), Layer(name, 1000)}))
		references = append(references, found.Reference)
		release(t, found)
	}
	slices.Sort(references)
	r.wantRecorded(t, references...)
	if err := r.store.Remove(t.Context(), r.Image("alpha")); err != nil {
		t.Fatal(err)
	}
	r.wantRecorded(t, references[1:]...)
	if err := r.store.Remove(t.Context(), r.Image("alpha")); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("removed a second time: %v", err)
	}
	if n := r.sweep(t); n != 1 {
		t.Errorf("a sweep took %d layers, want the one that no other image has", n)
	}
	r.pull(t, r.Image("alpha"))
	r.wantRecorded(t, references...)
}

func testForget(t *testing.T, r *rig) {
	for _, name := range []string{"alpha", "beta", "gamma"} {
		r.pull(t, r.publish(t, name, Image{Layer("same", 1000), Layer(name, 1000)}))
	}
	recorded, err := r.store.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // once more is no error
		if err := r.store.Forget(t.Context(), recorded[:2]); err != nil {
			t.Errorf("forget: %v", err)
		}
		r.wantRecorded(t, recorded[2].Reference)
	}
	if err := r.store.Sync(); err != nil {
		t.Errorf("sync: %v", err)
	}
	r.store = r.Open(t, r.layers, r.progress)
	r.wantRecorded(t, recorded[2].Reference)
	if n := r.sweep(t); n != 2 {
		t.Errorf("a sweep took %d layers, want those that only the forgotten images had", n)
	}
	r.pull(t, r.Image("alpha"))
	r.wantRecorded(t, recorded[0].Reference, recorded[2].Reference)
}

// lease is given back at the end of the test, before its traces are looked for.
func (r *rig) lease(t *testing.T) (lease *layer.Lease, giveBack func()) {
	t.Helper()
	lease, err := r.layers.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return lease, func() {
		if err := lease.Release(); err != nil {
			t.Errorf("release: %v", err)
		}
	}
}

func testRefetch(t *testing.T, r *rig) {
	r.pull(t, r.publish(t, "alpha", threeLayers))
	r.pull(t, r.publish(t, "beta", Image{threeLayers[0], Layer("other", 1000)}))
	r.fetched()
	ids := threeLayers.DiffIDs()
	for _, id := range ids[:2] {
		if err := os.RemoveAll(filepath.Join(r.layers.Dir(), "layers", id.String())); err != nil {
			t.Fatal(err)
		}
	}
	lease, giveBack := r.lease(t)
	defer giveBack()
	fetched, err := r.store.Refetch(t.Context(), r.form, []image.Digest{ids[1], image.DigestOf([]byte("of no image")), ids[0], ids[1]}, lease)
	if err != nil {
		t.Fatalf("refetch: %v", err)
	}
	if slices.Sort(fetched); !slices.Equal(fetched, slices.Sorted(slices.Values(ids[:2]))) {
		t.Errorf("fetched %v, want each of %v once", fetched, ids[:2])
	}
	if n := r.fetched(); n != 2 {
		t.Errorf("%d layers were fetched, want the two", n)
	}
	for _, id := range ids[:2] {
		if _, err := r.layers.Info(id, r.form); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("the layer %s is visible before the commit: %v", id, err)
		}
	}
	if err := lease.Commit(t.Context()); err != nil {
		t.Fatalf("commit: %v", err)
	}
	r.wantWhole(t, ids)
}

func testRefetchSupersedes(t *testing.T, r *rig) {
	found := r.get(t, r.publish(t, "alpha", threeLayers))
	defer release(t, found)
	id := threeLayers.DiffIDs()[1]
	file := filepath.Join(r.layers.Path(id, r.form), map[layer.Form]string{layer.Tree: "middle", layer.EROFS: layer.TarFile}[r.form])
	if err := os.WriteFile(file, []byte("spoilt"), 0o644); err != nil {
		t.Fatal(err)
	}
	lease, giveBack := r.lease(t)
	defer giveBack()
	lease.Supersede(r.form, id)
	fetched, err := r.store.Refetch(t.Context(), r.form, []image.Digest{id}, lease)
	if err != nil || !slices.Equal(fetched, []image.Digest{id}) {
		t.Fatalf("refetch: %v, %v", fetched, err)
	}
	if err := lease.Commit(t.Context()); err != nil {
		t.Fatalf("commit: %v", err)
	}
	r.wantWhole(t, threeLayers.DiffIDs())
}

func testRefetchCancelled(t *testing.T, r *rig) {
	r.pull(t, r.publish(t, "alpha", threeLayers))
	lease, giveBack := r.lease(t)
	defer giveBack()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fetched, err := r.store.Refetch(ctx, r.form, threeLayers.DiffIDs(), lease)
	if !errors.Is(err, context.Canceled) || len(fetched) > 0 {
		t.Errorf("refetch: %v, %v; want it cancelled", fetched, err)
	}
}

// A store may leave out the report, as it may fetch nothing; one that it gives adds up.
func testReport(t *testing.T, r *rig) {
	img := r.publish(t, "alpha", threeLayers)
	pulled := r.get(t, img)
	defer release(t, pulled)
	if pulled.Pull != nil {
		WantWholeReport(t, pulled.Pull)
		if len(pulled.Pull.Layers) != len(threeLayers) {
			t.Errorf("the report has %d layers", len(pulled.Pull.Layers))
		}
	}
	cached := r.get(t, img)
	defer release(t, cached)
	if cached.Pull != nil {
		t.Errorf("an image that was there has the report of a pull: %+v", cached.Pull)
	}
}

// WantWholeReport holds a report against its promise: the stages add up.
func WantWholeReport(t testing.TB, report *store.PullReport) {
	t.Helper()
	if sum := stages.Sum(report.Stages); sum != report.Total || sum <= 0 {
		t.Errorf("the stages of the pull take %s, the pull %s: %v", sum, report.Total, report.Stages)
	}
	at := slices.IndexFunc(report.Stages, func(s stages.Spent) bool { return s.Stage == stages.Fetch })
	if at < 0 {
		t.Fatalf("no stage %q among %v", stages.Fetch, report.Stages)
	}
	for _, l := range report.Layers {
		switch sum := stages.Sum(l.Stages); {
		case !l.Fetched && l.Stages != nil:
			t.Errorf("the layer %s was not fetched and has stages: %v", l.Layer, l.Stages)
		case l.Fetched && sum != report.Stages[at].Time:
			t.Errorf("the stages of layer %s take %s, the fetch %s: %v", l.Layer, sum, report.Stages[at].Time, l.Stages)
		}
	}
}

func testUnknown(t *testing.T, r *rig) {
	if err := r.getFails(t.Context(), t, r.Image("unheard")); !errors.Is(err, container.ErrNotFound) || !strings.Contains(err.Error(), "unheard") {
		t.Errorf("get: %v; want the name, not found", err)
	}
	if err := r.store.Remove(t.Context(), r.Image("unheard")); !errors.Is(err, container.ErrNotFound) || !strings.Contains(err.Error(), "unheard") {
		t.Errorf("remove: %v; want the name, not found", err)
	}
}

func testOtherType(t *testing.T, r *rig) {
	img := r.publish(t, "alpha", threeLayers)
	other := v1.Image_APPC
	if img.GetType() == other {
		other = v1.Image_DOCKER
	}
	img.Type = other.Enum()
	if err := r.getFails(t.Context(), t, img); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("get: %v; want it invalid", err)
	}
	if err := r.store.Remove(t.Context(), img); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("remove: %v; want it invalid", err)
	}
}

func testConcurrentGets(t *testing.T, r *rig) {
	r.getAtOnce(t, []store.Store{r.store}, 8)
}

func testTwoStores(t *testing.T, r *rig) {
	other := r.Open(t, openLayers(t, r.layers.Dir()), r.progress)
	r.getAtOnce(t, []store.Store{r.store, other}, 4)
}

// getAtOnce gets one image n times from each of the stores.
func (r *rig) getAtOnce(t *testing.T, stores []store.Store, n int) {
	t.Helper()
	img := r.publish(t, "alpha", threeLayers)
	begin := make(chan struct{})
	var all sync.WaitGroup
	for _, s := range stores {
		for range n {
			all.Go(func() {
				<-begin
				found, err := s.Get(t.Context(), img, r.form)
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				defer release(t, found)
				if want := threeLayers.DiffIDs(); !slices.Equal(found.Layers, want) {
					t.Errorf("layers are %v, want %v", found.Layers, want)
				}
				for _, id := range found.Layers {
					if _, err := r.layers.Info(id, r.form); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	close(begin)
	all.Wait()
	r.wantWhole(t, threeLayers.DiffIDs())
}

func testCancelled(t *testing.T, r *rig) {
	big := Image{Layer("a", 3<<20), Layer("b", 3<<20), Layer("c", 3<<20)}
	img := r.publish(t, "alpha", big)
	ctx, cancel := context.WithCancel(t.Context())
	r.on = func(e store.Event) {
		if e.Stage == store.Fetching {
			cancel()
		}
	}
	if err := r.getFails(ctx, t, img); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v; want it cancelled", err)
	}
	r.wantNoTrace(t)
	for _, id := range big.DiffIDs() {
		if _, err := r.layers.Info(id, r.form); err == nil {
			t.Errorf("the layer %s is visible", id)
		}
	}
	r.on = func(store.Event) {}
	r.pull(t, img)
	r.wantWhole(t, big.DiffIDs())
}

func testBadLayer(t *testing.T, r *rig) {
	bad := Image{Layer("base", 1000), []byte(strings.Repeat("This is no tar. ", 10_000)), Layer("top", 1000)}
	err := r.getFails(t.Context(), t, r.publish(t, "alpha", bad))
	if !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), "alpha") || !strings.Contains(err.Error(), "layer") {
		t.Errorf("get: %v; want the image, the layer and that it is invalid", err)
	}
	r.wantNoTrace(t)
	visible, err := r.layers.List()
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(visible, bad.DiffIDs()[1]) {
		t.Error("a layer that is no tar is visible")
	}
	r.wantWhole(t, visible)
	good := Image{bad[0], bad[2]}
	r.pull(t, r.publish(t, "alpha", good))
	r.wantWhole(t, good.DiffIDs())
}

// The layers cannot become visible while somebody else has the lock of the layer
// store. It is taken when all of them are unpacked, and then the Get is cancelled: a record
// that did not wait for its layers would be there.
func testRecordLast(t *testing.T, r *rig) {
	img := r.publish(t, "alpha", threeLayers)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	unpacked := 0
	var lock *filelock.Lock
	r.on = func(e store.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Stage == store.Unpacked {
			unpacked++
		}
		if e.Stage != store.Unpacked || unpacked < len(threeLayers) {
			return
		}
		var err error
		if lock, err = filelock.Acquire(t.Context(), filepath.Join(r.layers.Dir(), "lock"), filelock.Exclusive); err != nil {
			t.Errorf("lock the layers: %v", err)
		}
		cancel()
	}
	if err := r.getFails(ctx, t, img); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v; want it cancelled", err)
	}
	if unpacked != len(threeLayers) || lock == nil {
		t.Fatalf("%d layers were unpacked", unpacked)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	r.on = func(store.Event) {}
	r.pull(t, img)
	r.wantWhole(t, threeLayers.DiffIDs())
}
