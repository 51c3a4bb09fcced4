package layer

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"berth/image"
	gzip "berth/internal/inflate"
	"berth/internal/readahead"
	"berth/internal/stages"
)

// stream is the tar of a layer on its way from a blob. Four goroutines work on it, of which
// each hands on its buffers to the next:
//
//	blob --> read, hash, keep --64 KiB--> inflate --256 KiB--> hash --256 KiB--> write, index
//	                            ahead                                    tar
//
// The first is the blob's Read, the last is who calls Next.
type stream struct {
	ctx    context.Context
	budget *budget
	blob   *source
	ahead  *readahead.Reader
	plain  *decoder
	tar    *readahead.Reader
	sum    hash.Hash
	window int64 // of the decoder
}

// The buffers of a stream.
var (
	aheadBuffers = readahead.Options{Buffers: 4, Size: 64 << 10}
	tarBuffers   = readahead.Options{Buffers: 6, Size: gzip.MinBuffer + 196<<10} // pieces of 256 KiB
	streamSize   = int64(aheadBuffers.Buffers*aheadBuffers.Size + tarBuffers.Buffers*tarBuffers.Size)
)

// maxInFlight bounds the buffers of all streams of the process together: 16 of them, and the next
// one waits. How many there are beside each other is mostly bounded by the cores, which who
// calls Unpack sees to.
const maxInFlight = 32 << 20

var inFlight = semaphore.NewWeighted(maxInFlight)

// maxWindows bounds what the decoders of all streams keep of what they have written, which is
// most of what a pull takes of memory: two decoders with a usual window work at a time, or one with a
// larger one. Those of others wait, with their buffers; who works needs nothing that they have.
const maxWindows = 2 * usualWindow

var windows = semaphore.NewWeighted(maxWindows)

// largeWindows is how many decoders have a window that is larger than all others together may be.
var largeWindows atomic.Int32

// HasLargeWindow reports whether a layer is being decoded whose window takes most of the memory that
// a pull is to have, so that what else would take some should wait.
func HasLargeWindow() bool { return largeWindows.Load() > 0 }

// open begins to read blob, when there is room for its buffers. The stream ends with ctx, and is
// bounded by limits. The clock of ctx is told what it waits for.
func open(ctx context.Context, blob io.Reader, limits Limits) (_ *stream, err error) {
	if inFlight.Acquire(ctx, streamSize) != nil {
		return nil, context.Cause(ctx)
	}
	clock := stages.Of(ctx)
	s := &stream{ctx: ctx, blob: &source{r: blob, clock: clock}, sum: sha256.New()}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	s.budget = &budget{limits: limits, compressed: s.blob.n.Load}
	options := aheadBuffers
	options.Waits = clock.InflaterWaits
	s.ahead = readahead.New(readahead.Buffered(s.blob), options)
	if s.plain, err = inflate(readahead.Join(s.ahead), s.reserve); err != nil {
		return nil, errors.Join(err, s.ahead.Close())
	}
	clock.UnpackerWaits(false)
	options = tarBuffers
	options.Waits = clock.UnpackerWaits
	options.Look = func(piece []byte) { s.sum.Write(piece) }
	s.tar = readahead.New(s.plain, options)
	return s, nil
}

// reserve waits until there is room for the window of a decoder.
func (s *stream) reserve(window int64) error {
	if windows.Acquire(s.ctx, min(window, maxWindows)) != nil {
		return context.Cause(s.ctx)
	}
	if s.window = window; window > maxWindows {
		largeWindows.Add(1)
	}
	return nil
}

func (s *stream) release() {
	windows.Release(min(s.window, maxWindows))
	if s.window > maxWindows {
		largeWindows.Add(-1)
	}
	inFlight.Release(streamSize)
}

// Next returns the next piece, which is good until the next call; all that takes long goes by
// here. At the end the error is io.EOF.
func (s *stream) Next() ([]byte, error) {
	if s.ctx.Err() != nil {
		return nil, context.Cause(s.ctx)
	}
	piece, err := s.tar.Next()
	if err != nil {
		return nil, err
	}
	if err := s.budget.spend(int64(len(piece))); err != nil {
		return nil, err
	}
	return piece, nil
}

// digest is that of all of it. It may be asked for when Next has returned io.EOF.
func (s *stream) digest() image.Digest {
	return image.DigestOfSum([sha256.Size]byte(s.sum.Sum(nil)))
}

// Close waits for a Read of the blob that is under way. It is called once.
func (s *stream) Close() error {
	defer s.release()
	// In this order: each reads from the one before, and waits for it no longer.
	return errors.Join(s.ahead.Close(), s.tar.Close(), s.plain.Close())
}

// source reads a blob, counts its bytes and tells the clock of the first ones.
type source struct {
	r     io.Reader
	clock *stages.Clock
	n     atomic.Int64 // compressed bytes so far; other goroutines ask
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.n.Add(int64(n)) == int64(n) { // the first bytes
		s.clock.Flow()
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
