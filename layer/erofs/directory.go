package erofs

import "bytes"

// named is an entry of a directory as it is written.
type named struct {
	text   uint32
	length uint8
	isDir  bool
	node   Node
}

// sort links the names of a directory in their order, those that were removed among them: they
// may be given to other inodes yet. It is a merge sort of lists: it takes no memory beside them,
// and goes through them in few strides, in whatever order the names are.
func (b *Builder) sort(dir *node) {
	var sorted [33]uint32 // of each, none, or a list of 1<<i runs
	for i := range sorted {
		sorted[i] = none
	}
	for rest := dir.at; rest != none; {
		var list uint32
		list, rest = b.run(rest)
		i := 0
		for ; sorted[i] != none; i++ {
			list, sorted[i] = b.merge(sorted[i], list), none
		}
		sorted[i] = list
	}
	dir.at = none
	for _, list := range sorted {
		dir.at = b.merge(list, dir.at)
	}
}

// run takes those names from the beginning of a list that are in order already, or in the opposite
// one, as it is when an archive has them in order: a new name is the first of its list.
func (b *Builder) run(first uint32) (list, rest uint32) {
	last := b.next(first)
	list, rest, *last = first, *last, none
	if rest != none && b.before(first, rest) {
		for end := first; rest != none && b.before(end, rest); {
			next := b.next(rest)
			end, *last, last, rest, *next = rest, rest, next, *next, none
		}
		return list, rest
	}
	for rest != none && b.before(rest, list) {
		next := b.next(rest)
		list, rest, *next = rest, *next, list
	}
	return list, rest
}

// next is where the name after another one is.
func (b *Builder) next(name uint32) *uint32 { return &b.names.at(name).next }

// merge makes one list of two that are in order.
func (b *Builder) merge(one, other uint32) (list uint32) {
	end := &list
	for one != none && other != none {
		if b.before(other, one) {
			one, other = other, one
		}
		next := b.next(one)
		*end, end, one = one, next, *next
	}
	*end = min(one, other) // at least one of them is none, which is greater than any
	return list
}

// before reports the order of two names.
func (b *Builder) before(one, other uint32) bool {
	return bytes.Compare(b.name(one), b.name(other)) < 0
}

func (b *Builder) name(number uint32) []byte {
	e := b.names.at(number)
	return b.text.at(e.text, int(e.length))
}

// listing goes through the entries of a directory that is sorted, "." and ".." at their places
// among them.
type listing struct {
	b    *Builder
	name uint32 // the next one
	dots [2]named
	seen int // of the dots
}

func (b *Builder) list(dir Node) listing {
	d := b.nodes.at(uint32(dir))
	return listing{b: b, name: d.at, dots: [2]named{{b.dots, 1, true, dir}, {b.dots, 2, true, Node(d.count)}}}
}

func (l *listing) next() (e named, more bool) {
	b := l.b
	for l.name != none {
		e := b.names.at(l.name)
		if e.node != none && l.seen < len(l.dots) && bytes.Compare(b.text.at(b.dots, l.seen+1), b.name(l.name)) < 0 {
			break
		}
		if l.name = e.next; e.node != none {
			return named{e.text, e.length, e.isDir, e.node}, true
		}
	}
	if l.seen == len(l.dots) {
		return named{}, false
	}
	l.seen++
	return l.dots[l.seen-1], true
}

// block returns what of the entries the next block has, nothing after the last one. It is good
// until the next call for any directory.
func (l *listing) block() []named {
	block, size := l.b.block[:0], int64(0)
	for {
		after := *l
		e, more := after.next()
		if size += e.size(); !more || size > 1<<l.b.bits {
			break
		}
		block, *l = append(block, e), after
	}
	l.b.block = block
	return block
}

// size is what an entry takes of a block.
func (e named) size() int64 { return direntSize + int64(e.length) }

// measure says how large a sorted directory is, its blocks and of the last one what is in use, and
// how many links it has: of what is in it, "." and ".." too, the directories.
func (b *Builder) measure(dir Node) (size int64, links uint32) {
	l := b.list(dir)
	for names := l.block(); len(names) > 0; names = l.block() {
		size = b.roundUp(size)
		for _, e := range names {
			size += e.size()
			if e.isDir {
				links++
			}
		}
	}
	return size, links
}

// appendNames appends what a block of a directory has: first the fixed parts, then the names. Where
// a block that is not the last has room left, a NUL ends the last one.
func (b *Builder) appendNames(buf []byte, names []named) []byte {
	offset := uint16(len(names) * direntSize)
	for _, e := range names {
		i := b.nodes.at(uint32(e.node))
		buf = append64(buf, uint64(i.nid))
		buf = append16(buf, offset)
		buf = append(buf, fileTypes[i.kind()>>12], 0)
		offset += uint16(e.length)
	}
	for _, e := range names {
		buf = append(buf, b.text.at(e.text, int(e.length))...)
	}
	return buf
}
