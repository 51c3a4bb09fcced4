package inflate

import "math/bits"

// An entry of a decoding table says what the next bits of the stream mean:
//
//	bits 0-7    how many bits are taken: code and extra bits
//	bits 8-11   how many of them are the code
//	bits 12-15  the kind
//	bits 16-31  a literal; the base of a length or distance; the place of a subtable
//
// A subtable entry says in bits 8-11 how many bits index the subtable. The length of codes
// in a subtable does not count the bits that led there. An entry that has no kind is a
// length, a distance or a length code.
type entry = uint32

const (
	isLiteral  = 1 << 12
	isEnd      = 1 << 13
	isSubtable = 1 << 14
	isSpecial  = 1 << 15 // neither literal nor length nor distance
	invalid    = isSpecial

	valueShift = 16
	codeShift  = 8
)

const (
	maxCodeLen  = 15
	litlenCodes = 288
	distCodes   = 32
	lenCodes    = 19

	// Wider tables need fewer subtables, but are longer to build.
	litlenBits = 11
	distBits   = 8
	lenBits    = 7

	// Powers of two, so that a mask shows an index to be in range. Complete codes of 288
	// and 32 symbols need 2342 and 402 entries at most.
	litlenSize = 4096
	distSize   = 512
)

// What the symbols of each alphabet mean (RFC 1951, 3.2.5); code length and bits to take are
// added by build.
var (
	litlenMeaning [litlenCodes]entry
	distMeaning   [distCodes]entry
	lenMeaning    [lenCodes]entry
)

// tables are those of a block. One pointer to both leaves fast a register more.
type tables struct {
	litlen [litlenSize]entry
	dist   [distSize]entry
}

// fixed are those of blocks of type 1 (RFC 1951, 3.2.6).
var fixed tables

func init() {
	for i := range 256 {
		litlenMeaning[i] = isLiteral | entry(i)<<valueShift
	}
	litlenMeaning[256] = isSpecial | isEnd
	base := entry(3)
	for i := range entry(28) {
		extra := max(i/4, 1) - 1
		litlenMeaning[257+i] = base<<valueShift | extra
		base += 1 << extra
	}
	litlenMeaning[285] = 258 << valueShift
	litlenMeaning[286], litlenMeaning[287] = invalid, invalid
	base = 1
	for i := range entry(30) {
		extra := max(i/2, 1) - 1
		distMeaning[i] = base<<valueShift | extra
		base += 1 << extra
	}
	distMeaning[30], distMeaning[31] = invalid, invalid
	for i := range lenCodes {
		lenMeaning[i] = entry(i) << valueShift
	}

	var lens [litlenCodes]uint8
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	build(fixed.litlen[:], litlenBits, lens[:], litlenMeaning[:])
	for i := range distCodes {
		lens[i] = 5
	}
	build(fixed.dist[:], distBits, lens[:distCodes], distMeaning[:])
}

// build makes the table of the code whose symbols have these lengths. The code must be
// complete, or be a single code of one bit, or empty, as other decoders have it: what is not
// coded is invalid.
func build(table []entry, tableBits uint, lens []uint8, meaning []entry) bool {
	var count [maxCodeLen + 1]int
	for _, n := range lens {
		count[n&maxCodeLen]++
	}
	coded := len(lens) - count[0]
	count[0] = 0

	// Sorted by length and symbol, the order of canonical codes.
	var next [maxCodeLen + 2]int
	space := 0
	for n := 1; n <= maxCodeLen; n++ {
		next[n+1] = next[n] + count[n]
		space += count[n] << (maxCodeLen - n)
	}
	if space != 1<<maxCodeLen {
		if coded > 1 || coded == 1 && count[1] != 1 {
			return false
		}
		for i := range table[:1<<tableBits] {
			table[i] = invalid | 1
		}
	}
	var sorted [litlenCodes]uint16
	for symbol, n := range lens {
		if n != 0 {
			sorted[next[n&maxCodeLen]] = uint16(symbol)
			next[n&maxCodeLen]++
		}
	}

	code := uint(0) // not yet reversed
	length := uint(1)
	place := uint(1) << tableBits   // where the next subtable begins
	prefix := ^uint(0)              // of the present subtable
	var subtable, subtableBits uint // the present one
	mask := uint(1)<<tableBits - 1
	for _, symbol := range sorted[:coded] {
		n := uint(lens[symbol])
		code <<= n - length
		length = n
		reversed := uint(bits.Reverse16(uint16(code)) >> (16 - n))
		code++
		e := meaning[symbol]
		if n <= tableBits {
			e = withLength(e, n)
			for i := reversed; i <= mask; i += 1 << n {
				table[i] = e
			}
			continue
		}
		if reversed&mask != prefix {
			prefix = reversed & mask
			// As many bits as the longest code that has this prefix needs: codes follow one
			// another, so it is known by what the next ones fill.
			subtable, subtableBits = place, n-tableBits
			for filled := count[n]; filled < 1<<subtableBits && tableBits+subtableBits < maxCodeLen; {
				subtableBits++
				filled = filled<<1 + count[tableBits+subtableBits]
			}
			place += 1 << subtableBits
			if place > uint(len(table)) {
				return false
			}
			table[prefix] = isSpecial | isSubtable | entry(subtable)<<valueShift | entry(subtableBits)<<codeShift | entry(tableBits)
		}
		count[n]--
		e = withLength(e, n-tableBits)
		for i := reversed >> tableBits; i < 1<<subtableBits; i += 1 << (n - tableBits) {
			table[subtable+i] = e
		}
	}
	return true
}

func withLength(e entry, n uint) entry {
	if e&(isLiteral|isSpecial) == 0 {
		e |= entry(n) << codeShift
	}
	return e + entry(n)
}
