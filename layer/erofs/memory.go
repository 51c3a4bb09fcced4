package erofs

import (
	"fmt"
	"hash/maphash"
	"unsafe"

	"berth/container"
)

// Memory is where a Builder puts what it holds of a large tree.
type Memory interface {
	// Block returns zeros, at an address that is a multiple of 8, or nil: there are none.
	Block(size int) []byte
	// Room is how many bytes of the blocks the process should have in its own memory, now.
	Room() int64
	// Release is called when so much of them was used. They stay good.
	Release()
}

// memory gives out what a Builder needs: some of the heap, and then blocks of another Memory,
// as far as there is one and it has any.
type memory struct {
	other   Memory
	taken   int64
	spilled bool // there are blocks of the other one
	// The windows that were used since the last Release, and how many: each is at the place that
	// its number says, unless another one has taken that.
	windows [1024]uintptr
	used    int64
}

// windowBits are those of a window: by one use of a file the kernel maps so much at most
// (fault_around_bytes).
const windowBits = 16

// ofHeap is how much the heap gives before another Memory is asked, which costs more: the index
// of nearly every layer.
const ofHeap = 4 << 20

func (m *memory) block(size int) []byte {
	if m.taken += int64(size); m.other != nil && m.taken > ofHeap {
		if block := m.other.Block(size); block != nil {
			m.spilled = true
			return block[:size]
		}
	}
	return make([]byte, size)
}

// list returns n zero values, which have no pointers.
func list[T any](m *memory, n int) []T {
	var v T
	block := m.block(n * int(unsafe.Sizeof(v)))
	return unsafe.Slice((*T)(unsafe.Pointer(&block[0])), n)
}

// touch counts a use of what begins at p.
func (m *memory) touch(p unsafe.Pointer) {
	if m.spilled { // few trees are so large
		m.count(uintptr(p) >> windowBits)
	}
}

func (m *memory) count(window uintptr) {
	at := &m.windows[window%uintptr(len(m.windows))]
	if *at == window {
		return
	}
	if m.used++; m.used<<windowBits > m.other.Room() {
		m.other.Release()
		clear(m.windows[:])
		m.used = 1
	}
	*at = window
}

// pages is a list that grows without moving what it holds, so that it has no slack to
// speak of. T has no pointers.
type pages[T any] struct {
	memory *memory
	pages  [][]T
	n      uint32
}

const pageBits = 9

func (p *pages[T]) add(v T) uint32 {
	i := p.n
	if i>>pageBits == uint32(len(p.pages)) {
		p.pages = append(p.pages, list[T](p.memory, 1<<pageBits))
	}
	p.n++
	*p.at(i) = v
	return i
}

func (p *pages[T]) at(i uint32) *T {
	v := &p.pages[i>>pageBits][i&(1<<pageBits-1)]
	p.memory.touch(unsafe.Pointer(v))
	return v
}

// texts holds names, targets and attributes, none across the end of a piece.
type texts struct {
	memory *memory
	pieces [][]byte
	size   int64 // of the pieces
}

const pieceBits = 16

// add keeps a text and returns where.
func (t *texts) add(s string) (uint32, error) {
	last := len(t.pieces) - 1
	if last < 0 || len(t.pieces[last])+len(s) > 1<<pieceBits {
		if last++; last == 1<<(32-pieceBits) {
			return 0, fmt.Errorf("%w: more than 4 GiB of names and attributes", container.ErrInvalid)
		}
		piece := t.memory.block(max(1<<pieceBits, len(s)))
		t.pieces, t.size = append(t.pieces, piece[:0]), t.size+int64(len(piece))
	}
	ref := uint32(last)<<pieceBits | uint32(len(t.pieces[last]))
	t.pieces[last] = append(t.pieces[last], s...)
	t.at(ref, len(s))
	return ref, nil
}

func (t *texts) at(ref uint32, length int) []byte {
	from := int(ref & (1<<pieceBits - 1))
	text := t.pieces[ref>>pieceBits][from : from+length]
	t.memory.touch(unsafe.Pointer(unsafe.SliceData(text)))
	return text
}

// table finds a name of a directory. It is one for all directories, open addressed,
// and holds numbers of names: a map for each directory would cost several times as much.
//
// A slot has the number of a name + 1, and in the bits that no number can have some of its hash,
// so that to pass a slot takes no look at the name; 0: it is free.
type table struct {
	memory *memory
	seed   maphash.Seed
	slots  []uint32
	used   int
}

func (t *table) init(m *memory) {
	t.memory, t.seed, t.slots = m, maphash.MakeSeed(), list[uint32](m, 64)
}

// slot returns where a search begins, and what the slot of the name has beside the number. The
// seed is random, so an image cannot choose names that all begin at one place.
func (t *table) slot(dir Node, name []byte) (at int, mark uint32) {
	h := maphash.Bytes(t.seed, name) + uint64(dir)*0x9e3779b97f4a7c15
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return int((h >> 32) & t.numbers()), uint32(h) &^ uint32(t.numbers())
}

// numbers are the bits of numbers: there are more slots than names.
func (t *table) numbers() uint64 { return uint64(len(t.slots) - 1) }

// put adds a name that is not in the table.
func (t *table) put(b *Builder, number uint32) {
	if t.used++; t.used*4 > len(t.slots)*3 {
		t.slots = list[uint32](t.memory, 2*len(t.slots))
		for i := range number {
			t.insert(b, i)
		}
	}
	t.insert(b, number)
}

func (t *table) insert(b *Builder, number uint32) {
	e := b.names.at(number)
	i, mark := t.slot(e.dir, b.text.at(e.text, int(e.length)))
	t.memory.touch(unsafe.Pointer(&t.slots[i]))
	for t.slots[i] != 0 {
		i = (i + 1) & (len(t.slots) - 1)
	}
	t.slots[i] = mark | (number + 1)
}

// find returns the entry of a name, which may be one that was removed.
func (t *table) find(b *Builder, dir Node, name string) *entry {
	numbers := uint32(t.numbers())
	i, mark := t.slot(dir, []byte(name))
	t.memory.touch(unsafe.Pointer(&t.slots[i]))
	for ; t.slots[i] != 0; i = (i + 1) & (len(t.slots) - 1) {
		if t.slots[i]&^numbers != mark {
			continue
		}
		e := b.names.at(t.slots[i]&numbers - 1)
		if e.dir == dir && int(e.length) == len(name) && string(b.text.at(e.text, len(name))) == name {
			return e
		}
	}
	return nil
}
