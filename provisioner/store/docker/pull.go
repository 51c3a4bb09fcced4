package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"berth/container"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store"
)

// parallel is how many layers of one pull are fetched and unpacked at a time. Each
// keeps about one and a half cores busy; one more hides the waits for the network.
var parallel = max(2, runtime.GOMAXPROCS(0)) + 1

// source is a place of images.
type source interface {
	// resolve finds the image; it fetches no layer.
	resolve(ctx context.Context) (*resolved, error)
	// open returns the bytes of a layer, which prove themselves at their end.
	open(ctx context.Context, l fetchable) (io.ReadCloser, error)
	Close() error
}

// resolved is an image of a source.
type resolved struct {
	manifest       string
	manifestDigest image.Digest
	file           *sourceFile
	config         []byte
	parsed         *image.Config
	layers         []fetchable // base first
}

// fetchable is a layer of a source.
type fetchable struct {
	diffID image.Digest
	image.Descriptor
}

func (s *Store) source(k key) (source, error) {
	want, err := k.want()
	if err != nil {
		return nil, err
	}
	if k.reference.Transport == image.DockerArchive {
		return openArchive(k.reference, want)
	}
	return &registrySource{client: s.registry, name: k.reference.Name, want: want}, nil
}

// pull finds the image at its source, fetches what the layer store lacks of it and
// records it.
func (s *Store) pull(ctx context.Context, k key, form layer.Form, lease *layer.Lease) (_ *store.Image, err error) {
	src, err := s.source(k)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	found, err := src.resolve(ctx)
	if err != nil {
		return nil, err
	}
	found.layers = lastOfEach(found.layers)
	absent, err := lease.Hold(ctx, form, diffIDs(found.layers))
	if err != nil {
		return nil, err
	}
	if err := s.fetch(ctx, k, src, found.layers, absent, lease); err != nil {
		return nil, err
	}
	rec := newRecord(k, found)
	if err := s.records.save(k, rec, lease); err != nil {
		return nil, fmt.Errorf("record the image: %w", err)
	}
	return store.NewImage(rec.Record, found.parsed, lease), nil
}

func newRecord(k key, found *resolved) *record {
	rec := &record{
		Version: recordVersion,
		Record: store.Record{
			Reference: k.reference.String(),
			Platform:  k.platform,
			ID:        image.DigestOf(found.config),
			Layers:    diffIDs(found.layers),
			Pulled:    time.Now().UTC().Truncate(time.Second),
		},
		ManifestDigest: found.manifestDigest,
		Source:         found.file,
		Manifest:       found.manifest,
		Config:         string(found.config),
	}
	for _, l := range found.layers {
		rec.Blobs = append(rec.Blobs, blob{l.diffID, l.Digest, l.Size, l.MediaType})
	}
	return rec
}

// fetch unpacks the absent layers and makes them visible, all or none.
func (s *Store) fetch(ctx context.Context, k key, src source, layers []fetchable, absent []image.Digest, lease *layer.Lease) error {
	var wanted []fetchable
	for _, l := range layers {
		event := store.Event{Image: k.String(), Layer: l.Digest, Total: l.Size, Stage: store.Present}
		if slices.Contains(absent, l.diffID) {
			wanted = append(wanted, l)
			event.Stage = store.Waiting
		}
		s.progress(event)
	}
	// The largest first: the last to finish is then a small one.
	slices.SortStableFunc(wanted, func(a, b fetchable) int { return cmp.Compare(b.Size, a.Size) })

	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, l := range wanted {
		group.Go(func() error {
			if err := s.fetchLayer(groupCtx, k, src, l, lease); err != nil {
				return fmt.Errorf("layer %s: %w", l.Digest, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return lease.Commit(ctx)
}

func (s *Store) fetchLayer(ctx context.Context, k key, src source, l fetchable, lease *layer.Lease) (err error) {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	content, err := src.open(ctx, l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	event := store.Event{Image: k.String(), Layer: l.Digest, Total: l.Size, Stage: store.Fetching}
	watched := &watchedReader{r: content, progress: s.progress, event: event}
	if _, err := lease.Unpack(ctx, l.diffID, watched); err != nil {
		return err
	}
	event.Stage, event.Done = store.Unpacked, l.Size
	s.progress(event)
	return nil
}

// watchedReader tells the progress of a download, in steps that a person can see.
type watchedReader struct {
	r        io.Reader
	progress store.Progress
	event    store.Event
	told     int64
}

func (w *watchedReader) Read(p []byte) (int, error) {
	const step = 256 << 10
	n, err := w.r.Read(p)
	w.event.Done += int64(n)
	if w.event.Done-w.told >= step || err == io.EOF {
		w.told = w.event.Done
		w.progress(w.event)
	}
	return n, err
}

func diffIDs(layers []fetchable) []image.Digest {
	ids := make([]image.Digest, len(layers))
	for i, l := range layers {
		ids[i] = l.diffID
	}
	return ids
}

// lastOfEach drops all but the topmost occurrence of each layer: what a lower one
// adds, the upper one adds again, and what it hides lies below the upper one too.
func lastOfEach(layers []fetchable) []fetchable {
	var kept []fetchable
	for i, l := range layers {
		again := slices.ContainsFunc(layers[i+1:], func(upper fetchable) bool { return upper.diffID == l.diffID })
		if !again {
			kept = append(kept, l)
		}
	}
	return kept
}

// pair ties the layers of a manifest to the diffIDs of the configuration.
func pair(config *image.Config, layers []image.Descriptor) ([]fetchable, error) {
	if len(config.DiffIDs) != len(layers) {
		return nil, fmt.Errorf("%w: the manifest has %d layers, the configuration names %d", container.ErrInvalid, len(layers), len(config.DiffIDs))
	}
	pairs := make([]fetchable, len(layers))
	for i, l := range layers {
		pairs[i] = fetchable{config.DiffIDs[i], l}
	}
	return pairs, nil
}

// suits checks that an image made for a platform can be used where want is. What its
// configuration leaves out, as those of old and of minimal tools do, does not speak
// against it.
func suits(want, made image.Platform) error {
	made.OS = cmp.Or(made.OS, want.OS)
	made.Architecture = cmp.Or(made.Architecture, want.Architecture)
	made.Variant = cmp.Or(made.Variant, want.Variant)
	if !want.Accepts(made) {
		return fmt.Errorf("image for %s: %w: it is for %s; name another platform with --platform", want, container.ErrNotFound, made)
	}
	return nil
}
