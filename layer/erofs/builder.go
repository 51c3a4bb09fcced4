package erofs

import (
	"fmt"
	"math"
	"strings"
	"syscall"
	"unsafe"

	"berth/container"
)

// BlockSize is the unit of the index and of the device: a tar's own.
const BlockSize = 1 << blockBits

const blockBits = 9

// Node is an inode of a Builder.
type Node uint32

// Root is the directory that is there from the beginning: 0755, of root, of the time 0.
const Root Node = 0

const none = math.MaxUint32

// Attr is what an inode has whatever its kind.
type Attr struct {
	Mode     uint32 // kind and permissions, as in st_mode
	UID, GID uint32
	Sec      int64 // the time of the last change; may be negative
	Nsec     uint32
	Rdev     uint64 // of a device, as in st_rdev
}

// Extent is a piece of a file, which lies at Offset in the device, a multiple of
// BlockSize, or is a Hole.
type Extent struct {
	Offset, Length int64
	// Own: it lies in the index itself, where AddData has put it.
	Own bool
}

// Hole is the Offset of what reads as zeros.
const Hole = -1

const (
	maxName   = 255
	maxTarget = 4095 // PATH_MAX without its NUL
)

// Builder holds a tree until it is written. It takes some 90 bytes for an entry
// beside its name, of the heap or, see SetMemory, not. What it refuses leaves it as it was; it refuses with
// container.ErrInvalid what no file system holds, and with container.ErrNotSupported
// what this one does not. It is not safe for concurrent use.
type Builder struct {
	bits    uint // of a block
	memory  memory
	nodes   pages[node]
	names   pages[entry]
	text    texts
	dots    uint32 // the text ".."
	table   table
	extents pages[Extent]
	own     pages[[BlockSize]byte] // what AddData was given
	chunks  int64                  // chunk indexes of files in several pieces
	bodies  bodies
	uuid    [16]byte
	block   []named // of listing.block
}

// node is an inode. What at and count are depends on its kind:
//
//	regular, whole      the first block in the device
//	regular, scattered  the first of its extents, and how many
//	symbolic link       the target
//	directory           the first name (none), and the parent
//	device              its number as EROFS has it
type node struct {
	sec       int64
	size      int64 // of a file, a target, and, when written, of a directory
	at        uint32
	count     uint32
	uid, gid  uint32
	nsec      uint32
	links     uint32
	xattrs    uint32 // number of the body; 0: none
	nid       uint32 // when written: where the inode is, in units of 32 bytes
	mode      uint16
	scattered bool
}

func (n *node) kind() uint32 { return uint32(n.mode) & syscall.S_IFMT }

func (n *node) isDir() bool { return n.kind() == syscall.S_IFDIR }

// entry is a name in a directory. One whose node is none was removed.
type entry struct {
	dir, node Node
	text      uint32
	next      uint32 // name of the same directory
	length    uint8
	isDir     bool
}

// NewBuilder returns a Builder with an empty root.
func NewBuilder() *Builder { return newBuilder(blockBits) }

func newBuilder(bits uint) *Builder {
	b := &Builder{bits: bits}
	b.table.init(&b.memory)
	b.nodes.memory, b.names.memory, b.text.memory, b.extents.memory, b.own.memory = &b.memory, &b.memory, &b.memory, &b.memory, &b.memory
	b.bodies.init(&b.text)
	b.dots, _ = b.text.add("..") // the first
	b.nodes.add(node{mode: syscall.S_IFDIR | 0o755, at: none, count: uint32(Root), links: 1})
	return b
}

// SetMemory gives the Builder another place than the heap for the most of what it holds of a
// large tree. The Builder is of no use any more when that is freed.
func (b *Builder) SetMemory(m Memory) { b.memory.other = m }

// Lookup returns what a directory has under a name.
func (b *Builder) Lookup(dir Node, name string) (Node, bool) {
	e := b.table.find(b, dir, name)
	if e == nil || e.node == none {
		return 0, false
	}
	return e.node, true
}

