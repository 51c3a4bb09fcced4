package provisioner_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store"
)

// ledger is a store of the bench's images that records them for each platform, and some
// of whose records cannot be read.
type ledger struct {
	store.Store // has the layers

	mu         sync.Mutex
	records    []store.Record
	unreadable []*store.RecordError
	asked      []string         // what for, in order
	failing    map[string]error // by what it is asked for
}

// newLedger makes a bench whose store is a ledger.
func newLedger(t testing.TB, backendName string) (*bench, *ledger) {
	t.Helper()
	b := newBench(t, backendName)
	l := &ledger{Store: b.Stores[v1.Image_DOCKER], failing: make(map[string]error)}
	b.Stores[v1.Image_DOCKER] = l
	return b, l
}

func (l *ledger) ask(what string) error {
	l.asked = append(l.asked, what)
	return l.failing[what]
}

// takeAsked returns what the ledger was asked for since the last call.
func (l *ledger) takeAsked() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := l.asked
	l.asked = nil
	return asked
}

func isOf(rec store.Record) func(store.Record) bool {
	return func(other store.Record) bool {
		return rec.Reference == other.Reference && rec.Platform == other.Platform
	}
}

func (l *ledger) forget(rec store.Record) {
	l.records = slices.DeleteFunc(l.records, isOf(rec))
	l.unreadable = slices.DeleteFunc(l.unreadable, func(e *store.RecordError) bool {
		return rec.Reference == e.Reference && rec.Platform == e.Platform
	})
}

func (l *ledger) Get(ctx context.Context, img *v1.Image, form layer.Form) (*store.Image, error) {
	plain := proto.CloneOf(img)
	plain.Platform = nil
	found, err := l.Store.Get(ctx, plain, form)
	if err != nil {
		return nil, err
	}
	found.Platform = img.GetPlatform()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ask("get " + found.Reference); err != nil {
		return nil, errors.Join(err, found.Release())
	}
	l.forget(found.Record)
	l.records = append(l.records, found.Record)
	return found, nil
}

// Use passes for Get, which it is.
func (l *ledger) Use(ctx context.Context, img *v1.Image, form layer.Form, record func(store.Record) error) (*store.Image, []layer.Info, error) {
	plain := proto.CloneOf(img)
	plain.Platform = nil
	recorded := func(rec store.Record) error {
		rec.Platform = img.GetPlatform()
		return record(rec)
	}
	found, infos, err := l.Store.Use(ctx, plain, form, recorded)
	if found == nil || err != nil {
		return nil, nil, err
	}
	found.Platform = img.GetPlatform()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ask("get " + found.Reference); err != nil {
		return nil, nil, err
	}
	l.forget(found.Record)
	l.records = append(l.records, found.Record)
	return found, infos, nil
}

func (l *ledger) List(context.Context) ([]store.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.failing["list"]; err != nil {
		return nil, err
	}
	slices.SortFunc(l.records, func(a, b store.Record) int {
		return strings.Compare(a.Reference+","+a.Platform, b.Reference+","+b.Platform)
	})
	var errs []error
	for _, e := range l.unreadable {
		errs = append(errs, e)
	}
	return slices.Clone(l.records), errors.Join(errs...)
}

func (l *ledger) Forget(_ context.Context, records []store.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, rec := range records {
		if err := l.ask("forget " + rec.Reference + rec.Platform); err != nil {
			return err
		}
		l.forget(rec)
	}
	return nil
}

func (l *ledger) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ask("sync")
}

func (l *ledger) Refetch(ctx context.Context, form layer.Form, ids []image.Digest, lease *layer.Lease) (fetched []image.Digest, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		if !slices.ContainsFunc(l.records, func(rec store.Record) bool { return slices.Contains(rec.Layers, id) }) {
			continue
		}
		failed := l.ask("refetch " + id.String())
		if failed == nil {
			_, failed = l.Store.Refetch(ctx, form, []image.Digest{id}, lease)
		}
		if failed == nil {
			fetched = append(fetched, id)
		}
		err = errors.Join(err, failed)
	}
	return fetched, err
}

// spoil makes the record of an image unreadable.
func (l *ledger) spoil(t testing.TB, name string, err error) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	at := slices.IndexFunc(l.records, isOf(store.Record{Reference: name}))
	if at < 0 {
		t.Fatalf("%s is not recorded", name)
	}
	l.records = slices.Delete(l.records, at, at+1)
	l.unreadable = append(l.unreadable, &store.RecordError{Path: "/records/" + name, Reference: name, Err: err})
}

// wantRecorded compares the recorded images, "name" or "name,platform".
func (l *ledger) wantRecorded(t testing.TB, want ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	got := []string{}
	for _, rec := range l.records {
		got = append(got, strings.TrimSuffix(rec.Reference+","+rec.Platform, ","))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("recorded are %q, want %q", got, want)
	}
}

func onPlatform(img *v1.Image, platform string) *v1.Image {
	img.Platform = proto.String(platform)
	return img
}

// pull gets an image, and gives the hold on its layers up.
func (b *bench) pull(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := b.hold(t, b.Image(name)).Release(); err != nil {
			t.Fatal(err)
		}
	}
}

// hold gets an image, and holds its layers.
func (b *bench) hold(t testing.TB, img *v1.Image) *store.Image {
	t.Helper()
	found, err := b.Stores[v1.Image_DOCKER].Get(t.Context(), img, layer.Tree)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// layersOfImages returns the diffIDs of images, each once, sorted.
func layersOfImages(names ...string) []image.Digest {
	ids := []image.Digest{}
	for _, name := range names {
		ids = append(ids, images[name].DiffIDs()...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func without(ids []image.Digest, others ...image.Digest) []image.Digest {
	return slices.DeleteFunc(ids, func(id image.Digest) bool { return slices.Contains(others, id) })
}

func wantDigests(t testing.TB, what string, got, want []image.Digest) {
	t.Helper()
	got = slices.Sorted(slices.Values(got))
	if !slices.Equal(got, want) {
		t.Errorf("%s: the layers are %q, want %q", what, got, want)
	}
}

// wantInStore compares the layers that there are.
func (b *bench) wantInStore(t testing.TB, want []image.Digest) {
	t.Helper()
	got, err := b.Layers.List()
	if err != nil {
		t.Fatal(err)
	}
	wantDigests(t, "in the store", got, want)
}

var errNewer = errors.Join(container.ErrNotSupported, errors.New("it is of version 7"))
