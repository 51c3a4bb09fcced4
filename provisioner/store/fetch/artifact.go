package fetch

import (
	"context"
	"slices"
	"time"

	"berth/image"
	"berth/internal/stages"
	"berth/provisioner/store"
)

// artifact is what a manifest tells of an artifact: no configuration, and no diffIDs. The
// manifest itself is none of the image that it becomes, and is not recorded.
func artifact(manifest *image.Manifest) *Resolved {
	found := &Resolved{}
	for _, l := range manifest.Layers {
		found.Layers = append(found.Layers, Layer{"", l})
	}
	return found
}

// identify gives the layers of an artifact their diffIDs, and the artifact the
// configuration of an image of these layers; of an image it leaves all as it is. Only the
// content of a layer tells its diffID. So those that no record has are fetched here and
// now, and the lease holds them; it returns how.
func (p *pull) identify(ctx context.Context, found *Resolved) (learned []store.LayerReport, err error) {
	if found.Config != nil {
		return nil, nil
	}
	recorded, _ := p.records.list() // a record that cannot be read saves nothing
	var unknown []Layer
	var at []int
	for i, l := range found.Layers {
		if found.Layers[i].DiffID = recall(l.Descriptor, recorded); found.Layers[i].DiffID == "" {
			unknown, at = append(unknown, l), append(at, i)
		}
	}
	all := p.downloads(unknown, []image.Digest{""}, p.clock.Enter(stages.Fetch))
	learned = p.report.Layers
	// A clone, as it sorts what it is given.
	if err := p.unpack(ctx, slices.Clone(all)); err != nil {
		return nil, err
	}
	now := time.Now()
	for i, d := range all {
		d.clock.EnterAt(stages.Sync, now)
		found.Layers[at[i]].DiffID = d.layer.DiffID
	}
	if err := p.lease.Commit(ctx); err != nil {
		return nil, err
	}
	for _, d := range all {
		d.report.Stages = d.clock.StopAt(time.Now())
	}
	found.Parsed = &image.Config{DiffIDs: diffIDs(found.Layers)}
	found.Config, err = found.Parsed.MarshalJSON()
	return learned, err
}

// recall finds the diffID of a file that an artifact of another name has, too. That of a
// tar may be in a record in the words of an image only, which need not be true.
func recall(l image.Descriptor, recorded []*record) image.Digest {
	if l.File == "" {
		return ""
	}
	for _, rec := range recorded {
		if rec.Manifest != "" { // an image, as that of an artifact is not recorded
			continue
		}
		for _, b := range rec.Blobs {
			if b.Digest == l.Digest && b.File == l.File {
				return b.DiffID
			}
		}
	}
	return ""
}

// reportLearned puts what identify has fetched into the report.
func (p *pull) reportLearned(learned []store.LayerReport) {
	for _, report := range learned {
		for i := range p.report.Layers {
			if p.report.Layers[i].Layer == report.Layer {
				p.report.Layers[i] = report
			}
		}
	}
}
