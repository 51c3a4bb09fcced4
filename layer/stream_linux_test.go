package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// However many layers come at a time, the buffers of all together are bounded; the others
// wait, or end with their context, and all are served.
func TestBytesInFlight(t *testing.T) {
	const many = 3 * maxInFlight >> 20 // streams have more than 1 MiB
	s := newStore(t, testLimits)
	var begun, most atomic.Int64
	let := make(chan struct{})
	blob := archive(file("a", "content"))
	var all sync.WaitGroup
	for range many {
		all.Go(func() {
			l := newLease(t, s)
			defer release(t, l)
			content := bytes.NewReader(blob)
			_, err := l.Unpack(context.Background(), EROFS, "", readerFunc(func(p []byte) (int, error) {
				if content.Len() == len(blob) {
					most.Store(max(most.Load(), begun.Add(1)))
					<-let
				}
				n, err := content.Read(p)
				if err == io.EOF {
					begun.Add(-1)
				}
				return n, err
			}))
			if err != nil {
				t.Error(err)
			}
		})
	}
	const fit = maxInFlight / (2 << 20)
	for begun.Load() < fit {
		time.Sleep(time.Millisecond)
	}
	// There is no room now, so this one ends before it reads anything.
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(10*time.Millisecond, cancel)
	l := newLease(t, s)
	defer release(t, l)
	_, err := l.Unpack(ctx, EROFS, "", readerFunc(func([]byte) (int, error) {
		t.Error("it is read, though there is no room for it")
		return 0, io.EOF
	}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("without room, its context at its end: %v", err)
	}
	close(let)
	all.Wait()
	if got := most.Load() * streamSize; got > maxInFlight {
		t.Errorf("%d bytes were in flight, want at most %d", got, maxInFlight)
	}
}
