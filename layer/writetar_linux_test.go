package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"berth/container"
	"berth/image"
)

func TestTheTarIsWrittenAsItWas(t *testing.T) {
	s := newStore(t, testLimits)
	tar := archive(specimen...)
	info := addLayer(t, s, tar)
	var out bytes.Buffer
	if err := s.WriteTar(t.Context(), info.DiffID, &out); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), tar) || int64(out.Len()) != info.Size {
		t.Errorf("%d bytes were written, other ones than the %d of the layer", out.Len(), len(tar))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.WriteTar(ctx, info.DiffID, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := s.WriteTar(t.Context(), image.DigestOf(nil), io.Discard); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("an absent layer: %v", err)
	}
}

// A layer that is broken is not passed on, and does not change the place of what follows.
func TestTheTarOfABrokenLayer(t *testing.T) {
	for what, harm := range map[string]func(damage){
		"a flipped byte":   func(d damage) { d.flip("fs/d/file", 500) },
		"a missing file":   func(d damage) { d.remove("fs/d/file") },
		"a truncated file": func(d damage) { d.must(os.Truncate(d.path("fs/d/file"), 999)) },
	} {
		s := newStore(t, testLimits)
		info := addLayer(t, s, archive(specimen...))
		harm(damage{t, s, s.formDir(info.DiffID, Tree)})
		var out bytes.Buffer
		err := s.WriteTar(t.Context(), info.DiffID, &out)
		if !errors.Is(err, container.ErrFailedPrecondition) || !strings.Contains(err.Error(), "berth repair") {
			t.Errorf("%s: %v", what, err)
		}
		if int64(out.Len()) != info.Size {
			t.Errorf("%s: %d bytes, want %d", what, out.Len(), info.Size)
		}
	}
}
