package fetch

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
	"berth/internal/disk"
	"berth/internal/stages"
	"berth/layer"
	"berth/provisioner/store"
)

// parallel is how many layers are usually fetched and unpacked at a time. Each keeps about
// one and a half cores busy; one more hides the waits for the network.
var parallel = max(2, runtime.GOMAXPROCS(0)) + 1

// fetch unpacks the absent ones of the layers and makes them visible, all or none.
func (p *pull) fetch(ctx context.Context, layers []Layer, absent []image.Digest) error {
	begin := p.clock.Enter(stages.Fetch)
	all := p.downloads(layers, absent, begin)
	if err := p.unpack(ctx, all); err != nil {
		return err
	}
	now := time.Now()
	for _, d := range all {
		d.settle()
		d.clock.EnterAt(stages.Sync, now)
	}
	if err := p.lease.Commit(ctx); err != nil {
		return err
	}
	end := p.clock.Enter(stages.Record)
	for _, d := range all {
		d.report.Stages = d.clock.StopAt(end)
	}
	return nil
}

// downloads returns what is to be done for the absent layers, and begins their reports
// along with those of the others.
func (p *pull) downloads(layers []Layer, absent []image.Digest, begin time.Time) (all []*download) {
	p.report.Layers = make([]store.LayerReport, len(layers))
	for i, l := range layers {
		report := &p.report.Layers[i]
		*report = store.LayerReport{Layer: l.DiffID, Blob: l.Digest, Size: l.Size, Fetched: l.DiffID == "" || slices.Contains(absent, l.DiffID)}
		event := store.Event{Image: p.key.String(), Layer: l.Digest, Total: l.Size, Stage: store.Present}
		if report.Fetched {
			event.Stage = store.Waiting
			all = append(all, &download{key: p.key, src: p.src, layer: l, form: p.form, clock: stages.StartAt(begin, stages.Layer...), report: report})
		}
		p.progress(event)
	}
	return all
}

// unpack carries out the downloads, side by side, beside those of other pulls.
func (p *pull) unpack(ctx context.Context, all []*download) error {
	// The largest first: the last to finish is then a small one.
	slices.SortStableFunc(all, func(a, b *download) int { return cmp.Compare(b.layer.Size, a.layer.Size) })
	group, groupCtx := errgroup.WithContext(ctx)
	for _, d := range all {
		if err := p.slots.acquire(groupCtx, p); err != nil {
			return cmp.Or(group.Wait(), err) // of a download that failed, or of ctx
		}
		group.Go(func() error {
			defer p.slots.release(p)
			return p.download(groupCtx, d, p.lease)
		})
	}
	return group.Wait()
}

// download is a layer on its way from a source into a lease.
type download struct {
	key    Key // of the image, for the progress
	src    Source
	layer  Layer
	form   layer.Form
	clock  *stages.Clock
	report *store.LayerReport
	kept   keeper // or nil
}

// settle says that all layers of the pull have arrived. What is kept of them goes before
// they are synced, which would write it to the disk, too.
func (d *download) settle() {
	if d.kept != nil {
		d.kept.Settle()
	}
}

// download stages a layer in the lease.
func (s *Store) download(ctx context.Context, d *download, lease *layer.Lease) error {
	if err := s.transfer(ctx, d, lease); err != nil {
		return fmt.Errorf("layer %s: %w", d.layer.Digest, err)
	}
	return disk.At("pull: layer is fetched")
}

// transfer tries again while the bytes were wrong and others may be had.
func (s *Store) transfer(ctx context.Context, d *download, lease *layer.Lease) error {
	ctx = stages.With(ctx, d.clock)
	for {
		err := s.attempt(ctx, d, lease)
		if !errors.Is(err, container.ErrInvalid) || d.kept == nil || !d.kept.Distrust() {
			return err
		}
	}
}

func (s *Store) attempt(ctx context.Context, d *download, lease *layer.Lease) (err error) {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	d.clock.Enter(stages.Connect)
	d.kept = nil
	content, err := d.src.Open(ctx, d.layer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	d.kept, _ = content.(keeper)
	event := store.Event{Image: d.key.String(), Layer: d.layer.Digest, Total: d.layer.Size, Stage: store.Fetching}
	watched := &watchedReader{r: content, store: s, event: event}
	tar, err := d.layer.Tar(watched)
	if err != nil {
		return err
	}
	info, err := lease.Unpack(ctx, d.form, d.layer.DiffID, tar)
	if err != nil {
		return err
	}
	d.clock.Enter(stages.Wait)
	d.report.Layer, d.report.Unpacked = info.DiffID, info.Size
	s.blobsFetched.Add(1)
	event.Stage, event.Done = store.Unpacked, d.layer.Size
	s.progress(event)
	return nil
}

// watchedReader tells the progress of a download, in steps that a person can see.
type watchedReader struct {
	r     io.Reader
	store *Store
	event store.Event
	told  int64
}

func (w *watchedReader) Read(p []byte) (int, error) {
	const step = 256 << 10
	n, err := w.r.Read(p)
	w.store.bytesFetched.Add(int64(n))
	w.event.Done += int64(n)
	if w.event.Done-w.told >= step || err == io.EOF {
		w.told = w.event.Done
		w.store.progress(w.event)
	}
	return n, err
}
