package layer

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"berth/container"
)

// maxWindow bounds the memory of a zstd decoder. Encoders use at most 8 MiB unless
// told to (RFC 8878, 3.1.1.1.2).
const maxWindow = 32 << 20

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	// skippable zstd frames start some zstd:chunked layers (RFC 8878, 3.1.2)
	zstdSkippable = []byte{0x2a, 0x4d, 0x18}
)

// Inflate returns the uncompressed content of r, which is compressed with gzip or zstd or
// not at all, for those who unpack archives of layers: it is bounded as that of a layer is,
// and ends with ctx. Closing it frees the decoder, not r.
//
// An error of r is returned as it is; of class ErrInvalid are bytes that are malformed or
// beyond the limits.
func Inflate(ctx context.Context, r io.Reader, limits Limits) (io.ReadCloser, error) {
	src := &source{r: r}
	inflated, err := inflate(src)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{metered(ctx, inflated, &budget{limits: limits, compressed: src.n.Load}), inflated}, nil
}

// inflate returns the uncompressed content of src, which is gzip, zstd or plain: the
// bytes tell, because registries are known to serve layers under the wrong media
// type. Closing the result frees the decoder, not src.
func inflate(src *source) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(src, 64<<10)
	magic, err := buffered.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	d := &decoder{src: src}
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		z, err := gzip.NewReader(buffered)
		d.format = "gzip"
		if err != nil {
			return nil, d.classify(err)
		}
		d.r, d.close = z, z.Close
	case bytes.Equal(magic, zstdMagic), len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], zstdSkippable):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		d.format = "zstd"
		if err != nil {
			return nil, d.classify(err)
		}
		d.r, d.close = z, func() error { z.Close(); return nil }
	default:
		return io.NopCloser(buffered), nil
	}
	return d, nil
}

// decoder tells what is wrong with the compressed bytes.
type decoder struct {
	src    *source
	r      io.Reader
	format string
	close  func() error
}

func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	// The zstd decoder takes an io.ErrUnexpectedEOF between two frames for the end.
	if err != nil && (err != io.EOF || d.src.err != nil) {
		err = d.classify(err)
	}
	return n, err
}

// classify passes the error of the blob as it is. Without one the blob was read
// well, so its bytes are wrong; among these errors is an io.ErrUnexpectedEOF.
func (d *decoder) classify(err error) error {
	if d.src.err != nil {
		return d.src.err
	}
	return fmt.Errorf("%w: %s: %w", container.ErrInvalid, d.format, err)
}

func (d *decoder) Close() error { return d.close() }
