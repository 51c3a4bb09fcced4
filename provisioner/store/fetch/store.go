// Package fetch is what stores have in common whose images are found at a source and
// brought from there, layer by layer: the records, the leases, one pull at a time of an
// image, the way from a blob to a layer, and how single layers are fetched again.
//
// A store is a Kind: how its images are named, and the sources that they have. A source
// (source.go) resolves a reference into a manifest, a configuration and the layers to
// fetch (manifest.go; pull.go). All who want the same meanwhile share one pull (pulls.go).
// download.go fetches the layers, as many at a time as there are slots (slots.go), and
// partial.go keeps what comes of large ones for the process after a kill. record.go keeps
// what was found, so that single layers can be fetched again (refetch.go), with what a kind
// has to add (notes.go). archive.go and members.go read tar files in place, for sources
// that are files.
//
// Its metrics, below containerizer/mesos/provisioner/<kind>_store:
//
//	image_pull_ms    timer: each pull that was started, also one that failed
//	cache_hits       counter: images that needed no pull
//	blobs_fetched    counter: layers that were fetched and unpacked
//	bytes_fetched    counter: of blobs, also of those that failed
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/atomicfile"
	"berth/internal/disk"
	"berth/internal/metrics"
	"berth/layer"
	"berth/provisioner/store"
)

// Kind is what tells one such store from another.
type Kind interface {
	// Name is a word, "docker".
	Name() string
	// Parse returns what a request names, with a path from the root if it has one, and
	// the credentials that it brings, nil for none.
	// ErrInvalid, ErrNotSupported: see store.Store's Get.
	Parse(img *v1.Image) (image.Reference, *v1.Secret, error)
	// Source opens the source of an image.
	Source(r Request) (Source, error)
}

// Request is what a source is opened for, and with.
type Request struct {
	Key
	// Secret has credentials that go before all others; nil: there are none.
	Secret *v1.Secret
	// Tmp returns a directory for what the source needs on disk, which is removed when
	// nobody needs it any more, also after a kill.
	Tmp func() (string, error)
	// Partials are for a source from which a layer may come in parts.
	Partials *Partials
}

// Options are what a store is made of.
type Options struct {
	// Dir is where the records lie, best on the file system of Layers: on another one, a
	// process that is killed may leave a temporary file there.
	Dir    string
	Layers *layer.Store
	// Slots bound the downloads of all stores that have them; nil: of this one.
	Slots *Slots
	// Progress and Metrics may be nil.
	Progress store.Progress
	Metrics  *metrics.Set
}

// Store implements store.Store for a Kind.
type Store struct {
	kind     Kind
	layers   *layer.Store
	records  records
	partials Partials
	pulls    pulls
	slots    *Slots
	progress store.Progress

	pullTime     *metrics.Timer
	cacheHits    *metrics.Counter
	blobsFetched *metrics.Counter
	bytesFetched *metrics.Counter
}

var (
	_ store.Store   = (*Store)(nil)
	_ store.Resumer = (*Store)(nil)
)

// New returns the store, and makes its directory when missing.
func New(kind Kind, o Options) (*Store, error) {
	records, err := openRecords(filepath.Join(o.Dir, "images"), newNotes(kind))
	if err != nil {
		return nil, fmt.Errorf("open %s store: %w", kind.Name(), err)
	}
	if o.Progress == nil {
		o.Progress = func(store.Event) {}
	}
	if o.Slots == nil {
		o.Slots = NewSlots()
	}
	kept := Partials{filepath.Join(o.Dir, "partial")}
	kept.expire(time.Now())
	prefix := "containerizer/mesos/provisioner/" + kind.Name() + "_store/"
	return &Store{
		kind: kind, layers: o.Layers, records: records, partials: kept, slots: o.Slots, progress: o.Progress,
		pullTime:     o.Metrics.Timer(prefix + "image_pull_ms"),
		cacheHits:    o.Metrics.Counter(prefix + "cache_hits"),
		blobsFetched: o.Metrics.Counter(prefix + "blobs_fetched"),
		bytesFetched: o.Metrics.Counter(prefix + "bytes_fetched"),
	}, nil
}

// Key is what an image is recorded under.
type Key struct {
	Reference image.Reference
	Platform  string // as asked for, "" when not
}

func (k Key) String() string {
	if k.Platform == "" {
		return k.Reference.String()
	}
	return k.Reference.String() + " for " + k.Platform
}

// Want returns the platform of the image that is wanted.
func (k Key) Want() (image.Platform, error) {
	if k.Platform == "" {
		return image.HostPlatform(), nil
	}
	return image.ParsePlatform(k.Platform)
}

