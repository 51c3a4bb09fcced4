// Package readahead lets the stages of a stream work at the same time, each on a core of its
// own: who makes the stream, who looks at it on its way and who uses it. Between them are a
// few buffers, which go round: a piece of the stream is handed on in the buffer in which it was
// made, and not copied.
package readahead

import (
	"io"
	"os"
	"sync"
)

// Source makes a stream.
type Source interface {
	// Fill makes the next piece in buffer and returns that part of it, or why there is none, or
	// both. It may look at the piece of the call before.
	Fill(buffer []byte) (piece []byte, err error)
}

// Buffered makes a Source of r that fills its buffers.
func Buffered(r io.Reader) Source { return buffered{r} }

type buffered struct{ r io.Reader }

// Fill implements Source. It is io.ReadFull that keeps the error as it is: io.ErrUnexpectedEOF
// from a truncated gzip stream must not be taken for its end.
func (b buffered) Fill(buffer []byte) (piece []byte, err error) {
	n := 0
	for n < len(buffer) && err == nil {
		var m int
		m, err = b.r.Read(buffer[n:])
		n += m
	}
	return buffer[:n], err
}

// Options say how far ahead a Reader may be: Buffers of Size, all in use at most.
type Options struct {
	Buffers, Size int
	// Look is called with each piece in a goroutine of its own, before the Reader returns it;
	// nil: there is nothing to be seen.
	Look func(piece []byte)
	// Waits, if not nil, is told when the Reader begins and when it ceases to wait.
	Waits func(bool)
}

// Reader is the end of a stream that a goroutine makes. It is not safe for concurrent use,
// except that Close may be called while another method waits.
type Reader struct {
	options Options
	ready   chan piece  // may be used
	empty   chan []byte // buffers
	stop    chan struct{}
	stages  sync.WaitGroup
	once    sync.Once
	current piece
}

type piece struct {
	data   []byte
	err    error // after the data
	buffer []byte
}

// New starts to make the stream of src. The caller must Close the Reader; src must not be used
// until then.
func New(src Source, o Options) *Reader {
	r := &Reader{
		options: o,
		// Nobody waits to hand on: there are as many places as buffers.
		ready: make(chan piece, o.Buffers),
		empty: make(chan []byte, o.Buffers),
		stop:  make(chan struct{}),
	}
	for range o.Buffers {
		r.empty <- nil // made when it is needed
	}
	if o.Look == nil {
		r.stages.Go(func() { r.produce(src, r.ready) })
		return r
	}
	made := make(chan piece, o.Buffers)
	r.stages.Go(func() {
		defer close(made)
		r.produce(src, made)
	})
	r.stages.Go(func() {
		for p := range made {
			o.Look(p.data)
			r.ready <- p
		}
	})
	return r
}

func (r *Reader) produce(src Source, made chan<- piece) {
	for {
		select {
		case <-r.stop:
			return
		case buffer := <-r.empty:
			if buffer == nil {
				buffer = make([]byte, r.options.Size)
			}
			data, err := src.Fill(buffer)
			made <- piece{data, err, buffer}
			if err != nil {
				return
			}
		}
	}
}

// Next implements Pieces, with the error of the source.
// After Close it is os.ErrClosed.
func (r *Reader) Next() ([]byte, error) {
	for {
		if r.current.err != nil {
			return nil, r.current.err
		}
		if r.current.buffer != nil {
			r.empty <- r.current.buffer
			r.current.buffer = nil
		}
		if r.current = r.take(); len(r.current.data) > 0 {
			return r.current.data, nil
		}
	}
}

func (r *Reader) take() piece {
	select {
	case <-r.stop:
		return piece{err: os.ErrClosed}
	case p := <-r.ready:
		return p
	default:
	}
	if r.options.Waits != nil {
		r.options.Waits(true)
		defer r.options.Waits(false)
	}
	select {
	case <-r.stop:
		return piece{err: os.ErrClosed}
	case p := <-r.ready:
		return p
	}
}

// Close ends the stages and returns when they have ended; it waits for a Fill of the source that
// is under way. It does not close the source.
func (r *Reader) Close() error {
	r.once.Do(func() { close(r.stop) })
	r.stages.Wait()
	return nil
}
