package readahead

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"testing/iotest"
)

const size = 4 << 10

var options = Options{Buffers: 3, Size: size}

func TestPassesEveryByteAndTheError(t *testing.T) {
	broken := errors.New("broken")
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, broken} {
		for _, length := range []int{0, 1, size - 1, size, 5*size + 17} {
			want := bytes.Repeat([]byte("0123456789"), length/10+1)[:length]
			var seen []byte
			o := options
			o.Look = func(piece []byte) { seen = append(seen, piece...) }
			r := New(Buffered(io.MultiReader(bytes.NewReader(want), iotest.ErrReader(end))), o)
			got, err := io.ReadAll(Join(r))
			wantErr := end
			if end == io.EOF {
				wantErr = nil
			}
			if !errors.Is(err, wantErr) || !bytes.Equal(got, want) || !bytes.Equal(seen, want) {
				t.Errorf("size %d, end %v: got %d bytes, %d were looked at, and %v", length, end, len(got), len(seen), err)
			}
			if _, again := r.Next(); again != end {
				t.Errorf("size %d, end %v: the next time it is %v", length, end, again)
			}
			r.Close()
		}
	}
}

// A piece is handed on where it was made, and there are no more buffers than was said.
func TestCopiesNothing(t *testing.T) {
	var buffers, pieces []*byte
	src := sourceFunc(func(buffer []byte) ([]byte, error) {
		if !slices.Contains(buffers, &buffer[1]) {
			buffers = append(buffers, &buffer[1])
		}
		return buffer[1:2], nil
	})
	r := New(src, options)
	for range 20 {
		piece, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		pieces = append(pieces, &piece[0])
	}
	r.Close()
	if len(buffers) > options.Buffers {
		t.Errorf("there are %d buffers, want at most %d", len(buffers), options.Buffers)
	}
	for _, p := range pieces {
		if !slices.Contains(buffers, p) {
			t.Error("a piece is not where it was made")
		}
	}
}

// Who makes the stream does not get ahead of who uses it by more than the buffers.
func TestIsBounded(t *testing.T) {
	var filled atomic.Int64
	r := New(sourceFunc(func(buffer []byte) ([]byte, error) {
		filled.Add(1)
		return buffer, nil
	}), options)
	defer r.Close()
	for used := range 100 {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		if made := int(filled.Load()); made > used+1+options.Buffers {
			t.Fatalf("%d pieces are made when %d were used", made, used+1)
		}
	}
}

func TestCloseEndsTheGoroutinesInMidStream(t *testing.T) {
	o := options
	o.Look = func([]byte) {}
	r := New(Buffered(zeros{}), o)
	if _, err := io.CopyN(io.Discard, Join(r), 10*size); err != nil {
		t.Fatal(err)
	}
	r.Close()
	r.Close()
}

// Who waits for the next piece, of a source that nobody will have, is told.
func TestCloseEndsWhoWaits(t *testing.T) {
	stalled := make(chan struct{})
	waits := make(chan struct{}, 1)
	o := options
	o.Waits = func(waiting bool) {
		if waiting {
			waits <- struct{}{}
		}
	}
	r := New(Buffered(gate(stalled)), o)
	ended := make(chan error)
	go func() {
		_, err := r.Next()
		ended <- err
	}()
	<-waits
	go r.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
	close(stalled)
	r.Close()
}

// The source hands over a piece only when the reader has said that it waits for it.
func TestTellsWhenItWaits(t *testing.T) {
	let := make(chan struct{})
	var told []bool
	o := options
	o.Waits = func(waits bool) {
		told = append(told, waits)
		if waits {
			close(let)
		}
	}
	r := New(Buffered(io.MultiReader(gate(let), zeros{})), o)
	if _, err := io.CopyN(io.Discard, Join(r), 10); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(told, []bool{true, false}) {
		t.Errorf("told %v, want that it waits and then that it does not", told)
	}
}

type sourceFunc func(buffer []byte) ([]byte, error)

func (f sourceFunc) Fill(buffer []byte) ([]byte, error) { return f(buffer) }

// gate is empty, and found to be so when it is closed.
type gate chan struct{}

func (g gate) Read([]byte) (int, error) { <-g; return 0, io.EOF }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
