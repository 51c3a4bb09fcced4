package fetch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"berth/container"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store"
)

// goneError says that a source is reachable but has not, or no longer, what a recorded image
// lacks: another image may have taken its name.
type goneError struct{ error }

func (e *goneError) Unwrap() error { return e.error }

// restore fetches the layers that a recorded image lacks. What its name means at the
// source by now does not matter.
func (s *Store) restore(ctx context.Context, w wanted, known *lookup, lease *layer.Lease) (_ *store.Image, err error) {
	defer s.pullTime.Start()()
	why := whyAbsent(known.absent, w.form, lease)
	defer func() {
		switch {
		case err == nil:
			return
		case errors.Is(err, container.ErrNotFound), errors.Is(err, container.ErrInvalid):
			err = &goneError{err}
		}
		err = fmt.Errorf("%s, and it cannot be fetched again: %w", why, err)
	}()
	src, err := s.source(w.Key, w.secret, lease)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	p := s.newPull(w, src, lease)
	if err := src.Recall(ctx, known.recorded()); err != nil {
		return nil, err
	}
	if err := p.fetch(ctx, known.origins(), known.absent); err != nil {
		return nil, err
	}
	// Once more: it may have been removed meanwhile.
	return p.finish(known.record)
}

// whyAbsent says why layers have to be fetched that had been there.
func whyAbsent(absent []image.Digest, form layer.Form, lease *layer.Lease) string {
	id := absent[0]
	what := fmt.Sprintf("layer %s is missing in the store", id)
	if problems := lease.Broken(form)[id]; len(problems) > 0 {
		what = fmt.Sprintf("layer %s in the store is broken (%s)", id, problems[0])
	}
	if others := len(absent) - 1; others > 0 {
		what += fmt.Sprintf(", and %d more", others)
	}
	return what
}

// origins are the layers of the image and where they came from.
func (r *record) origins() (all []Layer) {
	for _, b := range r.Blobs {
		all = append(all, b.layer())
	}
	return all
}

func (r *record) recorded() Recorded { return Recorded{r.Source, r.Notes} }

// repository is where all blobs of the image came from.
func (r *record) repository() string {
	if r.Source != nil {
		return r.Source.Path
	}
	reference, err := image.ParseReference(r.Reference)
	if err != nil {
		return r.Reference
	}
	if reference.Transport != image.Docker {
		return r.Reference
	}
	return reference.Name.Registry + "/" + reference.Name.Repository
}

func (b blob) layer() Layer {
	return Layer{b.DiffID, image.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size, File: b.File}}
}

// Refetch implements store.Store.
func (s *Store) Refetch(ctx context.Context, form layer.Form, ids []image.Digest, lease *layer.Lease) ([]image.Digest, error) {
	recorded, err := s.records.list()
	unreadable, err := store.Unreadable(err)
	if err != nil {
		return nil, err
	}
	r := refetch{Store: s, form: form, lease: lease, recalled: make(map[*record]*recalledSource)}
	for _, rec := range unreadable {
		if !errors.Is(rec, container.ErrInvalid) && !errors.Is(rec, container.ErrNotSupported) {
			r.errs = append(r.errs, rec) // a disk that fails just now
		}
	}
	for _, rec := range recorded {
		r.recalled[rec] = &recalledSource{}
	}
	var group errgroup.Group
	group.SetLimit(parallel)
	for _, id := range slices.Compact(slices.Sorted(slices.Values(ids))) {
		if from := originsOf(id, recorded); len(from) > 0 {
			group.Go(func() error { r.layer(ctx, id, from); return nil })
		}
	}
	_ = group.Wait() // r has the errors
	return r.fetched, errors.Join(append(r.errs, r.close())...)
}

// refetch is a Refetch that is under way.
type refetch struct {
	*Store
	form     layer.Form
	lease    *layer.Lease
	recalled map[*record]*recalledSource

	mu      sync.Mutex
	fetched []image.Digest
	errs    []error
}

// origin is one of the places where a layer can be had.
type origin struct {
	rec   *record
	layer Layer
}

// originsOf returns the places of a layer, each once.
func originsOf(id image.Digest, recorded []*record) (all []origin) {
	for _, rec := range recorded {
		for _, b := range rec.Blobs {
			o := origin{rec, b.layer()}
			if b.DiffID == id && !slices.ContainsFunc(all, o.same) {
				all = append(all, o)
			}
		}
	}
	return all
}

// same reports whether both are one blob in one repository.
func (o origin) same(other origin) bool {
	return o.layer.Digest == other.layer.Digest && o.rec.repository() == other.rec.repository()
}

// layer fetches one layer from the first place that has it.
func (r *refetch) layer(ctx context.Context, id image.Digest, from []origin) {
	var errs []error
	for _, o := range from {
		err := r.from(ctx, o)
		if err == nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.fetched = append(r.fetched, id)
			return
		}
		errs = append(errs, fmt.Errorf("fetch again from %s: %w", o.rec.Reference, err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, errs...)
}

func (r *refetch) from(ctx context.Context, o origin) error {
	reference, err := image.ParseReference(o.rec.Reference)
	if err != nil {
		return err
	}
	k := Key{reference, o.rec.Platform}
	src, err := r.recalled[o.rec].open(ctx, r, k, o.rec)
	if err != nil {
		return err
	}
	if err := r.slots.acquire(ctx, r); err != nil {
		return err
	}
	defer r.slots.release(r)
	d := &download{key: k, src: src, layer: o.layer, form: r.form, report: new(store.LayerReport)}
	if err := r.download(ctx, d, r.lease); err != nil {
		return err
	}
	d.settle() // the lease is another's to commit; to fetch this one once more is little
	return nil
}

// recalledSource is the source of a record, opened when the first layer is wanted of it.
type recalledSource struct {
	once sync.Once
	src  Source
	err  error
}

func (r *recalledSource) open(ctx context.Context, by *refetch, k Key, rec *record) (Source, error) {
	r.once.Do(func() {
		src, err := by.source(k, nil, by.lease)
		if err == nil {
			r.src = src
			err = src.Recall(ctx, rec.recorded())
		}
		r.err = err
	})
	return r.src, r.err
}

func (r *refetch) close() error {
	var errs []error
	for _, recalled := range r.recalled {
		if recalled.src != nil {
			errs = append(errs, recalled.src.Close())
		}
	}
	return errors.Join(errs...)
}
