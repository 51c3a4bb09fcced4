// Package readahead lets the producer of a stream work while its consumer does:
// two stages of a pipeline on two cores, with bounded memory between them.
package readahead

import (
	"io"
	"sync"
)

const (
	chunkSize = 256 << 10
	chunks    = 4
)

// Reader reads from a source in a goroutine of its own, at most 1 MiB ahead.
type Reader struct {
	full    chan chunk
	empty   chan []byte
	stop    chan struct{}
	done    sync.WaitGroup
	once    sync.Once
	waits   func(bool)
	current chunk
	buffer  []byte // the whole buffer that current.data is the rest of
}

type chunk struct {
	data []byte
	err  error
}

// New starts reading src. The caller must Close the Reader; src must not be used
// until then. waits is told when a Read begins and when it ceases to wait for src.
func New(src io.Reader, waits func(bool)) *Reader {
	r := &Reader{
		waits: waits,
		full:  make(chan chunk, chunks),
		empty: make(chan []byte, chunks),
		stop:  make(chan struct{}),
	}
	for range chunks {
		r.empty <- make([]byte, chunkSize)
	}
	r.done.Go(func() { r.produce(src) })
	return r
}

func (r *Reader) produce(src io.Reader) {
	for {
		select {
		case <-r.stop:
			return
		case buf := <-r.empty:
			n, err := fill(src, buf)
			r.full <- chunk{buf[:n], err} // never blocks: there are as many places as buffers
			if err != nil {
				return
			}
		}
	}
}

// fill is io.ReadFull that keeps the error of src as it is: io.ErrUnexpectedEOF
// from a truncated gzip stream must not be taken for its end.
func fill(src io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = src.Read(buf[n:])
		n += m
	}
	return n, err
}

// Read implements io.Reader. It returns the error of the source after its data.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.current.data) == 0 {
		if r.current.err != nil {
			return 0, r.current.err
		}
		if r.buffer != nil {
			r.empty <- r.buffer[:cap(r.buffer)]
		}
		r.current = r.next()
		r.buffer = r.current.data
	}
	n := copy(p, r.current.data)
	r.current.data = r.current.data[n:]
	return n, nil
}

func (r *Reader) next() chunk {
	select {
	case c := <-r.full:
		return c
	default:
	}
	r.waits(true)
	defer r.waits(false)
	return <-r.full
}

// Close ends the goroutine and returns when it has ended; it waits for a Read of
// the source that is under way. It does not close the source.
func (r *Reader) Close() error {
	r.once.Do(func() { close(r.stop) })
	r.done.Wait()
	return nil
}