// Make makes an inode and its first name: a directory, a regular file (empty), a
// symbolic link (without a target), a device or a FIFO. A name that is taken:
// container.ErrExists.
func (b *Builder) Make(dir Node, name string, attr Attr) (Node, error) {
	if err := b.free(dir, name); err != nil {
		return 0, err
	}
	n := node{at: none}
	switch attr.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		n.count = uint32(dir)
	case syscall.S_IFREG, syscall.S_IFLNK, syscall.S_IFCHR, syscall.S_IFBLK, syscall.S_IFIFO:
	default:
		return 0, fmt.Errorf("%w: %s: mode %#o is of no kind of file that an image has", container.ErrInvalid, quote(name), attr.Mode)
	}
	if err := n.set(attr); err != nil {
		return 0, fmt.Errorf("%s: %w", quote(name), err)
	}
	made := Node(b.nodes.n)
	if err := b.enter(dir, name, made, n.isDir()); err != nil {
		return 0, err
	}
	b.nodes.add(n)
	b.nodes.at(uint32(made)).links = 1
	return made, nil
}

// Link gives an inode that is no directory another name. A name that is taken:
// container.ErrExists.
func (b *Builder) Link(dir Node, name string, target Node) error {
	n := b.nodes.at(uint32(target))
	if n.isDir() {
		return fmt.Errorf("%w: %s: a hard link to a directory", container.ErrInvalid, quote(name))
	}
	if err := b.free(dir, name); err != nil {
		return err
	}
	if err := b.enter(dir, name, target, false); err != nil {
		return err
	}
	n.links++
	return nil
}

// Remove removes a name, and what is below it if it is that of a directory. An inode
// without a name is not written. A name that is not there is not an error.
func (b *Builder) Remove(dir Node, name string) {
	e := b.table.find(b, dir, name)
	if e == nil || e.node == none {
		return
	}
	for gone := []*entry{e}; len(gone) > 0; {
		e, gone = gone[len(gone)-1], gone[:len(gone)-1]
		n := b.nodes.at(uint32(e.node))
		e.node = none
		n.links--
		if !n.isDir() {
			continue
		}
		for i := n.at; i != none; {
			below := b.names.at(i)
			if below.node != none {
				gone = append(gone, below)
			}
			i = below.next
		}
	}
}

// free says whether a directory can take a name.
func (b *Builder) free(dir Node, name string) error {
	switch {
	case !b.nodes.at(uint32(dir)).isDir():
		return fmt.Errorf("%w: %s: what it should be in is no directory", container.ErrInvalid, quote(name))
	case name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("%w: %s is no name of a file: it has 1 to %d bytes, no slash, no NUL", container.ErrInvalid, quote(name), maxName)
	}
	if _, taken := b.Lookup(dir, name); taken {
		return fmt.Errorf("%s: %w", quote(name), container.ErrExists)
	}
	return nil
}

// enter adds a name that is free.
func (b *Builder) enter(dir Node, name string, target Node, isDir bool) error {
	if e := b.table.find(b, dir, name); e != nil {
		e.node, e.isDir = target, isDir
		return nil
	}
	text, err := b.text.add(name)
	if err != nil {
		return err
	}
	d := b.nodes.at(uint32(dir))
	d.at = b.names.add(entry{dir: dir, node: target, text: text, next: d.at, length: uint8(len(name)), isDir: isDir})
	b.table.put(b, d.at)
	return nil
}

// Attr returns the attributes of an inode.
func (b *Builder) Attr(n Node) Attr {
	i := b.nodes.at(uint32(n))
	a := Attr{Mode: uint32(i.mode), UID: i.uid, GID: i.gid, Sec: i.sec, Nsec: i.nsec}
	if isDevice(a.Mode) {
		a.Rdev = decodeDevice(i.at)
	}
	return a
}