func (s *Store) key(img *v1.Image) (Key, *v1.Secret, error) {
	reference, secret, err := s.kind.Parse(img)
	if err != nil {
		return Key{}, nil, err
	}
	k := Key{Reference: reference, Platform: img.GetPlatform()}
	_, err = k.Want()
	return k, secret, err
}

// Absolute returns the reference with a path from the root, so that a record is one of
// this file, from wherever berth is called.
func Absolute(reference image.Reference) (image.Reference, error) {
	path, err := filepath.Abs(reference.Path)
	if err != nil {
		return reference, fmt.Errorf("image %s: %w", reference, err)
	}
	reference.Path = path
	// The current directory may have what a reference cannot have, a colon above all.
	if parsed, err := image.ParseReference(reference.String()); err != nil || parsed != reference {
		return reference, fmt.Errorf("image %q: %w: its path from the root has a colon, a control character or no UTF-8: move or link the file to another directory",
			reference, container.ErrInvalid)
	}
	return reference, nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, img *v1.Image, form layer.Form) (*store.Image, error) {
	k, secret, err := s.key(img)
	if err != nil {
		return nil, err
	}
	w := wanted{Key: k, wants: wants{cached: img.GetCached(), form: form}, secret: secret}
	for {
		found, err := s.leased(ctx, w, s.fromStore)
		if found != nil || err != nil {
			return found, err
		}
		found, mine, err := s.pulls.share(ctx, w, s.fetched)
		if err != nil {
			err = fmt.Errorf("pull %s: %w", k, err)
		}
		if found != nil || err != nil {
			return found, err
		}
		// Another caller has the image of the pull that both have waited for. What that
		// pull has recorded is new enough for who shared it.
		w.cached = w.cached || mine
	}
}

// Use implements store.Store.
func (s *Store) Use(ctx context.Context, img *v1.Image, form layer.Form, record func(store.Record) error) (*store.Image, []layer.Info, error) {
	k, _, err := s.key(img)
	if err != nil {
		return nil, nil, err
	}
	known, err := s.recorded(wanted{Key: k, wants: wants{cached: img.GetCached()}})
	if known == nil || err != nil {
		return nil, nil, err
	}
	infos, err := s.layers.Use(ctx, form, known.Layers, func() error { return record(known.Record) })
	if err != nil {
		return nil, nil, fmt.Errorf("image %s: %w", k, err)
	}
	if infos == nil {
		return nil, nil, nil
	}
	return s.hit(known, nil), infos, nil
}

// wanted is what a Get wants.
type wanted struct {
	Key
	wants
	secret *v1.Secret
	// lacks is what kept a recorded image from being used, if something did.
	lacks error
}

// fetched gets what is not there whole: the layers that a recorded image lacks, or all
// that its source says.
func (s *Store) fetched(ctx context.Context, w wanted) (*store.Image, error) {
	s.partials.expire(time.Now())
	found, err := s.leased(ctx, w, s.fromRecord)
	if gone := (*goneError)(nil); errors.As(err, &gone) {
		w.lacks = err
	} else if found != nil || err != nil {
		return found, err
	}
	return s.leased(ctx, w, s.fromSource)
}

// leased gives get a lease, which goes with the image that it returns.
func (s *Store) leased(ctx context.Context, w wanted, get func(context.Context, wanted, *layer.Lease) (*store.Image, error)) (*store.Image, error) {
	lease, err := s.layers.Lease(ctx)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", w.Key, err)
	}
	found, err := get(ctx, w, lease)
	if found == nil || err != nil { // an error may come after the image, from closing its source
		return nil, errors.Join(err, lease.Release())
	}
	return found, nil
}

// fromStore returns the image if it is recorded, may be cached and has its layers, else nil.
func (s *Store) fromStore(ctx context.Context, w wanted, lease *layer.Lease) (*store.Image, error) {
	known, err := s.lookUp(ctx, w, lease)
	if known == nil || err != nil || len(known.absent) > 0 {
		return nil, err
	}
	return s.hit(known.record, lease), nil
}

