package inflate

import (
	"errors"
	"hash/crc32"
	"io"
)

const (
	window   = 32 << 10 // how far back a match may reach
	inSize   = 64<<10 + 64
	outSize  = window + 224<<10
	maxMatch = 258

	// What one round of fast may read and write at most, with what it does in whole words.
	// Reads: three words, of which none begins more than 7 bytes behind the one before.
	inRound  = 32
	outRound = 3 + maxMatch + 16 + 8
)

// What can be wrong with the data, besides that it ends too early.
var (
	errHeader   = errors.New("the header is not that of a gzip member")
	errChecksum = errors.New("the content does not have the checksum or the size that the trailer says")
	errBlock    = errors.New("a block of compressed data is malformed")
	errCode     = errors.New("a Huffman code is malformed")
	errDistance = errors.New("a match begins before the content")
)

// Reader reads what gzip members have in them, one after the other. An error other than
// io.EOF is that of the source, or io.ErrUnexpectedEOF where the source ends too early, or
// says what is wrong with the data. Only io.EOF proves that the checksums were right.
type Reader struct {
	src    io.Reader
	srcErr error // why no more comes into in
	in     []byte
	pos    int // of the first byte of in that is not in bits
	end    int // of what in holds

	// The next bits of the stream. nbits of them count; those above are zero, or what
	// in[pos:] has anyway.
	bits  uint64
	nbits uint

	buffer []byte // of Read
	out    []byte
	given  int // out[given:filled] is not handed out yet
	filled int
	begin  int // of the member in out, or of what out still has of it
	sum    uint32
	size   uint32

	state  state
	final  bool
	stored int // bytes of the present stored block that are still to come
	err    error

	tables *tables // of the present block
	own    tables
}

type state uint8

const (
	atMember state = iota
	atBlock
	inStored
	inCodes
	atTrailer
)

// NewReader reads the header of the first member. It reads src to its end, ahead of what it
// hands out.
func NewReader(src io.Reader) (*Reader, error) {
	r := &Reader{src: src, in: make([]byte, inSize)}
	if err := r.header(); err != nil {
		return nil, err
	}
	r.state = atBlock
	return r, nil
}

// Read implements io.Reader. It has a buffer of its own for the content, and returns what there
// is of that before it waits for the source.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.given == r.filled {
		if r.full() {
			if r.buffer == nil {
				r.buffer = make([]byte, outSize)
			}
			r.goOnIn(r.buffer)
		}
		r.next(true)
	}
	n := copy(p, r.out[r.given:r.filled])
	if r.given += n; n == 0 {
		return 0, r.err
	}
	return n, nil
}

// MinBuffer is the least that Fill can do with.
const MinBuffer = window + 64<<10

// Fill is Read without a copy: it decodes into a buffer, of MinBuffer or more, until that is
// full or the content ends, and returns the part of it that has content, or an error. It looks
// at what it has returned again in the next call, so that must be as it was until then; the
// buffer may be the same. A Reader is used by Read or by Fill.
func (r *Reader) Fill(buffer []byte) ([]byte, error) {
	r.goOnIn(buffer)
	// Whole pages, so that who writes them to a file writes no page twice.
	size := (len(buffer) - window - outRound) &^ (page - 1)
	r.out = buffer[:r.given+size+outRound]
	r.next(false)
	content := r.out[r.given:min(r.filled, r.given+size)]
	if r.given += len(content); len(content) == 0 {
		return nil, r.err
	}
	return content, nil
}

const page = 4 << 10

// goOnIn takes another buffer for what follows, and what is not handed out yet.
func (r *Reader) goOnIn(buffer []byte) {
	moved := max(r.given-window, 0)
	n := copy(buffer, r.out[moved:r.filled])
	r.begin = max(r.begin-moved, 0)
	r.out, r.given, r.filled = buffer, r.given-moved, n
}

// next decodes into out until that is full, or there is an error. It is called when all
// before is handed out. A prompt one returns what it has before it waits for the source.
func (r *Reader) next(prompt bool) {
	for r.err == nil && !r.full() {
		from := r.filled
		waits := false
		switch r.state {
		case atMember:
			if r.err = r.header(); r.err == nil {
				r.state = atBlock
			}
		case atBlock:
			r.err = r.block()
		case inStored:
			waits, r.err = r.copyStored()
		case inCodes:
			waits, r.err = r.decode()
		case atTrailer:
			if r.err = r.trailer(); r.err == nil {
				r.state = atMember
			}
		}
		r.sum = crc32.Update(r.sum, crc32.IEEETable, r.out[from:r.filled])
		r.size += uint32(r.filled - from)
		if waits {
			if prompt && r.given < r.filled {
				return
			}
			r.fill()
		}
	}
}

// full tells that a round of fast might not have room.
func (r *Reader) full() bool { return r.filled > len(r.out)-outRound }

// fill reads more of the source; srcErr says that there is no more.
func (r *Reader) fill() {
	r.putBack()
	r.end = copy(r.in, r.in[r.pos:r.end])
	r.pos = 0
	for range 100 {
		n, err := r.src.Read(r.in[r.end:])
		r.end += n
		r.srcErr = err
		if n > 0 || err != nil {
			return
		}
	}
	r.srcErr = io.ErrNoProgress
}

// putBack leaves no whole byte in bits.
func (r *Reader) putBack() {
	r.pos -= int(r.nbits / 8)
	r.nbits %= 8
	r.bits &= 1<<r.nbits - 1
}

// ended is why there is no more where there should be.
func (r *Reader) ended() error {
	if r.srcErr == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return r.srcErr
}

// need sees to it that bits has n bits, of at most 48, and reports whether the stream has as
// many.
func (r *Reader) need(n uint) bool {
	return r.nbits >= n || r.refill(n)
}

func (r *Reader) refill(n uint) bool {
	r.bits &= 1<<r.nbits - 1
	for r.nbits <= 56 {
		if r.pos == r.end {
			if r.nbits >= n || r.srcErr != nil {
				break
			}
			r.fill()
			continue
		}
		r.bits |= uint64(r.in[r.pos]) << r.nbits
		r.pos++
		r.nbits += 8
	}
	return r.nbits >= n
}

// take takes n bits that need has seen to.
func (r *Reader) take(n uint) uint {
	v := r.bits & (1<<n - 1)
	r.bits >>= n & 63
	r.nbits -= n
	return uint(v)
}

// readByte reads a byte where no bits are left of another.
func (r *Reader) readByte() (byte, error) {
	for r.pos == r.end {
		if r.srcErr != nil {
			return 0, r.ended()
		}
		r.fill()
	}
	r.pos++
	return r.in[r.pos-1], nil
}

func (r *Reader) readFull(p []byte) (err error) {
	for i := range p {
		if p[i], err = r.readByte(); err != nil {
			return err
		}
	}
	return nil
}
