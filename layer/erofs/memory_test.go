package erofs

import (
	"bytes"
	"fmt"
	"io"
	"syscall"
	"testing"
)

// imageLike fills a Builder with so many entries as an image has them: 20 files in a
// directory.
func imageLike(tb testing.TB, entries int) *Builder { return fillLikeImage(tb, NewBuilder(), entries) }

func fillLikeImage(tb testing.TB, b *Builder, entries int) *Builder {
	var dir Node
	var err error
	for i := range entries {
		if i%21 == 0 {
			dir, err = b.Make(Root, fmt.Sprintf("directory-%d", i), Attr{Mode: syscall.S_IFDIR | 0o755})
		} else {
			var n Node
			if n, err = b.Make(dir, fmt.Sprintf("file-number-%d", i), Attr{Mode: syscall.S_IFREG | 0o644, Sec: int64(i)}); err == nil {
				err = b.SetContent(n, 5000, Extent{Offset: int64(i) * 8192, Length: 5000})
			}
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	return b
}

func TestBuilderIsSmall(t *testing.T) {
	const entries = 20000
	b := imageLike(t, entries)
	var names int64
	for _, piece := range b.text.pieces {
		names += int64(len(piece))
	}
	if each := (b.Size() - names) / entries; each > 110 {
		t.Errorf("%d bytes for an entry beside its name", each)
	}
}

func BenchmarkBuild(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		imageLike(b, 20000)
	}
}

func BenchmarkWrite(b *testing.B) {
	tree := imageLike(b, 20000)
	b.ReportAllocs()
	for b.Loop() {
		if err := tree.Write(io.Discard, 1<<40); err != nil {
			b.Fatal(err)
		}
	}
	var index bytes.Buffer
	if err := tree.Write(&index, 1<<40); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(index.Len())/20000, "bytes/entry")
}
