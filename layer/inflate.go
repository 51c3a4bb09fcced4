package layer

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"berth/container"
	gzip "berth/internal/inflate"
	"berth/internal/readahead"
	"berth/internal/xz"
)

// The windows of zstd decoders, which is what they keep in memory. Encoders use at most the usual
// one unless told to (RFC 8878, 3.1.1.1.2).
const (
	usualWindow = 8 << 20
	maxWindow   = 32 << 20
)

// CompressionPeek is how many of the first bytes tell how the content is compressed.
const CompressionPeek = 10

// compressions are told by their first bytes, because registries are known to serve
// layers under the wrong media type.
var compressions = []struct {
	name   string
	is     func(begin []byte) bool
	window func(begin []byte) int64
	open   func(io.Reader) (r io.Reader, close func() error, err error)
}{
	{"gzip", begins("\x1f\x8b"), small, func(r io.Reader) (io.Reader, func() error, error) {
		z, err := gzip.NewReader(r)
		return z, nothingToClose, err
	}},
	{"zstd", isZstd, zstdWindow, func(r io.Reader) (io.Reader, func() error, error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, func() error { z.Close(); return nil }, nil
	}},
	{"bzip2", isBzip2, small, func(r io.Reader) (io.Reader, func() error, error) {
		return bzip2.NewReader(r), nothingToClose, nil
	}},
	{"xz", begins("\xfd7zXZ\x00"), usual, func(r io.Reader) (io.Reader, func() error, error) {
		z, err := xz.NewReader(r)
		return z, nothingToClose, err
	}},
}

func nothingToClose() error { return nil }

func begins(magic string) func([]byte) bool {
	return func(begin []byte) bool { return bytes.HasPrefix(begin, []byte(magic)) }
}

// isZstd knows skippable frames, too, with which some zstd:chunked layers start (RFC 8878,
// 3.1.2).
func isZstd(begin []byte) bool {
	return bytes.HasPrefix(begin, []byte("\x28\xb5\x2f\xfd")) ||
		len(begin) >= 4 && begin[0]&0xf0 == 0x50 && string(begin[1:4]) == "\x2a\x4d\x18"
}

// zstdWindow is that of the first frame: whoever compresses a layer does so in one way.
func zstdWindow(begin []byte) int64 {
	var header zstd.Header
	if header.Decode(begin) != nil || header.Skippable {
		return usualWindow
	}
	return int64(min(header.WindowSize, maxWindow))
}

// small is for formats whose decoders keep little.
func small([]byte) int64 { return 0 }

// usual is for xz, whose dictionary is as large as a window of zstd mostly is.
func usual([]byte) int64 { return usualWindow }

// isBzip2 looks at the first block, too: a tar may well begin with a file whose name begins
// with BZh.
func isBzip2(begin []byte) bool {
	const first, none = "1AY&SY", "\x17\x72\x45\x38\x50\x90"
	return len(begin) >= 10 && string(begin[:3]) == "BZh" && '1' <= begin[3] && begin[3] <= '9' &&
		(string(begin[4:10]) == first || string(begin[4:10]) == none)
}

// Compression names how content is compressed that has these first CompressionPeek bytes,
// or fewer if it is shorter: "" for not at all.
func Compression(begin []byte) string {
	for _, c := range compressions {
		if c.is(begin) {
			return c.name
		}
	}
	return ""
}

// Inflate returns the uncompressed content of r, which is compressed with gzip, zstd, bzip2
// or xz or not at all, for those who unpack what has layers in it: it is bounded as that of
// a layer is, and ends with ctx. Closing it frees the decoder, not r.
//
// stored returns how many bytes were read of what is stored, where r is not just that but
// what it was decrypted to; nil: those of r.
//
// An error of r is returned as it is; of class ErrInvalid are bytes that are malformed or
// beyond the limits.
func Inflate(ctx context.Context, r io.Reader, limits Limits, stored func() int64) (io.ReadCloser, error) {
	src := &source{r: r}
	if stored == nil {
		stored = src.n.Load
	}
	inflated, err := inflate(src, func(int64) error { return nil })
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{metered(ctx, inflated, &budget{limits: limits, compressed: stored}), inflated}, nil
}

// inflate returns the uncompressed content of blob. Closing the result frees the decoder,
// not blob. Before there is a decoder that keeps what it has written in memory, reserve is told how
// many bytes that is.
func inflate(blob io.Reader, reserve func(window int64) error) (*decoder, error) {
	d := &decoder{blob: errorOf{r: blob}}
	buffered := bufio.NewReaderSize(&d.blob, 64<<10)
	begin, err := buffered.Peek(max(CompressionPeek, zstd.HeaderMaxSize))
	if err != nil && err != io.EOF {
		return nil, err
	}
	d.r, d.close = buffered, nothingToClose
	for _, c := range compressions {
		if !c.is(begin) {
			continue
		}
		d.format = c.name
		if err := reserve(c.window(begin)); err != nil {
			return nil, err
		}
		if d.r, d.close, err = c.open(buffered); err != nil {
			return nil, d.classify(err)
		}
		break // its decoder may read ahead already: begin is no longer what it was
	}
	var fills bool
	if d.source, fills = d.r.(readahead.Source); !fills {
		d.source = readahead.Buffered(d.r)
	}
	return d, nil
}

// errorOf keeps the error of a reader, which tells a blob that cannot be read (a broken
// download, say) from one that has the wrong bytes. Some decoders read in a goroutine of their
// own.
type errorOf struct {
	r   io.Reader
	err atomic.Pointer[error]
}

func (e *errorOf) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && err != io.EOF {
		e.err.Store(&err)
	}
	return n, err
}

// decoder tells what is wrong with the compressed bytes.
type decoder struct {
	blob   errorOf
	format string // "": not compressed
	r      io.Reader
	source readahead.Source // is r
	close  func() error
}

func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	return n, d.classify(err)
}

// Fill implements readahead.Source.
func (d *decoder) Fill(buffer []byte) ([]byte, error) {
	piece, err := d.source.Fill(buffer)
	return piece, d.classify(err)
}

// classify passes the error of the blob as it is. Without one the blob was read
// well, so its bytes are wrong; among these errors is an io.ErrUnexpectedEOF.
func (d *decoder) classify(err error) error {
	if err == nil {
		return nil
	}
	// Also at the end: the zstd decoder takes an io.ErrUnexpectedEOF between two frames for it.
	if failed := d.blob.err.Load(); failed != nil {
		return *failed
	}
	if err == io.EOF || d.format == "" {
		return err
	}
	return fmt.Errorf("%w: %s: %w", container.ErrInvalid, d.format, err)
}

func (d *decoder) Close() error { return d.close() }
