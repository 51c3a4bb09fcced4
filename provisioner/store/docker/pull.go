package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/internal/stages"
	"berth/layer"
	"berth/provisioner/store"
)

// source is a place of images.
type source interface {
	// resolve finds the image; it fetches no layer.
	resolve(ctx context.Context) (*resolved, error)
	// recall stands in for resolve where the image is recorded. It asks nobody what the
	// name means by now. ErrNotFound: the source is no longer what it was.
	recall(ctx context.Context, rec *record) error
	// open returns the bytes of a layer, which prove themselves at their end. A
	// stages.Clock in ctx is told of the connection.
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

// pull is one that is under way.
type pull struct {
	*Store
	key    key
	src    source
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
			err = fmt.Errorf("pull %s: %w", w.key, err)
		}
	}()
	p := s.newPull(w.key, lease)
	if p.src, err = s.source(w.key); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.src.Close()) }()
	found, err := p.src.resolve(ctx)
	if err != nil {
		return nil, err
	}
	found.layers = lastOfEach(found.layers, fetchable.id)
	if err := disk.At("pull: resolved"); err != nil {
		return nil, err
	}
	p.clock.Enter(stages.Hold)
	absent, err := lease.Hold(ctx, w.form, diffIDs(found.layers))
	if err != nil {
		return nil, err
	}
	if err := disk.At("pull: layers are held"); err != nil {
		return nil, err
	}
	if err := p.fetch(ctx, found.layers, absent); err != nil {
		return nil, err
	}
	return p.finish(newRecord(w.key, found))
}

func (s *Store) newPull(k key, lease *layer.Lease) *pull {
	return &pull{Store: s, key: k, lease: lease, clock: stages.Start(stages.Pull...), report: store.PullReport{Image: k.String()}}
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
	img := store.NewImage(rec.Record, rec.parsed, p.lease)
	img.Pull = &p.report
	return img, nil
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
		parsed:         found.parsed,
	}
	for _, l := range found.layers {
		rec.Blobs = append(rec.Blobs, blob{l.diffID, l.Digest, l.Size, l.MediaType})
	}
	return rec
}

func (l fetchable) id() image.Digest { return l.diffID }

func diffIDs(layers []fetchable) []image.Digest {
	ids := make([]image.Digest, len(layers))
	for i, l := range layers {
		ids[i] = l.diffID
	}
	return ids
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
