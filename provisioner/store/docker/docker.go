// Package docker is the store of Docker images: from registries of the distribution
// protocol, OCI images included, and from files as `docker save` writes them.
//
// A source (registry.go, archive.go) resolves a reference into a manifest, a
// configuration and the layers to fetch (pull.go); download.go fetches these; record.go
// keeps what was found, so that single layers can be fetched again (refetch.go).
//
// Its metrics, below containerizer/mesos/provisioner/docker_store:
//
//	image_pull_ms    timer: each pull that was started, also one that failed
//	cache_hits       counter: images that needed no pull
//	blobs_fetched    counter: layers that were fetched and unpacked
//	bytes_fetched    counter: of blobs, also of those that failed
package docker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/atomicfile"
	"berth/internal/disk"
	"berth/internal/metrics"
	"berth/layer"
	"berth/provisioner/store"
	"berth/registry"
)

// Options are what a store is made of.
type Options struct {
	// Dir is where the records lie, on the file system of Layers.
	Dir      string
	Layers   *layer.Store
	Registry *registry.Client
	// Progress and Metrics may be nil.
	Progress store.Progress
	Metrics  *metrics.Set
}

// Store implements store.Store.
type Store struct {
	layers   *layer.Store
	registry *registry.Client
	records  records
	pulls    pulls
	progress store.Progress

	pullTime     *metrics.Timer
	cacheHits    *metrics.Counter
	blobsFetched *metrics.Counter
	bytesFetched *metrics.Counter
}

var _ store.Store = (*Store)(nil)

// New returns the store, and makes its directory when missing.
func New(o Options) (*Store, error) {
	records, err := openRecords(filepath.Join(o.Dir, "images"))
	if err != nil {
		return nil, fmt.Errorf("open docker store: %w", err)
	}
	if o.Progress == nil {
		o.Progress = func(store.Event) {}
	}
	const prefix = "containerizer/mesos/provisioner/docker_store/"
	return &Store{
		layers: o.Layers, registry: o.Registry, records: records, progress: o.Progress,
		pullTime:     o.Metrics.Timer(prefix + "image_pull_ms"),
		cacheHits:    o.Metrics.Counter(prefix + "cache_hits"),
		blobsFetched: o.Metrics.Counter(prefix + "blobs_fetched"),
		bytesFetched: o.Metrics.Counter(prefix + "bytes_fetched"),
	}, nil
}

// key is what an image is recorded under.
type key struct {
	reference image.Reference
	platform  string // as asked for, "" when not
}

func (k key) String() string {
	if k.platform == "" {
		return k.reference.String()
	}
	return k.reference.String() + " for " + k.platform
}

// want returns the platform of the image that is wanted.
func (k key) want() (image.Platform, error) {
	if k.platform == "" {
		return image.HostPlatform(), nil
	}
	return image.ParsePlatform(k.platform)
}

func parseKey(img *v1.Image) (key, error) {
	if img.GetType() != v1.Image_DOCKER {
		return key{}, fmt.Errorf("image of type %s: %w for the docker store", img.GetType(), container.ErrInvalid)
	}
	reference, err := image.ParseReference(img.GetDocker().GetName())
	if err != nil {
		return key{}, err
	}
	if img.GetDocker().GetConfig() != nil {
		return key{}, fmt.Errorf("image %s: credentials in the request: %w; give them to the docker configuration of the user that runs berth",
			reference, container.ErrNotSupported)
	}
	switch reference.Transport {
	case image.Docker:
	case image.DockerArchive:
		if reference, err = absolute(reference); err != nil {
			return key{}, err
		}
	default:
		return key{}, fmt.Errorf("image %s: %w: the docker store has no images of the transport %s",
			reference, container.ErrNotSupported, reference.Transport)
	}
	k := key{reference: reference, platform: img.GetPlatform()}
	if _, err := k.want(); err != nil {
		return key{}, err
	}
	return k, nil
}

