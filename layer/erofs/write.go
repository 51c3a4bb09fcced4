package erofs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"syscall"

	"berth/container"
)

// Sizes, offsets and flags of erofs_fs.h.
const (
	superOffset    = 1024
	superSize      = 128
	deviceSlotSize = 128
	slotSize       = 32 // of an inode number
	inodeSize      = 64
	direntSize     = 12
	chunkIndexSize = 8

	magic               = 0xe0f5e1e2
	compatChecksum      = 0x1
	compatMtime         = 0x2
	incompatChunkedFile = 0x4
	incompatDeviceTable = 0x8

	extended     = 1 // an inode of 64 bytes
	flatPlain    = 0 << 1
	flatInline   = 2 << 1
	chunkBased   = 4 << 1
	chunkIndexes = 0x20
)

// fileTypes are the kinds as entries of directories have them.
var fileTypes = [16]byte{
	syscall.S_IFREG >> 12: 1, syscall.S_IFDIR >> 12: 2, syscall.S_IFCHR >> 12: 3, syscall.S_IFBLK >> 12: 4, syscall.S_IFIFO >> 12: 5, syscall.S_IFLNK >> 12: 7,
}

// Write writes the index over a device of so many bytes, in one go from its beginning
// to its end, which is that of a block. The same tree is the same bytes. The Builder
// can be changed and written again.
//
// container.ErrInvalid: a file has content beyond the end of the device, or a symbolic
// link no target. container.ErrNotSupported: the device has more than 2^32 blocks.
func (b *Builder) Write(w io.Writer, deviceSize int64) error {
	if deviceSize>>b.bits >= noBlock {
		return b.tooLarge(deviceSize)
	}
	l, err := b.layOut(deviceSize)
	if err != nil {
		return err
	}
	out := &output{w: w}
	out.buf = b.appendSuper(out.buf, l, deviceSize)
	block := l.inodes >> b.bits
	for i := range l.order.n {
		n := *l.order.at(i)
		out.padTo(int64(b.nodes.at(uint32(n)).nid) * slotSize)
		out.buf = b.appendInode(out.buf, n, i+1, uint32(block), uint32(l.own>>b.bits))
		block += b.blocks(b.nodes.at(uint32(n)))
		out.flush(flushSize)
	}
	out.padTo(l.inodes)
	for i := range l.owners.n {
		b.writeBlocks(out, *l.owners.at(i))
	}
	for i := range b.own.n {
		out.buf = append(out.buf, b.own.at(i)[:]...)
		out.flush(flushSize)
	}
	out.flush(0)
	return out.err
}

// writeBlocks writes the blocks that an inode has for its names or its target.
func (b *Builder) writeBlocks(out *output, n Node) {
	i := b.nodes.at(uint32(n))
	end := out.at() + b.blocks(i)<<b.bits
	if !i.isDir() {
		out.buf = append(out.buf, b.target(i)[:min(i.size, end-out.at())]...)
		out.padTo(end)
		return
	}
	l := b.list(n)
	for out.at() < end {
		next := out.at() + 1<<b.bits
		out.buf = b.appendNames(out.buf, l.block())
		out.padTo(next)
		out.flush(flushSize)
	}
}

// output is what was appended and is not written yet.
type output struct {
	w       io.Writer
	buf     []byte
	written int64
	err     error
}

const flushSize = 64 << 10

func (o *output) at() int64 { return o.written + int64(len(o.buf)) }

func (o *output) padTo(at int64) { o.buf = append(o.buf, make([]byte, at-o.at())...) }

// flush writes the buffer if it holds at least so much; after an error it only drops it.
func (o *output) flush(size int) {
	if len(o.buf) < size {
		return
	}
	if o.err == nil {
		if _, err := o.w.Write(o.buf); err != nil {
			o.err = fmt.Errorf("write EROFS index: %w", err)
		}
	}
	o.written += int64(len(o.buf))
	o.buf = o.buf[:0]
}

// layout is where everything lies.
type layout struct {
	order  pages[Node] // those that have a name
	owners pages[Node] // of them, those that have blocks
	inodes int64       // end of the inodes
	own    int64       // end of the blocks with names and targets, where the data of AddData begin
	end    int64
}

