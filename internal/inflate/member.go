package inflate

import (
	"encoding/binary"
	"hash/crc32"
	"io"
)

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
