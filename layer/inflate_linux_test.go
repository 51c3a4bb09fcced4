package layer

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"berth/container"
	"berth/internal/testrig"
)

func TestALayerIsTheSameHoweverItIsCompressed(t *testing.T) {
	tarball := archive(file("x", strings.Repeat("0123456789", 100000)))
	s := newStore(t, testLimits)
	plain := addLayer(t, s, tarball)
	for _, program := range []string{"gzip", "zstd", "bzip2", "xz"} {
		packed := testrig.Compress(t, program, tarball)
		if got := Compression(packed[:CompressionPeek]); got != program {
			t.Errorf("what %s has written is taken for %q", program, got)
		}
		if info := addLayer(t, newStore(t, testLimits), packed); info.DiffID != plain.DiffID {
			t.Errorf("%s: the diffID is %s, want %s", program, info.DiffID, plain.DiffID)
		}
	}
}

// The first bytes of a tar are a name.
func TestATarIsNotTakenForACompressedOne(t *testing.T) {
	for _, name := range []string{"BZh", "BZh9", "BZh91AY", "7zXZ", "(/usr"} {
		tarball := archive(file(name, "x"))
		if got := Compression(tarball[:CompressionPeek]); got != "" {
			t.Errorf("a tar that begins with the file %q is taken for %s", name, got)
		}
		addLayer(t, newStore(t, testLimits), tarball)
	}
}

// What counts is what is stored, where the compressed bytes come out of something else.
func TestInflateIsBoundedByWhatIsStored(t *testing.T) {
	packed := gzipped(t, make([]byte, 24<<20))
	count := func(stored func() int64) (int64, error) {
		r, err := Inflate(t.Context(), bytes.NewReader(packed), testLimits, stored)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		return io.Copy(io.Discard, r)
	}
	if n, err := count(func() int64 { return 24 << 20 }); err != nil || n != 24<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
	for name, stored := range map[string]func() int64{"what is read": nil, "less": func() int64 { return 1 }} {
		if n, err := count(stored); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("bounded by %s: %d bytes, %v", name, n, err)
		}
	}
}