// absolute makes the record one of this file, from wherever berth is called.
func absolute(reference image.Reference) (image.Reference, error) {
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
	k, err := parseKey(img)
	if err != nil {
		return nil, err
	}
	w := wanted{key: k, cached: img.GetCached(), form: form}
	found, err := s.leased(ctx, w, s.fromRecord)
	if gone := (*goneError)(nil); errors.As(err, &gone) {
		w.lacks = err
	} else if found != nil || err != nil {
		return found, err
	}
	return s.leased(ctx, w, s.fromSource)
}

// wanted is what a Get wants.
type wanted struct {
	key
	cached bool
	form   layer.Form
	// lacks is what kept a recorded image from being used, if something did.
	lacks error
}

// leased gives get a lease, which goes with the image that it returns.
func (s *Store) leased(ctx context.Context, w wanted, get func(context.Context, wanted, *layer.Lease) (*store.Image, error)) (*store.Image, error) {
	lease, err := s.layers.Lease(ctx)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", w.key, err)
	}
	found, err := get(ctx, w, lease)
	if found == nil || err != nil { // an error may come after the image, from closing its source
		return nil, errors.Join(err, lease.Release())
	}
	return found, nil
}

// fromRecord returns the image if it is recorded and may be cached, else nil. If it lacks
// layers, they are fetched; a *goneError says that the source has them no longer.
func (s *Store) fromRecord(ctx context.Context, w wanted, lease *layer.Lease) (*store.Image, error) {
	known, err := s.lookUp(ctx, w, lease)
	if known == nil || err != nil {
		return nil, err
	}
	if len(known.absent) == 0 {
		return s.hit(known, lease), nil
	}
	end, err := s.pulls.begin(ctx, w.key)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", w.key, err)
	}
	defer end()
	// Perhaps somebody else has fetched them meanwhile.
	if known, err = s.lookUp(ctx, w, lease); known == nil || err != nil {
		return nil, err
	}
	if len(known.absent) == 0 {
		return s.hit(known, lease), nil
	}
	return s.restore(ctx, w.key, known, lease)
}

// fromSource asks the source for the image.
func (s *Store) fromSource(ctx context.Context, w wanted, lease *layer.Lease) (*store.Image, error) {
	end, err := s.pulls.begin(ctx, w.key)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", w.key, err)
	}
	defer end()
	// Perhaps somebody else has pulled it meanwhile.
	known, err := s.lookUp(ctx, w, lease)
	if err != nil {
		return nil, err
	}
	if known != nil && len(known.absent) == 0 {
		return s.hit(known, lease), nil
	}
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

// lookUp returns nil if the image is not recorded, or not to be taken from its record.
func (s *Store) lookUp(ctx context.Context, w wanted, lease *layer.Lease) (*lookup, error) {
	rec, err := s.records.load(w.key)
	switch {
	case errors.Is(err, container.ErrNotFound), errors.Is(err, container.ErrInvalid): // a broken one is replaced
		return nil, nil
	case err != nil:
		return nil, err
	case !w.cached || !rec.Source.unchanged():
		return nil, nil
	}
	absent, err := lease.Hold(ctx, w.form, rec.Layers)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", w.key, err)
	}
	return &lookup{rec, absent}, nil
}

func (s *Store) hit(known *lookup, lease *layer.Lease) *store.Image {
	s.cacheHits.Add(1)
	return store.NewImage(known.Record, known.parsed, lease)
}

// Reference implements store.Store.
func (s *Store) Reference(img *v1.Image) (string, error) {
	k, err := parseKey(img)
	if err != nil {
		return "", err
	}
	return k.reference.String(), nil
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

// Sync implements store.Store.
func (s *Store) Sync() error {
	if err := atomicfile.SyncDir(s.records.dir); err != nil {
		return err
	}
	return disk.At("records: synced")
}

// Remove implements store.Store.
func (s *Store) Remove(ctx context.Context, img *v1.Image) error {
	k, err := parseKey(img)
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
func (s *Store) named(ctx context.Context, k key) (named []store.Record, err error) {
	recorded, err := s.List(ctx)
	unreadable, err := store.Unreadable(err)
	if err != nil {
		return nil, err
	}
	name := k.reference.String()
	for _, rec := range recorded {
		if rec.Reference == name {
			named = append(named, rec)
		}
	}
	for _, rec := range unreadable {
		platforms := []string{rec.Platform, k.platform, ""}
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
