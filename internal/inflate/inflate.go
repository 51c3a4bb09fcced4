package inflate

import (
	"encoding/binary"
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
	r := &Reader{src: src, in: make([]byte, inSize), out: make([]byte, outSize)}
	if err := r.header(); err != nil {
		return nil, err
	}
	r.state = atBlock
	return r, nil
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.given == r.filled {
		r.next()
	}
	n := copy(p, r.out[r.given:r.filled])
	if r.given += n; n == 0 {
		return 0, r.err
	}
	return n, nil
}

// WriteTo implements io.WriterTo. It gives w what it has in its own buffer.
func (r *Reader) WriteTo(w io.Writer) (n int64, err error) {
	for {
		if r.given == r.filled {
			r.next()
		}
		if r.given == r.filled {
			if r.err == io.EOF {
				return n, nil
			}
			return n, r.err
		}
		m, err := w.Write(r.out[r.given:r.filled])
		r.given += m
		n += int64(m)
		if err == nil && r.given < r.filled {
			err = io.ErrShortWrite
		}
		if err != nil {
			return n, err
		}
	}
}

// next fills out with what comes next. It is called when all before is handed out, and ends
// with something to hand out, or an error.
func (r *Reader) next() {
	if r.full() {
		moved := r.filled - window
		copy(r.out, r.out[moved:r.filled])
		r.begin = max(r.begin-moved, 0)
		r.given, r.filled = window, window
	}
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
			// The source may take long.
			if r.given < r.filled {
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

const (
	headerSum = 1 << (1 + iota)
	headerExtra
	headerName
	headerComment
	headerReserved = 0xe0

	maxString = 512 // of a name or a comment, with its end, as compress/gzip has it
)

// header reads what a member begins with (RFC 1952, 2.3). Its error is io.EOF where the
// source ends before it.
func (r *Reader) header() error {
	var sum uint32
	var h [10]byte
	for i := range h {
		var err error
		if h[i], err = r.readByte(); err != nil {
			if i == 0 && r.srcErr == io.EOF {
				return io.EOF
			}
			return err
		}
	}
	sum = crc32.ChecksumIEEE(h[:])
	flags := h[3]
	if h[0] != 0x1f || h[1] != 0x8b || h[2] != 8 || flags&headerReserved != 0 {
		return errHeader
	}
	if flags&headerExtra != 0 {
		if err := r.readFull(h[:2]); err != nil {
			return err
		}
		sum = crc32.Update(sum, crc32.IEEETable, h[:2])
		for range binary.LittleEndian.Uint16(h[:]) {
			if err := r.readFull(h[:1]); err != nil {
				return err
			}
			sum = crc32.Update(sum, crc32.IEEETable, h[:1])
		}
	}
	for _, flag := range []byte{headerName, headerComment} {
		if flags&flag == 0 {
			continue
		}
		for i := 0; ; i++ {
			if i == maxString {
				return errHeader
			}
			if err := r.readFull(h[:1]); err != nil {
				return err
			}
			sum = crc32.Update(sum, crc32.IEEETable, h[:1])
			if h[0] == 0 {
				break
			}
		}
	}
	if flags&headerSum != 0 {
		if err := r.readFull(h[:2]); err != nil {
			return err
		}
		if binary.LittleEndian.Uint16(h[:]) != uint16(sum) {
			return errHeader
		}
	}
	r.begin, r.sum, r.size = r.filled, 0, 0
	return nil
}

// trailer reads what a member ends with.
func (r *Reader) trailer() error {
	r.putBack()
	r.bits, r.nbits = 0, 0
	var t [8]byte
	if err := r.readFull(t[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(t[:]) != r.sum || binary.LittleEndian.Uint32(t[4:]) != r.size {
		return errChecksum
	}
	return nil
}

// block reads what a block begins with (RFC 1951, 3.2.3).
func (r *Reader) block() error {
	if r.final {
		r.final = false
		r.state = atTrailer
		return nil
	}
	if !r.need(3) {
		return r.ended()
	}
	r.final = r.take(1) == 1
	switch r.take(2) {
	case 0:
		r.putBack()
		r.bits, r.nbits = 0, 0
		var n [4]byte
		if err := r.readFull(n[:]); err != nil {
			return err
		}
		r.stored = int(binary.LittleEndian.Uint16(n[:]))
		if r.stored != int(^binary.LittleEndian.Uint16(n[2:])) {
			return errBlock
		}
		r.state = inStored
	case 1:
		r.tables = &fixed
		r.state = inCodes
	case 2:
		r.state = inCodes
		return r.codes()
	default:
		return errBlock
	}
	return nil
}

// lenOrder is in which order the lengths of the length code come.
var lenOrder = [lenCodes]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// codes reads the codes of a block of type 2 (RFC 1951, 3.2.7).
func (r *Reader) codes() error {
	if !r.need(14) {
		return r.ended()
	}
	litlens, dists, n := 257+int(r.take(5)), 1+int(r.take(5)), 4+int(r.take(4))
	if litlens > 286 || dists > 30 {
		return errCode
	}
	// As long as the longest run goes over the end.
	var lens [286 + 30 + 138]uint8
	for _, symbol := range lenOrder[:n] {
		if !r.need(3) {
			return r.ended()
		}
		lens[symbol] = uint8(r.take(3))
	}
	var table [1 << lenBits]entry
	if !build(table[:], lenBits, lens[:lenCodes], lenMeaning[:]) {
		return errCode
	}
	clear(lens[:lenCodes])
	for i := 0; i < litlens+dists; {
		r.need(lenBits + 7)
		e := table[r.bits&(1<<lenBits-1)]
		if r.nbits < uint(e&0xff) {
			return r.ended()
		}
		if e&isSpecial != 0 {
			return errCode
		}
		r.take(uint(e & 0xff))
		symbol := uint8(e >> valueShift)
		if symbol < 16 {
			lens[i] = symbol
			i++
			continue
		}
		run := [3]struct{ least, extra uint }{{3, 2}, {3, 3}, {11, 7}}[symbol-16]
		if r.nbits < run.extra {
			return r.ended()
		}
		times := int(run.least + r.take(run.extra))
		if symbol == 16 {
			if i == 0 {
				return errCode
			}
			for j := range times {
				lens[i+j] = lens[i-1]
			}
		}
		i += times
		if i > litlens+dists {
			return errCode
		}
	}
	if !build(r.own.litlen[:], litlenBits, lens[:litlens], litlenMeaning[:]) ||
		!build(r.own.dist[:], distBits, lens[litlens:litlens+dists], distMeaning[:]) {
		return errCode
	}
	r.tables = &r.own
	return nil
}

// copyStored copies what there is of a stored block; waits, if more must be read for it.
func (r *Reader) copyStored() (waits bool, err error) {
	n := copy(r.out[r.filled:len(r.out)-outRound+1], r.in[r.pos:min(r.end, r.pos+r.stored)])
	r.pos += n
	r.filled += n
	r.stored -= n
	switch {
	case r.stored == 0:
		r.state = atBlock
	case r.full():
	case r.srcErr != nil:
		return false, r.ended()
	default:
		return true, nil
	}
	return false, nil
}

// decode decodes what there is of a block with codes; waits, if more must be read for it.
func (r *Reader) decode() (waits bool, err error) {
	for !r.full() {
		var ended bool
		switch {
		case r.end-r.pos >= inRound:
			ended, err = r.fast()
		case r.srcErr == nil:
			return true, nil
		default:
			ended, err = r.one()
		}
		if ended {
			r.state = atBlock
		}
		if ended || err != nil {
			return false, err
		}
	}
	return false, nil
}

// one decodes what the next code says, near the end of the source. It reports whether the
// block ends.
func (r *Reader) one() (ended bool, err error) {
	r.refill(48)
	e, extra, ok := r.symbol(r.tables.litlen[:], litlenBits)
	switch {
	case !ok:
		return false, r.ended()
	case e&isLiteral != 0:
		r.out[r.filled] = byte(e >> valueShift)
		r.filled++
		return false, nil
	case e&isEnd != 0:
		return true, nil
	case e&isSpecial != 0:
		return false, errCode
	}
	length := int(e>>valueShift) + extra
	e, extra, ok = r.symbol(r.tables.dist[:], distBits)
	switch {
	case !ok:
		return false, r.ended()
	case e&isSpecial != 0:
		return false, errCode
	}
	dist := int(e>>valueShift) + extra
	if dist > r.filled-r.begin {
		return false, errDistance
	}
	for range length {
		r.out[r.filled] = r.out[r.filled-dist]
		r.filled++
	}
	return false, nil
}

// symbol takes the next code and its extra bits, if there are as many bits.
func (r *Reader) symbol(table []entry, tableBits uint) (e entry, extra int, ok bool) {
	e = table[r.bits&(1<<tableBits-1)]
	if e&isSubtable != 0 {
		if r.nbits < tableBits {
			return 0, 0, false
		}
		r.take(tableBits)
		e = table[uint(e>>valueShift)+uint(r.bits&(1<<(e>>codeShift&15)-1))]
	}
	if r.nbits < uint(e&0xff) {
		return 0, 0, false
	}
	return e, int(r.take(uint(e&0xff)) >> (e >> codeShift & 15)), true
}
