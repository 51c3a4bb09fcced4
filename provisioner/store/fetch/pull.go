package fetch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/internal/stages"
	"berth/layer"
	"berth/provisioner/store"
)

// source opens the source of an image. What it needs on disk lies in the lease's directory.
func (s *Store) source(k Key, secret *v1.Secret, lease *layer.Lease) (Source, error) {
	return s.kind.Source(Request{Key: k, Secret: secret, Tmp: lease.Dir, Partials: &s.partials})
}

// pull is one that is under way.
type pull struct {
	*Store
	key    Key
	form   layer.Form
	src    Source
	lease  *layer.Lease
	clock  *stages.Clock
	report store.PullReport
}

// pull finds the image at its source, fetches what the layer store lacks of it and
// records it.
func (s *Store) pull(ctx context.Context, w wanted, lease *layer.Lease) (_ *store.Image, err error) {
	defer s.pullTime.Start()()
	src, err := s.source(w.Key, w.secret, lease)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	return s.pullFrom(ctx, src, w, lease)
}

func (s *Store) pullFrom(ctx context.Context, src Source, w wanted, lease *layer.Lease) (*store.Image, error) {
	p := s.newPull(w, src, lease)
	found, err := src.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	if found.Complete != nil {
		s.recognize(found.Layers)
	}
	layers := lastOfEach(found.Layers, Layer.id)
	if err := disk.At("pull: resolved"); err != nil {
		return nil, err
	}
	p.clock.Enter(stages.Hold)
	absent, err := lease.Hold(ctx, w.form, knownDiffIDs(layers))
	if err != nil {
		return nil, err
	}
	if absent, err = lease.Convert(ctx, w.form, absent); err != nil {
		return nil, err
	}
	if err := disk.At("pull: layers are held"); err != nil {
		return nil, err
	}
	if err := p.fetch(ctx, layers, absent); err != nil {
		return nil, err
	}
	if err := p.complete(found, layers); err != nil {
		return nil, err
	}
	p.report.Warning = found.Warning
	return p.finish(newRecord(w.Key, found))
}

// recognize gives the blobs their DiffIDs that were unpacked before. Only what was learned
// that way counts: that a manifest and a configuration put a blob and a DiffID side by side
// proves nothing while nobody has unpacked the one and got the other.
func (s *Store) recognize(layers []Layer) {
	recorded, _ := s.records.list() // what cannot be read is fetched
	for _, rec := range recorded {
		if !rec.Learned {
			continue
		}
		for i, l := range layers {
			if at := slices.IndexFunc(rec.Blobs, func(b blob) bool { return b.Digest == l.Digest && b.File == l.File }); at >= 0 {
				layers[i].DiffID = rec.Blobs[at].DiffID
			}
		}
	}
}

// complete gives an image its configuration that had none before its layers were unpacked.
func (p *pull) complete(found *Resolved, unpacked []Layer) (err error) {
	if found.Complete == nil {
		return nil
	}
	learned := make(map[string]image.Digest)
	for i, l := range unpacked {
		learned[l.id()] = p.report.Layers[i].Layer
	}
	for i, l := range found.Layers {
		found.Layers[i].DiffID = learned[l.id()]
	}
	if found.Config, err = found.Complete(diffIDs(found.Layers)); err != nil {
		return err
	}
	found.Parsed, err = image.ParseConfig(found.Config)
	return err
}

func (s *Store) newPull(w wanted, src Source, lease *layer.Lease) *pull {
	return &pull{Store: s, key: w.Key, form: w.form, src: src, lease: lease, clock: stages.Start(stages.Pull...), report: store.PullReport{Image: w.Key.String()}}
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
// layer store lacks of it in a form and records it under its name, like a pull.
func (s *Store) Import(ctx context.Context, k Key, form layer.Form, src Source) (store.Record, error) {
	rec, err := s.importFrom(ctx, k, form, src)
	if err != nil {
		return store.Record{}, fmt.Errorf("load %s: %w", k, err)
	}
	return rec, nil
}

func (s *Store) importFrom(ctx context.Context, k Key, form layer.Form, src Source) (store.Record, error) {
	w := wanted{Key: k, wants: wants{form: form, from: &src}}
	for {
		img, _, err := s.pulls.share(ctx, w, s.imported)
		if err != nil {
			return store.Record{}, err
		}
		if img != nil {
			return img.Record, img.Release()
		}
	}
}

func (s *Store) imported(ctx context.Context, w wanted) (*store.Image, error) {
	if _, err := s.records.load(w.Key); errors.Is(err, container.ErrNotSupported) {
		return nil, err
	}
	return s.leased(ctx, w, func(ctx context.Context, w wanted, lease *layer.Lease) (*store.Image, error) {
		return s.pullFrom(ctx, *w.from, w, lease)
	})
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
			Labels:    found.Parsed.Run.Labels,
			Pulled:    time.Now().UTC().Truncate(time.Second),
		},
		Source:   found.File,
		Learned:  found.Complete != nil,
		Manifest: string(found.Manifest),
		Config:   string(found.Config),
		Notes:    found.Notes,
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
func lastOfEach[L any, ID comparable](layers []L, id func(L) ID) []L {
	kept := make([]L, 0, len(layers))
	for i, l := range layers {
		again := slices.ContainsFunc(layers[i+1:], func(upper L) bool { return id(upper) == id(l) })
		if !again {
			kept = append(kept, l)
		}
	}
	return kept
}
