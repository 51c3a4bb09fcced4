package layer

import (
	"bufio"
	"encoding/json"
	"errors"
	"hash/crc64"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/vbatts/tar-split/tar/storage"
)

// The split of a tar is all of it but the contents of the files that lie in the
// tree: segments of raw bytes and, between them, the places where a file's content
// goes. The records are those of tar-split's storage package, one JSON object a
// line, so that its tools can read them.

// fileSum is the checksum that tar-split keeps of a file's content.
var fileSum = crc64.MakeTable(crc64.ISO)

// maxSegment bounds one record, so that reading a split needs little memory.
const maxSegment = 64 << 10

// splitWriter writes a split.
type splitWriter struct {
	file     io.Closer
	compress *zstd.Encoder
	buffer   *bufio.Writer
	encode   *json.Encoder
	segment  []byte
	position int
}

func newSplitWriter(w io.WriteCloser) (*splitWriter, error) {
	compress, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	buffer := bufio.NewWriterSize(compress, maxSegment)
	return &splitWriter{file: w, compress: compress, buffer: buffer, encode: json.NewEncoder(buffer)}, nil
}

// raw records bytes of the tar.
func (s *splitWriter) raw(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), maxSegment-len(s.segment))
		s.segment = append(s.segment, p[:n]...)
		p = p[n:]
		if len(s.segment) == maxSegment {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// content records that size bytes with the checksum sum follow, which are the
// content of the tree's file name.
func (s *splitWriter) content(name string, size int64, sum []byte) error {
	if err := s.flush(); err != nil {
		return err
	}
	entry := storage.Entry{Type: storage.FileType, Size: size, Payload: sum}
	entry.SetName(name)
	return s.add(entry)
}

func (s *splitWriter) flush() error {
	if len(s.segment) == 0 {
		return nil
	}
	err := s.add(storage.Entry{Type: storage.SegmentType, Payload: s.segment})
	s.segment = s.segment[:0]
	return err
}

func (s *splitWriter) add(entry storage.Entry) error {
	entry.Position = s.position
	s.position++
	return s.encode.Encode(entry)
}

// Close completes the split.
func (s *splitWriter) Close() error {
	return errors.Join(s.flush(), s.buffer.Flush(), s.compress.Close(), s.file.Close())
}

// splitReader reads a split, record by record.
type splitReader struct {
	inflated *zstd.Decoder
	decode   *json.Decoder
}

func newSplitReader(r io.Reader) (*splitReader, error) {
	inflated, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return &splitReader{inflated: inflated, decode: json.NewDecoder(inflated)}, nil
}

// next returns io.EOF at the end of the split.
func (s *splitReader) next() (entry storage.Entry, err error) {
	err = s.decode.Decode(&entry)
	return entry, err
}

func (s *splitReader) close() { s.inflated.Close() }

// recorder passes a stream through and records it in a split, if there is one, while it is
// on.
type recorder struct {
	src   io.Reader
	split *splitWriter
	off   bool
	n     int64
	// err is what ended the stream, unless it was the end: it tells a stream that
	// failed from a tar that is malformed.
	err error
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	r.n += int64(n)
	if n > 0 && !r.off && r.split != nil {
		if splitErr := r.split.raw(p[:n]); splitErr != nil {
			err = splitErr
		}
	}
	r.fail(err)
	return n, err
}

func (r *recorder) fail(err error) {
	if err != nil && err != io.EOF {
		r.err = err
	}
}

// Seek is for package tar, which by it goes over what nobody has read of a file. Where the
// stream is recorded, or has to be read to go on, it says that it cannot.
func (r *recorder) Seek(offset int64, whence int) (int64, error) {
	src, ok := r.src.(interface{ Skip(int64) (int64, error) })
	if !ok || r.split != nil || whence != io.SeekCurrent || offset < 0 {
		return 0, errors.ErrUnsupported
	}
	n, err := src.Skip(offset)
	r.n += n
	r.fail(err)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return r.n, err
}
