package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"berth/container"
)

var errStalled = errors.New("stalled")

// leastBytes is what has to come within the time that a transfer may stall. A drip of
// single bytes is no transfer.
const leastBytes = 4 << 10

// stallBody ends a body that brings next to nothing for a while. The clock runs only
// while a Read waits: how long its reader takes with the bytes does not matter.
type stallBody struct {
	inner  io.ReadCloser
	timer  *time.Timer
	limit  time.Duration
	left   time.Duration           // until leastBytes have to be there
	gained int                     // since left was limit
	end    context.CancelCauseFunc // ends the request, and so unblocks inner.Read
	why    func(error) error       // says what an error of inner means
}

// newStallBody guards the body of a request that was made with the context
// request, within the context caller.
func newStallBody(caller, request context.Context, end context.CancelCauseFunc, inner io.ReadCloser, limit time.Duration) *stallBody {
	b := &stallBody{inner: inner, limit: limit, left: limit, end: end}
	b.timer = time.AfterFunc(limit, func() { end(errStalled) })
	b.timer.Stop()
	b.why = func(err error) error {
		if context.Cause(request) == errStalled {
			return fmt.Errorf("%w: less than %d bytes came within %s", container.ErrUnavailable, leastBytes, limit)
		}
		return networkError(caller, err)
	}
	return b
}

func (b *stallBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.left)
	began := time.Now()
	n, err := b.inner.Read(p)
	b.timer.Stop()
	b.left = max(b.left-time.Since(began), 0)
	if b.gained += n; b.gained >= leastBytes {
		b.left, b.gained = b.limit, 0
	}
	if err != nil && err != io.EOF {
		err = b.why(err)
	}
	return n, err
}

func (b *stallBody) Close() error {
	b.timer.Stop()
	err := b.inner.Close()
	b.end(nil)
	return err
}