// layOut gives every inode that has a name its number, which says where it lies.
func (b *Builder) layOut(deviceSize int64) (layout, error) {
	for i := range b.nodes.n {
		b.nodes.at(i).nid = 0
	}
	l := layout{order: pages[Node]{memory: &b.memory}, owners: pages[Node]{memory: &b.memory}}
	at := b.roundUp(superOffset + superSize + deviceSlotSize)
	var blocks int64
	place := func(n Node) error {
		i := b.nodes.at(uint32(n))
		if err := b.check(i, deviceSize); err != nil {
			return err
		}
		if i.isDir() {
			b.sort(i)
			i.size, i.links = b.measure(n)
		}
		at = (at + slotSize - 1) &^ (slotSize - 1)
		head, tail := b.headSize(i), b.tailSize(i)
		for block := int64(1) << b.bits; tail > 0 && (at+head)&(block-1)+tail > block; {
			at += slotSize // what is inline must be so in one block
		}
		if at/slotSize > math.MaxUint32 {
			return fmt.Errorf("%w: an EROFS index of more than %d bytes", container.ErrNotSupported, at)
		}
		i.nid = uint32(at / slotSize)
		at += head + tail
		if own := b.blocks(i); own > 0 {
			blocks += own
			l.owners.add(n)
		}
		l.order.add(n)
		return nil
	}
	if err := place(Root); err != nil {
		return l, err
	}
	for stack := []Node{Root}; len(stack) > 0; {
		dir := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		bottom := len(stack)
		for i := b.nodes.at(uint32(dir)).at; i != none; i = b.names.at(i).next {
			n := b.names.at(i).node
			if n == none || b.nodes.at(uint32(n)).nid != 0 {
				continue
			}
			if err := place(n); err != nil {
				return l, err
			}
			if b.nodes.at(uint32(n)).isDir() {
				stack = append(stack, n)
			}
		}
		slices.Reverse(stack[bottom:])
	}
	l.inodes = b.roundUp(at)
	l.own = l.inodes + blocks<<b.bits
	l.end = l.own + b.ownSize()
	if l.end>>b.bits >= noBlock {
		return l, fmt.Errorf("%w: an EROFS index of more than 2^32 blocks", container.ErrNotSupported)
	}
	return l, nil
}

func (b *Builder) roundUp(n int64) int64 { return (n + 1<<b.bits - 1) >> b.bits << b.bits }

// check refuses what is not whole.
func (b *Builder) check(n *node, deviceSize int64) error {
	switch n.kind() {
	case syscall.S_IFLNK:
		if n.size == 0 {
			return fmt.Errorf("%w: a symbolic link without a target", container.ErrInvalid)
		}
	case syscall.S_IFREG:
		if n.size == 0 {
			return nil
		}
		for _, e := range b.pieces(n) {
			if e.Offset >= 0 && !e.Own && e.Length > deviceSize-e.Offset {
				return fmt.Errorf("%w: a file has %d bytes at %d of a device of %d", container.ErrInvalid, e.Length, e.Offset, deviceSize)
			}
		}
	}
	return nil
}

// headSize is the size of an inode with its attributes and chunk indexes.
func (b *Builder) headSize(n *node) int64 {
	size := int64(inodeSize)
	if body := b.bodies.size(n.xattrs); body > 0 {
		size += xattrHeader + body
	}
	if n.kind() == syscall.S_IFREG && n.size > 0 {
		_, count := b.chunkFormat(n)
		size = (size+chunkIndexSize-1)&^(chunkIndexSize-1) + count*chunkIndexSize
	}
	return size
}

// tailSize is how much of what an inode itself has, names or a target, stands beside
// it: that for which no block would be full, if a block has room for it at all.
func (b *Builder) tailSize(n *node) int64 {
	block := int64(1) << b.bits
	tail := n.size & (block - 1)
	switch {
	case n.kind() != syscall.S_IFDIR && n.kind() != syscall.S_IFLNK,
		n.kind() == syscall.S_IFLNK && n.size >= block,
		b.headSize(n)%slotSize+tail > block:
		return 0
	}
	return tail
}

