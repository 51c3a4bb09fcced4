package erofs

import (
	"fmt"
	"math"
	"math/bits"
	"syscall"

	"berth/container"
)

const (
	// noBlock is the address of a hole.
	noBlock = math.MaxUint32
	// maxChunkBits is what the format of a chunk can say beyond the bits of a block.
	maxChunkBits = 31
	// maxChunks bounds the index of one file, 8 MiB: a small tar can describe a file of
	// an exabyte with a hole at an odd place.
	maxChunks = 1 << 20
)

// SetContent says where the content of a regular file lies. The extents follow each
// other without a gap and are size bytes long together; all but the last have a
// length that is a multiple of BlockSize.
//
// container.ErrNotSupported: extents that are not aligned (AddData takes such content), or so many chunks that an
// index would be out of proportion (a file of 1 TiB with a hole at an odd place). A
// chunk is as large as the position of every hole in the file is a multiple of.
func (b *Builder) SetContent(n Node, size int64, extents ...Extent) error {
	i := b.nodes.at(uint32(n))
	if i.kind() != syscall.S_IFREG {
		return fmt.Errorf("%w: content for what is no regular file", container.ErrInvalid)
	}
	extents, err := b.join(size, extents)
	if err != nil {
		return err
	}
	if len(extents) == 1 && extents[0].Offset >= 0 && !extents[0].Own || size == 0 {
		i.size, i.scattered, i.at = size, false, 0
		if size > 0 {
			i.at = uint32(extents[0].Offset >> b.bits)
		}
		return nil
	}
	count := chunkCount(size, chunkBits(b.bits, extents, size))
	if count > maxChunks {
		return fmt.Errorf("%w: a sparse file of %d bytes, whose holes are so small or so placed that it has %d chunks; at most %d",
			container.ErrNotSupported, size, count, maxChunks)
	}
	first := b.extents.n
	for _, e := range extents {
		b.extents.add(e)
	}
	i.size, i.scattered, i.at, i.count = size, true, first, uint32(len(extents))
	b.chunks += count
	return nil
}

// AddData puts data into the index, for content that does not lie in the device as an extent
// must, and returns where. The Builder keeps it until it is written.
func (b *Builder) AddData(data []byte) Extent {
	e := Extent{Offset: b.ownSize(), Length: int64(len(data)), Own: true}
	for len(data) > 0 || b.ownSize() != b.roundUp(b.ownSize()) {
		var block [BlockSize]byte
		data = data[copy(block[:], data):]
		b.own.add(block)
	}
	return e
}

func (b *Builder) ownSize() int64 { return int64(b.own.n) * BlockSize }

// AppendExtent adds the next piece of a file: the last one grows where it continues that.
func AppendExtent(extents []Extent, e Extent) []Extent {
	if len(extents) > 0 {
		last := &extents[len(extents)-1]
		if e.Offset == Hole && last.Offset == Hole || e.Offset >= 0 && last.Offset >= 0 && e.Own == last.Own && last.Offset+last.Length == e.Offset {
			last.Length += e.Length
			return extents
		}
	}
	return append(extents, e)
}

// join checks extents and joins those that continue each other.
func (b *Builder) join(size int64, extents []Extent) ([]Extent, error) {
	if size < 0 {
		return nil, fmt.Errorf("%w: a file of %d bytes", container.ErrInvalid, size)
	}
	block := int64(1) << b.bits
	var joined []Extent
	var at int64
	for _, e := range extents {
		switch {
		case e.Length == 0:
			continue
		case e.Length < 0 || e.Length > size-at || e.Offset < Hole || e.Own && e.Length > b.ownSize()-e.Offset:
			return nil, fmt.Errorf("%w: %d bytes at %d of the device, as bytes %d on of a file of %d", container.ErrInvalid, e.Length, e.Offset, at, size)
		case at%block != 0 || e.Offset >= 0 && e.Offset%block != 0:
			return nil, fmt.Errorf("%w: %d bytes at %d of the device, as bytes %d on of a file: both must be multiples of %d",
				container.ErrNotSupported, e.Length, e.Offset, at, block)
		case e.Offset>>b.bits >= noBlock:
			return nil, b.tooLarge(e.Offset)
		}
		at += e.Length
		joined = AppendExtent(joined, e)
	}
	if at != size {
		return nil, fmt.Errorf("%w: extents of %d bytes for a file of %d", container.ErrInvalid, at, size)
	}
	return joined, nil
}

func (b *Builder) tooLarge(bytes int64) error {
	return fmt.Errorf("%w: a layer of %d bytes or more: EROFS has addresses for 2^32 blocks of %d bytes; use a backend that unpacks layers",
		container.ErrNotSupported, bytes, 1<<b.bits)
}

// chunkBits returns the size of the chunks of a file, as a power of two: as large as
// the file where it is in one piece, else what the place of each piece is a multiple of.
func chunkBits(block uint, extents []Extent, size int64) uint {
	var places, at int64
	for _, e := range extents[:len(extents)-1] {
		at += e.Length
		places |= at
	}
	whole := max(uint(bits.Len64(uint64(size-1))), block)
	return min(whole, uint(bits.TrailingZeros64(uint64(places))), block+maxChunkBits)
}

// Tail returns the least number of the last bytes of a file of so many that may lie elsewhere
// than the rest: what does not fill the smallest chunk that it can have. Of a file of half a GiB
// or less it is what fills no block.
func Tail(size int64) int64 {
	chunk := uint(blockBits)
	for size > 0 && chunkCount(size, chunk) > maxChunks {
		chunk++
	}
	return size & (1<<chunk - 1)
}

func chunkCount(size int64, chunkBits uint) int64 { return (size-1)>>chunkBits + 1 }

// chunkFormat returns what an inode says about its chunks, and how many there are.
func (b *Builder) chunkFormat(n *node) (format uint32, count int64) {
	extents := b.pieces(n)
	size := chunkBits(b.bits, extents, n.size)
	return chunkIndexes | uint32(size-b.bits), chunkCount(n.size, size)
}

// pieces returns the extents of a regular file that is not empty.
func (b *Builder) pieces(n *node) []Extent {
	if n.scattered {
		return b.scattered(n)
	}
	return []Extent{{Offset: int64(n.at) << b.bits, Length: n.size}}
}

func (b *Builder) scattered(n *node) []Extent {
	pieces := make([]Extent, n.count)
	for i := range pieces {
		pieces[i] = *b.extents.at(n.at + uint32(i))
	}
	return pieces
}

// appendChunks appends the chunk indexes of a regular file that is not empty. own is the
// block at which the index's own data begin.
func (b *Builder) appendChunks(buf []byte, n *node, own uint32) []byte {
	extents := b.pieces(n)
	size := int64(1) << chunkBits(b.bits, extents, n.size)
	for _, e := range extents {
		for at := int64(0); at < e.Length; at += size {
			device, block := uint16(1), uint32((e.Offset+at)>>b.bits)
			switch {
			case e.Own:
				device, block = 0, own+block
			case e.Offset < 0:
				device, block = 0, noBlock
			}
			buf = append16(buf, 0, device)
			buf = append32(buf, block)
		}
	}
	return buf
}
