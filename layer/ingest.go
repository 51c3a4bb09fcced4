package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/internal/readahead"
	"berth/internal/stages"
)

// Unpack stages, in a form, the layer whose tar, compressed as Inflate knows it or not at all, is
// the content of blob. It reads blob to its end, in one pass and with bounded
// memory: one goroutine reads and inflates, the other hashes and writes. When ctx
// ends it waits for a Read of blob that is under way. A stages.Clock in ctx is told what
// it waits for.
//
// A nil error proves that the tar had the digest want (when want is not empty) and
// that the form is whole; it becomes visible by Commit. An error of blob is
// returned as it is; of class ErrInvalid are a blob that is no tar, a tar that is
// hostile or beyond the limits, and a wrong digest.
func (l *Lease) Unpack(ctx context.Context, form Form, want image.Digest, blob io.Reader) (Info, error) {
	info, dir, err := l.stage(ctx, form, want, blob)
	if err != nil {
		if dir != "" {
			err = errors.Join(err, removeTree(dir))
		}
		return Info{}, l.store.withRemedy(err)
	}
	l.mu.Lock()
	l.staged = append(l.staged, stagedLayer{formOf{info.DiffID, form}, dir})
	l.mu.Unlock()
	return info, nil
}

func (l *Lease) stage(ctx context.Context, form Form, want image.Digest, blob io.Reader) (info Info, dir string, err error) {
	if dir, err = l.newStaging(ctx); err != nil {
		return Info{}, dir, err
	}
	clock := stages.Of(ctx)
	src := &source{r: blob, clock: clock}
	inflated, err := inflate(src)
	if err != nil {
		return Info{}, dir, err
	}
	clock.UnpackerWaits(false)
	ahead := readahead.New(inflated, clock.UnpackerWaits)
	// In this order: the goroutine of ahead reads from inflated.
	defer func() { err = errors.Join(err, ahead.Close(), inflated.Close()) }()

	budget := &budget{limits: l.store.limits, compressed: src.n.Load}
	info, err = form.make(metered(ctx, ahead, budget), dir, budget)
	if err != nil {
		return Info{}, dir, err
	}
	info.Version = 1
	switch {
	case info.Size == 0:
		return Info{}, dir, fmt.Errorf("%w: it is empty, not a tar archive", container.ErrInvalid)
	case want != "" && info.DiffID != want:
		return Info{}, dir, fmt.Errorf("%w: its uncompressed content has the digest %s, the image's configuration says %s",
			container.ErrInvalid, info.DiffID, want)
	}
	if info, err = l.store.seal(ctx, dir, info); err != nil {
		return Info{}, dir, err
	}
	return info, dir, disk.At("pull: layer is unpacked")
}

// source reads a blob. It keeps the error of the blob, which tells a blob that
// cannot be read (a broken download, say) from one that has the wrong bytes.
type source struct {
	r     io.Reader
	clock *stages.Clock
	n     atomic.Int64 // compressed bytes so far; another goroutine asks
	err   error
}

func (s *source) Read(p []byte) (int, error) {
	s.clock.InflaterWaits(true)
	n, err := s.r.Read(p)
	if s.n.Add(int64(n)) == int64(n) { // the first bytes
		s.clock.Flow()
	}
	s.clock.InflaterWaits(false)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// metered charges the bytes of the uncompressed stream r to the budget, and ends the
// stream with its context: all that takes long goes by this stream.
func metered(ctx context.Context, r io.Reader, budget *budget) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		n, err := r.Read(p)
		if err := budget.spend(int64(n)); err != nil {
			return n, err
		}
		return n, err
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
