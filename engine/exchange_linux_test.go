package engine

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
)

// Whoever writes into a pipe may stop to, and keep it open.
func TestReadingAPipeEndsWithItsContext(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	in, err := interruptible(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "abc"); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(io.LimitReader(in, 3)); string(b) != "abc" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	why := errors.New("enough")
	go cancel(why)
	if n, err := in.Read(make([]byte, 1)); n > 0 || !errors.Is(err, why) {
		t.Errorf("read %d, %v", n, err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Errorf("the pipe itself: %d, %v", n, err)
	}
}
