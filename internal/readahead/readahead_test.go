package readahead

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"
)

func TestPassesEveryByteAndTheError(t *testing.T) {
	broken := errors.New("broken")
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, broken} {
		for _, size := range []int{0, 1, chunkSize - 1, chunkSize, 5*chunkSize + 17} {
			want := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
			src := io.MultiReader(bytes.NewReader(want), iotest.ErrReader(end))
			r := New(src, nobody)
			got, err := io.ReadAll(r)
			wantErr := end
			if end == io.EOF {
				wantErr = nil
			}
			if !errors.Is(err, wantErr) || !bytes.Equal(got, want) {
				t.Errorf("size %d, end %v: got %d bytes and %v", size, end, len(got), err)
			}
			r.Close()
		}
	}
}

func TestCloseEndsTheGoroutineInMidStream(t *testing.T) {
	r := New(zeros{}, nobody)
	if _, err := io.CopyN(io.Discard, r, 10*chunkSize); err != nil {
		t.Fatal(err)
	}
	r.Close()
	r.Close()
}

func nobody(bool) {}

// The source hands over a chunk only when the reader has said that it waits for it.
func TestTellsWhenItWaits(t *testing.T) {
	let := make(chan struct{})
	var told []bool
	r := New(io.MultiReader(gate(let), zeros{}), func(waits bool) {
		told = append(told, waits)
		if waits {
			close(let)
		}
	})
	if _, err := io.CopyN(io.Discard, r, 10); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(told, []bool{true, false}) {
		t.Errorf("told %v, want that it waits and then that it does not", told)
	}
}

// gate is empty, and found to be so when it is closed.
type gate chan struct{}

func (g gate) Read([]byte) (int, error) { <-g; return 0, io.EOF }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
