package inflate

import "encoding/binary"

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
