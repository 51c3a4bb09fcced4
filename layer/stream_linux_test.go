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

	"github.com/klauspost/compress/zstd"
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

// Of zstd, two layers are decoded at a time, or one with a larger window; the others wait, or end
// with their context. Who has no window does not wait for them.
func TestWindowsInFlight(t *testing.T) {
	usual, large := windowed(t, usualWindow), windowed(t, maxWindow)
	try := func(blob []byte) (*stream, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		t.Cleanup(cancel)
		return open(ctx, bytes.NewReader(blob), testLimits)
	}
	opened := func(blob []byte) *stream {
		t.Helper()
		s, err := open(t.Context(), bytes.NewReader(blob), testLimits)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	waits := func(blob []byte) {
		t.Helper()
		if _, err := try(blob); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one more decoder does not wait: %v", err)
		}
	}
	closed := func(s *stream) {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	one, two := opened(usual), opened(usual)
	waits(usual)
	waits(large)
	closed(opened(archive(file("a", "content"))))
	closed(one)
	waits(large)
	closed(opened(usual))
	closed(two)
	three := opened(large)
	waits(usual)
	closed(three)
	closed(opened(usual))
}

// windowed returns a layer whose decoder keeps so many bytes.
func windowed(t *testing.T, window int) []byte {
	t.Helper()
	var packed bytes.Buffer
	w, err := zstd.NewWriter(&packed, zstd.WithWindowSize(window))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(archive(file("a", string(make([]byte, 1<<20))))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := zstdWindow(packed.Bytes()); got != int64(window) {
		t.Fatalf("the window is %d, want %d", got, window)
	}
	return packed.Bytes()
}
