// Package recordio frames records in a stream of bytes, as the API of Mesos does: the
// length in decimal, a newline, and so many bytes, with nothing between two records.
package recordio

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"

	"berth/container"
)

// maxDigits are those of the longest length, 2^64-1.
const maxDigits = 20

// Reader reads records. It is to be used by one goroutine at a time.
type Reader struct {
	in  *bufio.Reader
	max int
	err error
}

// NewReader returns a Reader of records of at most max bytes.
func NewReader(in io.Reader, max int) *Reader {
	return &Reader{in: bufio.NewReader(in), max: max}
}

// Next returns the next record, which is the caller's. io.EOF: there is none, the stream
// ended after a record. ErrInvalid: the stream is malformed, ends within a record, or has
// one that is too long. After an error there is no further record.
func (r *Reader) Next() ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	record, err := r.next()
	r.err = err
	return record, err
}

func (r *Reader) next() ([]byte, error) {
	length, err := r.length()
	if err != nil {
		return nil, err
	}
	if length > uint64(r.max) {
		return nil, fmt.Errorf("read a record: %w: it has %d bytes, at most %d are allowed", container.ErrInvalid, length, r.max)
	}
	record := make([]byte, length)
	if _, err := io.ReadFull(r.in, record); err != nil {
		return nil, ended(err)
	}
	return record, nil
}

// length reads the digits and the newline before a record.
func (r *Reader) length() (uint64, error) {
	var digits []byte
	for {
		b, err := r.in.ReadByte()
		switch {
		case err == io.EOF && len(digits) == 0:
			return 0, io.EOF
		case err != nil:
			return 0, ended(err)
		case b == '\n':
			length, err := strconv.ParseUint(string(digits), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read a record: %w: its length is %q", container.ErrInvalid, digits)
			}
			return length, nil
		case b < '0' || b > '9' || len(digits) == maxDigits:
			return 0, fmt.Errorf("read a record: %w: its length begins with %q; it is to be decimal digits and a newline", container.ErrInvalid, append(digits, b))
		}
		digits = append(digits, b)
	}
}

// ended says that the stream ended within a record, if that is what happened.
func ended(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read a record: %w: the stream ends within it", container.ErrInvalid)
	}
	return fmt.Errorf("read a record: %w", err)
}

// Append adds a record to a stream.
func Append(stream, record []byte) []byte {
	stream = strconv.AppendInt(stream, int64(len(record)), 10)
	stream = append(stream, '\n')
	return append(stream, record...)
}
