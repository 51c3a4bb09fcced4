package fetch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/internal/stages"
	"berth/layer"
	"berth/provisioner/store"
)

// source opens the source of an image. What it needs on disk lies in the lease's directory.
func (s *Store) source(k Key, lease *layer.Lease) (Source, error) {
	return s.kind.Source(k, lease.Dir)
}

// pull is one that is under way.
type pull struct {
	*Store
	key    Key
	src    Source
	lease  *layer.Lease
	clock  *stages.Clock
	report store.PullReport
}

// pull finds the image at its source, fetches what the layer store lacks of it and
// records it.
func (s *Store) pull(ctx context.Context, w wanted, lease *layer.Lease) (_ *store.Image, err error) {
	defer s.pullTime.Start()()
	defer func() {
		if err != nil {
			err = fmt.Errorf("pull %s: %w", w.Key, err)
		}
	}()
	src, err := s.source(w.Key, lease)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	return s.pullFrom(ctx, src, w, lease)
}

func (s *Store) pullFrom(ctx context.Context, src Source, w wanted, lease *layer.Lease) (*store.Image, error) {
	p := s.newPull(w.Key, src, lease)
	found, err := src.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	learned, err := p.identify(ctx, found)
	if err != nil {
		return nil, err
	}
	layers := lastOfEach(found.Layers, Layer.id)
	if err := disk.At("pull: resolved"); err != nil {
		return nil, err
	}
	p.clock.Enter(stages.Hold)
	absent, err := lease.Hold(ctx, w.form, diffIDs(layers))
	if err != nil {
		return nil, err
	}
	if err := disk.At("pull: layers are held"); err != nil {
		return nil, err
	}
	if err := p.fetch(ctx, layers, absent); err != nil {
		return nil, err
	}
	p.reportLearned(learned)
	return p.finish(newRecord(w.Key, found))
}

func (s *Store) newPull(k Key, src Source, lease *layer.Lease) *pull {
	return &pull{Store: s, key: k, src: src, lease: lease, clock: stages.Start(stages.Pull...), report: store.PullReport{Image: k.String()}}
}

// finish records the image.
func (p *pull) finish(rec *record) (*store.Image, error) {
	if err := p.records.save(p.key, rec, p.lease); err != nil {
		return nil, fmt.Errorf("record the image: %w", err)
	}
	if err := disk.At("pull: recorded"); err != nil {
		return nil, err
	}
	p.report.Stages = p.clock.StopAt(time.Now())
	p.report.Total = stages.Sum(p.report.Stages)
	img := rec.image(p.lease)
	img.Pull = &p.report
	return img, nil
}

// Import finds an image at a source that is not the one of its name, fetches what the
// layer store lacks of it into the lease and records it under its name, like a pull. The
// layers are held by the lease.
func (s *Store) Import(ctx context.Context, k Key, src Source, lease *layer.Lease) (store.Record, error) {
	end, err := s.pulls.begin(ctx, k)
	if err != nil {
		return store.Record{}, fmt.Errorf("load %s: %w", k, err)
	}
	defer end()
	if _, err := s.records.load(k); errors.Is(err, container.ErrNotSupported) {
		return store.Record{}, fmt.Errorf("load %s: %w", k, err)
	}
	img, err := s.pullFrom(ctx, src, wanted{Key: k, form: layer.Tree}, lease)
	if err != nil {
		return store.Record{}, fmt.Errorf("load %s: %w", k, err)
	}
	return img.Record, nil
}

func newRecord(k Key, found *Resolved) *record {
	origin := found.Origin
	if origin == nil {
		origin = found.Layers
	}
	origin = lastOfEach(origin, Layer.id)
	rec := &record{
		Version: recordVersion,
		Record: store.Record{
			Reference: k.Reference.String(),
			Platform:  k.Platform,
			ID:        image.DigestOf(found.Config),
			Layers:    diffIDs(origin),
			Pulled:    time.Now().UTC().Truncate(time.Second),
		},
		Source:   found.File,
		Manifest: string(found.Manifest),
		Config:   string(found.Config),
		parsed:   found.Parsed,
	}
	if found.Manifest != nil {
		rec.ManifestDigest = image.DigestOf(found.Manifest)
	}
	for _, index := range found.Indexes {
		rec.Indexes = append(rec.Indexes, string(index))
	}
	for _, l := range origin {
		rec.Blobs = append(rec.Blobs, blob{l.DiffID, l.Digest, l.Size, l.MediaType, l.File})
	}
	return rec
}

// lastOfEach drops all but the topmost occurrence of each layer: what a lower one
// adds, the upper one adds again, and what it hides lies below the upper one too.
func lastOfEach[L any](layers []L, id func(L) image.Digest) []L {
	kept := make([]L, 0, len(layers))
	for i, l := range layers {
		again := slices.ContainsFunc(layers[i+1:], func(upper L) bool { return id(upper) == id(l) })
		if !again {
			kept = append(kept, l)
		}
	}
	return kept
}
