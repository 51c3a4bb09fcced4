package inflate

import "encoding/binary"

// fast decodes the codes of a block while there is room for a round in in and in out. It
// reports whether the block ends.
//
// A round begins with 56 bits or more. Literals that are in no subtable take at most 11 each,
// a length 20, a distance 28. Unlike others it has no entries of two literals: to make them
// cost more than they saved on layers.
func (r *Reader) fast() (ended bool, err error) {
	var (
		in, out     = r.in[:r.end], r.out
		pos, w      = r.pos, r.filled
		bits, nbits = r.bits, r.nbits
		t           = r.tables
		lastPos     = len(in) - inRound
		lastW       = len(out) - outRound
		begin       = r.begin
	)
	for pos <= lastPos && w <= lastW {
		bits |= binary.LittleEndian.Uint64(in[pos:]) << (nbits & 63)
		pos += int((63 - nbits) / 8)
		nbits |= 56

		e := t.litlen[bits&(1<<litlenBits-1)]
		if e&isLiteral != 0 {
			bits >>= e & 63
			nbits -= uint(e & 0xff)
			out[w] = byte(e >> valueShift)
			w++
			e = t.litlen[bits&(1<<litlenBits-1)]
			if e&isLiteral != 0 {
				bits >>= e & 63
				nbits -= uint(e & 0xff)
				out[w] = byte(e >> valueShift)
				w++
				e = t.litlen[bits&(1<<litlenBits-1)]
				if e&isLiteral != 0 {
					bits >>= e & 63
					nbits -= uint(e & 0xff)
					out[w] = byte(e >> valueShift)
					w++
					continue
				}
			}
		}
		if e&isSpecial != 0 {
			if e&isSubtable != 0 {
				bits >>= litlenBits
				nbits -= litlenBits
				e = t.litlen[(uint64(e>>valueShift)+bits&(1<<(e>>codeShift&15)-1))%litlenSize]
				if e&isLiteral != 0 {
					bits >>= e & 63
					nbits -= uint(e & 0xff)
					out[w] = byte(e >> valueShift)
					w++
					continue
				}
			}
			if e&isSpecial != 0 {
				bits >>= e & 63
				nbits -= uint(e & 0xff)
				ended = e&isEnd != 0
				if !ended {
					err = errCode
				}
				break
			}
		}
		length := int(e>>valueShift) + int(bits&(1<<(e&63)-1)>>(e>>codeShift&15))
		bits >>= e & 63
		nbits -= uint(e & 0xff)

		bits |= binary.LittleEndian.Uint64(in[pos:]) << (nbits & 63)
		pos += int((63 - nbits) / 8)
		nbits |= 56

		e = t.dist[bits&(1<<distBits-1)]
		if e&isSpecial != 0 {
			if e&isSubtable != 0 {
				bits >>= distBits
				nbits -= distBits
				e = t.dist[(uint64(e>>valueShift)+bits&(1<<(e>>codeShift&15)-1))%distSize]
			}
			if e&isSpecial != 0 {
				err = errCode
				break
			}
		}
		distance := int(e>>valueShift) + int(bits&(1<<(e&63)-1)>>(e>>codeShift&15))
		bits >>= e & 63
		nbits -= uint(e & 0xff)
		if distance > w-begin {
			err = errDistance
			break
		}

		from, end := w-distance, w+length
		switch {
		case distance >= 8:
			// Each word is whole before it is read.
			binary.LittleEndian.PutUint64(out[w:], binary.LittleEndian.Uint64(out[from:]))
			binary.LittleEndian.PutUint64(out[w+8:], binary.LittleEndian.Uint64(out[from+8:]))
			for w += 16; w < end; w += 16 {
				from += 16
				binary.LittleEndian.PutUint64(out[w:], binary.LittleEndian.Uint64(out[from:]))
				binary.LittleEndian.PutUint64(out[w+8:], binary.LittleEndian.Uint64(out[from+8:]))
			}
		case distance == 1:
			v := uint64(out[from]) * 0x0101010101010101
			for ; w < end; w += 8 {
				binary.LittleEndian.PutUint64(out[w:], v)
			}
		default:
			// distance bytes of each word are right, so the next begins there.
			for ; w < end; w += distance {
				binary.LittleEndian.PutUint64(out[w:], binary.LittleEndian.Uint64(out[from:]))
				from += distance
			}
		}
		w = end
	}
	r.pos, r.filled = pos, w
	r.bits, r.nbits = bits, nbits
	return ended, err
}
