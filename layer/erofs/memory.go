package erofs

import (
	"fmt"
	"hash/maphash"

	"berth/container"
)

// pages is a list that grows without moving what it holds, so that it has no slack to
// speak of.
type pages[T any] struct {
	pages [][]T
	n     uint32
}

const pageBits = 9

func (p *pages[T]) add(v T) uint32 {
	i := p.n
	if i>>pageBits == uint32(len(p.pages)) {
		p.pages = append(p.pages, make([]T, 1<<pageBits))
	}
	p.n++
	*p.at(i) = v
	return i
}

func (p *pages[T]) at(i uint32) *T { return &p.pages[i>>pageBits][i&(1<<pageBits-1)] }

// texts holds names and targets, none across the end of a piece.
type texts struct {
	pieces [][]byte
}

const pieceBits = 16

// add keeps a text of at most 64 KiB and returns where.
func (t *texts) add(s string) (uint32, error) {
	last := len(t.pieces) - 1
	if last < 0 || len(t.pieces[last])+len(s) > 1<<pieceBits {
		if last++; last == 1<<(32-pieceBits) {
			return 0, fmt.Errorf("%w: more than 4 GiB of names", container.ErrInvalid)
		}
		t.pieces = append(t.pieces, make([]byte, 0, 1<<pieceBits))
	}
	at := len(t.pieces[last])
	t.pieces[last] = append(t.pieces[last], s...)
	return uint32(last)<<pieceBits | uint32(at), nil
}

func (t *texts) at(ref uint32, length int) []byte {
	from := int(ref & (1<<pieceBits - 1))
	return t.pieces[ref>>pieceBits][from : from+length]
}

// table finds a name of a directory. It is one for all directories, open addressed,
// and holds numbers of names: a map for each directory would cost several times as much.
type table struct {
	seed  maphash.Seed
	slots []uint32 // number of the name + 1; 0: free
	used  int
}

func newTable() table { return table{seed: maphash.MakeSeed(), slots: make([]uint32, 64)} }

// slot returns where a search begins. The seed is random, so an image cannot choose
// names that all begin at one place.
func (t *table) slot(dir Node, name []byte) int {
	h := maphash.Bytes(t.seed, name) + uint64(dir)*0x9e3779b97f4a7c15
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return int((h >> 32) & uint64(len(t.slots)-1))
}

// put adds a name that is not in the table.
func (t *table) put(b *Builder, number uint32) {
	if t.used++; t.used*4 > len(t.slots)*3 {
		t.slots = make([]uint32, 2*len(t.slots))
		for i := range number {
			t.insert(b, i)
		}
	}
	t.insert(b, number)
}

func (t *table) insert(b *Builder, number uint32) {
	e := b.names.at(number)
	i := t.slot(e.dir, b.text.at(e.text, int(e.length)))
	for t.slots[i] != 0 {
		i = (i + 1) & (len(t.slots) - 1)
	}
	t.slots[i] = number + 1
}

// find returns the entry of a name, which may be one that was removed.
func (t *table) find(b *Builder, dir Node, name string) *entry {
	for i := t.slot(dir, []byte(name)); t.slots[i] != 0; i = (i + 1) & (len(t.slots) - 1) {
		e := b.names.at(t.slots[i] - 1)
		if e.dir == dir && int(e.length) == len(name) && string(b.text.at(e.text, len(name))) == name {
			return e
		}
	}
	return nil
}