// SetAttr sets all attributes of an inode, whose kind stays what it is.
func (b *Builder) SetAttr(n Node, a Attr) error {
	i := b.nodes.at(uint32(n))
	if i.kind() != a.Mode&syscall.S_IFMT {
		return fmt.Errorf("%w: mode %#o of what is of kind %#o", container.ErrInvalid, a.Mode, i.kind())
	}
	return i.set(a)
}

func (n *node) set(a Attr) error {
	switch {
	case a.Mode > math.MaxUint16:
		return fmt.Errorf("%w: mode %#o", container.ErrInvalid, a.Mode)
	case a.Nsec >= 1e9:
		return fmt.Errorf("%w: a time with %d ns", container.ErrInvalid, a.Nsec)
	}
	if isDevice(a.Mode) {
		at, err := encodeDevice(a.Rdev)
		if err != nil {
			return err
		}
		n.at = at
	}
	n.mode, n.uid, n.gid, n.sec, n.nsec = uint16(a.Mode), a.UID, a.GID, a.Sec, a.Nsec
	return nil
}

// SetTarget sets where a symbolic link leads.
func (b *Builder) SetTarget(n Node, target string) error {
	if i := b.nodes.at(uint32(n)); i.kind() != syscall.S_IFLNK {
		return fmt.Errorf("%w: a target for what is no symbolic link", container.ErrInvalid)
	}
	if target == "" || len(target) > maxTarget || strings.ContainsRune(target, 0) {
		return fmt.Errorf("%w: target %s of a symbolic link: it has 1 to %d bytes, no NUL", container.ErrInvalid, quote(target), maxTarget)
	}
	at, err := b.text.add(target)
	if err != nil {
		return err
	}
	i := b.nodes.at(uint32(n))
	i.at, i.size = at, int64(len(target))
	return nil
}

// SetUUID sets the identity of the file system, see the package comment: the first
// bytes of the tar's digest, say. Without one it has none.
func (b *Builder) SetUUID(uuid [16]byte) { b.uuid = uuid }

// Size returns about how many bytes of memory the Builder holds and Write will need
// besides, and what the chunk indexes of files in several pieces will add to the index.
func (b *Builder) Size() int64 {
	return int64(b.nodes.n)*int64(unsafe.Sizeof(node{})+unsafe.Sizeof(Node(0))) +
		int64(b.names.n)*int64(unsafe.Sizeof(entry{})) +
		int64(len(b.table.slots))*4 +
		b.text.size +
		int64(b.extents.n)*int64(unsafe.Sizeof(Extent{})) +
		b.ownSize() +
		b.chunks*chunkIndexSize +
		int64(b.bodies.list.n)*int64(unsafe.Sizeof(body{}))
}

func isDevice(mode uint32) bool {
	kind := mode & syscall.S_IFMT
	return kind == syscall.S_IFCHR || kind == syscall.S_IFBLK
}

// encodeDevice makes of st_rdev the 12 and 20 bits that the kernel has for a device.
func encodeDevice(rdev uint64) (uint32, error) {
	major := rdev>>8&0xfff | rdev>>32&^0xfff
	minor := rdev&0xff | rdev>>12&0xffffff00
	if major >= 1<<12 || minor >= 1<<20 {
		return 0, fmt.Errorf("%w: device %d:%d: the kernel knows majors below 4096 and minors below 1048576", container.ErrInvalid, major, minor)
	}
	return uint32(minor&0xff | major<<8 | minor&^0xff<<12), nil
}

func decodeDevice(dev uint32) uint64 {
	major, minor := uint64(dev>>8&0xfff), uint64(dev&0xff|dev>>12&0xfff00)
	return major<<8 | minor&0xff | minor&^0xff<<12
}

// quote makes a name from an image fit to print.
func quote(name string) string {
	if len(name) > 100 {
		return fmt.Sprintf("%q...", name[:100])
	}
	return fmt.Sprintf("%q", name)
}