// fromRecord returns the image if it is recorded and may be cached, else nil. If it lacks
// layers, they are fetched; a *goneError says that the source has them no longer.
func (s *Store) fromRecord(ctx context.Context, w wanted, lease *layer.Lease) (*store.Image, error) {
	known, err := s.lookUp(ctx, w, lease)
	switch {
	case known == nil || err != nil:
		return nil, err
	case len(known.absent) == 0: // somebody else was quicker
		return s.hit(known.record, lease), nil
	}
	absent, err := lease.Convert(ctx, w.form, known.absent)
	if err == nil && len(absent) == 0 {
		err = lease.Commit(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", w.Key, err)
	}
	if len(absent) == 0 {
		return s.hit(known.record, lease), nil
	}
	return s.restore(ctx, w, &lookup{known.record, absent}, lease)
}

// fromSource asks the source for the image.
func (s *Store) fromSource(ctx context.Context, w wanted, lease *layer.Lease) (*store.Image, error) {
	found, err := s.pull(ctx, w, lease)
	if err != nil && w.lacks != nil {
		err = fmt.Errorf("%w; it is pulled anew because of this: %v", err, w.lacks)
	}
	return found, err
}

// lookup is a recorded image, whose layers are held.
type lookup struct {
	*record
	absent []image.Digest // or broken
}

// recorded returns nil if the image is not recorded, or not to be taken from its record.
func (s *Store) recorded(w wanted) (*record, error) {
	rec, err := s.records.load(w.Key)
	switch {
	case errors.Is(err, container.ErrNotFound), errors.Is(err, container.ErrInvalid): // a broken one is replaced
		return nil, nil
	case err != nil:
		return nil, err
	case !w.cached || !rec.Source.Unchanged(), rec.Notes != nil && !rec.Notes.Trusted():
		return nil, nil
	}
	return rec, nil
}

// lookUp returns nil if recorded does.
func (s *Store) lookUp(ctx context.Context, w wanted, lease *layer.Lease) (*lookup, error) {
	rec, err := s.recorded(w)
	if rec == nil || err != nil {
		return nil, err
	}
	absent, err := lease.Hold(ctx, w.form, rec.Layers)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", w.Key, err)
	}
	return &lookup{rec, absent}, nil
}

func (s *Store) hit(known *record, lease *layer.Lease) *store.Image {
	s.cacheHits.Add(1)
	return known.image(lease)
}

// Reference implements store.Store.
func (s *Store) Reference(img *v1.Image) (string, error) {
	k, _, err := s.key(img)
	if err != nil {
		return "", err
	}
	return k.Reference.String(), nil
}

// List implements store.Store.
func (s *Store) List(context.Context) ([]store.Record, error) {
	all, err := s.records.list()
	records := make([]store.Record, len(all))
	for i, rec := range all {
		records[i] = rec.Record
	}
	return records, err
}

// Forget implements store.Store.
func (s *Store) Forget(_ context.Context, records []store.Record) error {
	for _, rec := range records {
		if err := s.records.forget(rec); err != nil {
			return fmt.Errorf("forget image %s: %w", rec.Reference, err)
		}
	}
	return disk.At("records: forgotten")
}

// Unknown implements store.Store.
func (s *Store) Unknown() (paths []string, err error) {
	var errs []error
	for _, in := range []struct {
		dir  string
		ours func(fs.DirEntry) bool
	}{
		{s.records.dir, func(e fs.DirEntry) bool { return strings.HasSuffix(e.Name(), suffix) }},
		{s.partials.dir, isPartial},
	} {
		entries, err := disk.ReadDir(in.dir)
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			if !in.ours(e) {
				paths = append(paths, filepath.Join(in.dir, e.Name()))
			}
		}
	}
	return paths, errors.Join(errs...)
}

// Sync implements store.Store.
func (s *Store) Sync() error {
	if err := atomicfile.SyncDir(s.records.dir); err != nil {
		return err
	}
	return disk.At("records: synced")
}

// Remove implements store.Store.
func (s *Store) Remove(ctx context.Context, img *v1.Image) error {
	k, _, err := s.key(img)
	if err != nil {
		return err
	}
	named, err := s.named(ctx, k)
	if err == nil && len(named) == 0 {
		err = fmt.Errorf("%w in the store", container.ErrNotFound)
	}
	if err == nil {
		err = s.Forget(ctx, named)
	}
	if err == nil {
		err = s.Sync()
	}
	if err != nil {
		return fmt.Errorf("remove image %s: %w", k, err)
	}
	return nil
}

// named returns the records under the name of an image, for every platform, also broken
// ones. The name of a broken one may be too long for that of its file: it is found when
// it is for the platform of k, or for none.
func (s *Store) named(ctx context.Context, k Key) (named []store.Record, err error) {
	recorded, err := s.List(ctx)
	unreadable, err := store.Unreadable(err)
	if err != nil {
		return nil, err
	}
	name := k.Reference.String()
	for _, rec := range recorded {
		if rec.Reference == name {
			named = append(named, rec)
		}
	}
	for _, rec := range unreadable {
		platforms := []string{rec.Platform, k.Platform, ""}
		at := slices.IndexFunc(platforms, func(platform string) bool { return s.records.file(name, platform) == rec.Path })
		switch {
		case at < 0: // of another image
		case errors.Is(rec, container.ErrNotSupported):
			return nil, rec
		default:
			named = append(named, store.Record{Reference: name, Platform: platforms[at]})
		}
	}
	return named, nil
}
