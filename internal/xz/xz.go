// Package xz reads the .xz file format (version 1.2.1) with bounded memory: it parses the
// container by itself, because the dictionary of a block may be said to have four gigabytes,
// and the index of a file to have any number of records.
package xz

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// MaxDictionary is what a block may want as its dictionary: what xz -9 makes.
const MaxDictionary = 64 << 20

var (
	magic       = []byte("\xfd7zXZ\x00")
	footerMagic = []byte("YZ")
)

// Reader reads the content of streams, one after the other. An error other than io.EOF says
// what is wrong with them, or is that of the source.
type Reader struct {
	in     *counted
	check  byte // of the stream
	blocks uint64
	block  *block
	err    error
}

// counted counts what is read of the source.
type counted struct {
	*bufio.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *counted) ReadByte() (byte, error) {
	b, err := c.Reader.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// block is one that is being read.
type block struct {
	content io.Reader
	sum     hash.Hash
	begin   int64 // where its data begin
}

// NewReader reads the header of the first stream.
func NewReader(source io.Reader) (*Reader, error) {
	r := &Reader{in: &counted{Reader: bufio.NewReader(source)}}
	return r, r.stream()
}

func (r *Reader) Read(p []byte) (n int, err error) {
	for n == 0 && r.err == nil && len(p) > 0 {
		n, r.err = r.read(p)
	}
	if n > 0 {
		return n, nil
	}
	return 0, r.err
}

func (r *Reader) read(p []byte) (int, error) {
	if r.block == nil {
		return 0, r.next()
	}
	n, err := r.block.content.Read(p)
	r.block.sum.Write(p[:n])
	if err == io.EOF {
		err = r.endBlock()
	}
	return n, err
}

// whole reads n bytes, which have to be there.
func (r *Reader) whole(n int) ([]byte, error) {
	data := make([]byte, n)
	_, err := io.ReadFull(r.in, data)
	return data, cut(err)
}

func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

var errDamaged = errors.New("it is damaged")

func sumIs(data, sum []byte) error {
	if crc32.ChecksumIEEE(data) != binary.LittleEndian.Uint32(sum) {
		return fmt.Errorf("%w: a checksum is wrong", errDamaged)
	}
	return nil
}

// stream reads the header of a stream.
func (r *Reader) stream() error {
	header, err := r.whole(12)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(header, magic) {
		return fmt.Errorf("%w: no stream begins here", errDamaged)
	}
	if err := sumIs(header[6:8], header[8:]); err != nil {
		return err
	}
	r.check, r.blocks = header[7], 0
	if newSum(r.check) == nil || header[6] != 0 {
		return fmt.Errorf("checks of type %d are not known", r.check)
	}
	return nil
}

// newSum returns the check of a type, or nil.
func newSum(check byte) hash.Hash {
	switch check {
	case 0:
		return noSum{}
	case 1:
		return crc32.NewIEEE()
	case 4:
		return crc64.New(crc64.MakeTable(crc64.ECMA))
	case 10:
		return sha256.New()
	}
	return nil
}

// noSum is the check of a stream without one.
type noSum struct{}

func (noSum) Write(p []byte) (int, error) { return len(p), nil }
func (noSum) Sum(b []byte) []byte         { return b }
func (noSum) Reset()                      {}
func (noSum) Size() int                   { return 0 }
func (noSum) BlockSize() int              { return 1 }

// next goes on to the next block, over the end of a stream.
func (r *Reader) next() error {
	first, err := r.in.ReadByte()
	if err != nil {
		return cut(err)
	}
	if first == 0 {
		return r.endStream()
	}
	rest, err := r.whole((int(first)+1)*4 - 1)
	if err != nil {
		return err
	}
	header := append([]byte{first}, rest...)
	end := len(header) - 4
	if err := sumIs(header[:end], header[end:]); err != nil {
		return err
	}
	dictionary, err := dictionaryOf(header[1:end])
	if err != nil {
		return err
	}
	begin := r.in.n
	content, err := lzma.Reader2Config{DictCap: dictionary}.NewReader2(r.in)
	if err != nil {
		return cut(err)
	}
	r.block = &block{content, newSum(r.check), begin}
	r.blocks++
	return nil
}

// dictionaryOf reads what a header of a block says beside its own size.
func dictionaryOf(header []byte) (int, error) {
	const lzma2 = 0x21
	flags, fields := header[0], bytes.NewReader(header[1:])
	for _, size := range []byte{0x40, 0x80} { // of the data, and of the content
		if flags&size != 0 {
			if _, err := binary.ReadUvarint(fields); err != nil {
				return 0, cut(err)
			}
		}
	}
	var filter [3]byte
	if _, err := io.ReadFull(fields, filter[:]); err != nil {
		return 0, cut(err)
	}
	if flags&^0xc0 != 0 || filter[0] != lzma2 || filter[1] != 1 {
		return 0, errors.New("it has other filters than LZMA2")
	}
	dictionary, err := lzma.DecodeDictCap(filter[2])
	if err != nil {
		return 0, err
	}
	if dictionary > MaxDictionary {
		return 0, fmt.Errorf("its dictionary has %d bytes, at most %d are allowed", dictionary, MaxDictionary)
	}
	return int(max(dictionary, lzma.MinDictCap)), nil
}

// endBlock reads what follows the data of a block.
func (r *Reader) endBlock() error {
	b := r.block
	r.block = nil
	if err := r.padding(r.in.n - b.begin); err != nil {
		return err
	}
	sum, err := r.whole(b.sum.Size())
	if err != nil {
		return err
	}
	want := b.sum.Sum(nil)
	if r.check == 1 || r.check == 4 { // little endian in the file
		for i, j := 0, len(want)-1; i < j; i, j = i+1, j-1 {
			want[i], want[j] = want[j], want[i]
		}
	}
	if !bytes.Equal(sum, want) {
		return fmt.Errorf("%w: a checksum is wrong", errDamaged)
	}
	return nil
}

// padding reads the zeros after size bytes, up to a multiple of four.
func (r *Reader) padding(size int64) error {
	zeros, err := r.whole(int(-size & 3))
	if err == nil && len(bytes.Trim(zeros, "\x00")) > 0 {
		err = fmt.Errorf("%w: there are bytes between its parts", errDamaged)
	}
	return err
}

// endStream reads index and footer, after the zero that begins the index, and the header of
// the next stream. The checks of the blocks tell more than the sizes in the index.
func (r *Reader) endStream() error {
	sum := crc32.NewIEEE()
	sum.Write([]byte{0})
	index := &summed{r.in, sum}
	begin := r.in.n - 1
	records, err := binary.ReadUvarint(index)
	if err != nil {
		return cut(err)
	}
	if records != r.blocks {
		return fmt.Errorf("%w: its index has %d records, it has %d blocks", errDamaged, records, r.blocks)
	}
	for range 2 * records {
		if _, err := binary.ReadUvarint(index); err != nil {
			return cut(err)
		}
	}
	for (r.in.n-begin)&3 != 0 {
		if zero, err := index.ReadByte(); err != nil || zero != 0 {
			return errors.Join(cut(err), errDamaged)
		}
	}
	tail, err := r.whole(4 + 12)
	if err != nil {
		return err
	}
	footer := tail[4:]
	if binary.LittleEndian.Uint32(tail) != sum.Sum32() || !bytes.Equal(footer[10:], footerMagic) || footer[9] != r.check {
		return fmt.Errorf("%w: its index or its end", errDamaged)
	}
	if err := sumIs(footer[4:10], footer); err != nil {
		return err
	}
	return r.nextStream()
}

// summed feeds what is read to a checksum.
type summed struct {
	in  *counted
	sum hash.Hash32
}

func (s *summed) ReadByte() (byte, error) {
	b, err := s.in.ReadByte()
	if err == nil {
		s.sum.Write([]byte{b})
	}
	return b, err
}

// nextStream skips the zeros between streams. io.EOF: there is none.
func (r *Reader) nextStream() error {
	for {
		begin, err := r.in.Peek(4)
		switch {
		case err == io.EOF && len(begin) == 0:
			return io.EOF
		case err != nil:
			return cut(err)
		case !bytes.Equal(begin, make([]byte, 4)):
			return r.stream()
		}
		if _, err := r.whole(4); err != nil {
			return err
		}
	}
}
