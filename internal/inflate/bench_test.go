package inflate

import (
	"bytes"
	stdgzip "compress/gzip"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

// cpu is the time that this process had a core for, which others do not distort as they do
// the time that passes.
func cpu(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano())
}

// BenchmarkLayer compares with other decoders, on the gzip file that BERTH_BENCH_GZIP names:
// how much is gained depends on what is in a layer and on who compressed it.
func BenchmarkLayer(b *testing.B) {
	name := os.Getenv("BERTH_BENCH_GZIP")
	if name == "" {
		b.Skip("BERTH_BENCH_GZIP names no layer")
	}
	layer, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	for _, d := range []struct {
		name string
		open func(io.Reader) (io.Reader, error)
	}{
		{"berth", func(r io.Reader) (io.Reader, error) { return NewReader(r) }},
		{"klauspost", func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
		{"std", func(r io.Reader) (io.Reader, error) { return stdgzip.NewReader(r) }},
	} {
		b.Run(d.name, func(b *testing.B) {
			chunk := make([]byte, 256<<10)
			all, before := int64(0), cpu(b)
			for b.Loop() {
				r, err := d.open(bytes.NewReader(layer))
				if err != nil {
					b.Fatal(err)
				}
				// As the layer pipeline reads; with no WriterTo, which klauspost has, too.
				n := int64(0)
				for err == nil {
					var m int
					m, err = r.Read(chunk)
					n += int64(m)
				}
				if err != io.EOF {
					b.Fatal(err)
				}
				b.SetBytes(n)
				all += n
			}
			b.ReportMetric(float64(all)/1e6/(cpu(b)-before).Seconds(), "MB/cpu-s")
		})
	}
}
