package readahead

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestPassesEveryByteAndTheError(t *testing.T) {
	broken := errors.New("broken")
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, broken} {
		for _, size := range []int{0, 1, chunkSize - 1, chunkSize, 5*chunkSize + 17} {
			want := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
			src := io.MultiReader(bytes.NewReader(want), iotest.ErrReader(end))
			r := New(src)
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
	r := New(zeros{})
	if _, err := io.CopyN(io.Discard, r, 10*chunkSize); err != nil {
		t.Fatal(err)
	}
	r.Close()
	r.Close()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