// blocks is how many blocks of its own an inode has in the index.
func (b *Builder) blocks(n *node) int64 {
	if n.kind() != syscall.S_IFDIR && n.kind() != syscall.S_IFLNK {
		return 0
	}
	return b.roundUp(n.size-b.tailSize(n)) >> b.bits
}

// target is where a symbolic link leads.
func (b *Builder) target(n *node) []byte { return b.text.at(n.at, int(n.size)) }

// appendInode appends an inode, the number of which in the order is ino, with all that
// stands beside it. block is where its own blocks will be, own where the data of AddData begin.
func (b *Builder) appendInode(buf []byte, n Node, ino, block, own uint32) []byte {
	i := b.nodes.at(uint32(n))
	start := len(buf)
	body := b.bodies.at(i.xattrs)
	words := 0
	if len(body) > 0 {
		words = 1 + len(body)/4
	}
	chunked := i.kind() == syscall.S_IFREG && i.size > 0
	tail := b.tailSize(i)
	format, u, size := uint16(flatPlain), uint32(0), i.size
	switch {
	case chunked:
		format = chunkBased
		u, _ = b.chunkFormat(i)
	case tail > 0:
		format, u = flatInline, block
	case isDevice(uint32(i.mode)):
		u = i.at
	case b.blocks(i) > 0:
		u = block
	}
	buf = append16(buf, format|extended, uint16(words), i.mode, 0)
	buf = append64(buf, uint64(size))
	buf = append32(buf, u, ino, i.uid, i.gid)
	buf = append64(buf, uint64(i.sec))
	buf = append32(buf, i.nsec, i.links, 0, 0, 0, 0)
	if len(body) > 0 {
		buf = append(append(buf, make([]byte, xattrHeader)...), body...)
	}
	if chunked {
		buf = append(buf, make([]byte, (start-len(buf))&(chunkIndexSize-1))...)
		return b.appendChunks(buf, i, own)
	}
	switch {
	case tail == 0:
	case i.isDir():
		l := b.list(n)
		for range b.blocks(i) {
			l.block()
		}
		buf = b.appendNames(buf, l.block())
	default:
		buf = append(buf, b.target(i)[i.size-tail:]...)
	}
	return buf
}

// appendSuper appends what is before the inodes.
func (b *Builder) appendSuper(buf []byte, l layout, deviceSize int64) []byte {
	buf = append(buf, make([]byte, superOffset)...)
	buf = append32(buf, magic, 0, compatChecksum|compatMtime)
	buf = append(buf, byte(b.bits), 0)
	buf = append16(buf, uint16(b.nodes.at(uint32(Root)).nid))
	buf = append64(buf, uint64(l.order.n))
	buf = append64(buf, 0) // time of the build: no inode goes by it
	buf = append32(buf, 0, uint32(l.end>>b.bits), 0, 0)
	buf = append(buf, b.uuid[:]...)
	buf = append(buf, make([]byte, 16)...) // name of the volume
	buf = append32(buf, incompatChunkedFile|incompatDeviceTable)
	buf = append16(buf, 0, 1, (superOffset+superSize)/deviceSlotSize)
	buf = append(buf, make([]byte, superOffset+superSize-len(buf))...)
	// The device, by the tag of which nobody looks for it.
	buf = append(buf, make([]byte, 64)...)
	buf = append32(buf, uint32(b.roundUp(deviceSize)>>b.bits))
	buf = append(buf, make([]byte, b.roundUp(superOffset+superSize+deviceSlotSize)-int64(len(buf)))...)

	// The checksum is of the rest of the superblock's block, with the kernel's crc32c,
	// which is not inverted at the end.
	end := int64(1) << b.bits
	if end <= superOffset {
		end += superOffset
	}
	sum := ^crc32.Checksum(buf[superOffset:end], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(buf[superOffset+4:], sum)
	return buf
}

func append16(buf []byte, values ...uint16) []byte {
	for _, v := range values {
		buf = binary.LittleEndian.AppendUint16(buf, v)
	}
	return buf
}

func append32(buf []byte, values ...uint32) []byte {
	for _, v := range values {
		buf = binary.LittleEndian.AppendUint32(buf, v)
	}
	return buf
}

func append64(buf []byte, v uint64) []byte { return binary.LittleEndian.AppendUint64(buf, v) }
