package layer

import (
	"archive/tar"
	"fmt"
	"io"
	"maps"
	"strings"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/readahead"
	"berth/layer/erofs"
)

// indexer makes the index of a tar: the file system that an unpacker would make, with the
// contents of its files where they are in the tar. It decides what an unpacker has the kernel
// decide, in the same way. It is used by one goroutine.
type indexer struct {
	entries
	index *erofs.Builder
	// The directory of the last entry: entries of a tar mostly come directory by directory.
	last   erofs.Node
	lastAt string
	// implied are the directories that have had no entry so far.
	implied          map[string]bool
	nodes, whiteouts int
	buffer           [erofs.BlockSize]byte
	// lastFile is the last one with content, which may reach to the end of the tar.
	lastFile placed
}

// placed is a regular file and where its content is.
type placed struct {
	node    erofs.Node
	size    int64
	extents []erofs.Extent
}

// index reads the tar in stream to its end. What it has read is in file. The index of many files
// lies in memory until it is written.
func index(stream readahead.Pieces, file io.ReaderAt, memory erofs.Memory, budget *budget) (*erofs.Builder, Info, error) {
	x := &indexer{index: erofs.NewBuilder(), implied: make(map[string]bool)}
	x.index.SetMemory(besideWindows{memory})
	x.entries = newEntries(&recorder{src: readahead.Join(stream)}, budget)
	// The root is there even when it has no entry.
	x.implied["."] = true
	if err := x.setAttributes(erofs.Root, impliedDirectory); err != nil {
		return nil, Info{}, err
	}
	if err := x.each(x.place); err != nil {
		return nil, Info{}, err
	}
	if err := x.finish(file); err != nil {
		return nil, Info{}, err
	}
	return x.index, Info{Size: x.stream.n, Entries: budget.entries, Nodes: x.nodes, Whiteouts: x.whiteouts, Implied: inOrder(x.implied)}, nil
}

// besideWindows leaves decoders with a large window what they take of the memory of a pull.
type besideWindows struct{ erofs.Memory }

// Room implements erofs.Memory.
func (m besideWindows) Room() int64 {
	room := m.Memory.Room()
	if HasLargeWindow() {
		return room / 6
	}
	return room
}

// finish takes what a file has in a last block that is not whole into the index: the kernel
// reads whole blocks. Some tools write tars that end with the content of a file.
func (x *indexer) finish(file io.ReaderAt) error {
	whole := x.stream.n &^ (erofs.BlockSize - 1)
	f := x.lastFile
	if len(f.extents) == 0 {
		return nil
	}
	last := &f.extents[len(f.extents)-1]
	if last.Own || last.Offset == erofs.Hole || last.Offset+last.Length <= whole {
		return nil
	}
	end := make([]byte, min(erofs.Tail(f.size), last.Length))
	last.Length -= int64(len(end))
	if _, err := file.ReadAt(end, last.Offset+last.Length); err != nil {
		return fmt.Errorf("read the end of the tar again: %w", err)
	}
	return x.index.SetContent(f.node, f.size, append(f.extents, x.index.AddData(end))...)
}

// place adds what hdr says.
func (x *indexer) place(hdr *tar.Header, at position) error {
	if err := x.bounded(); err != nil {
		return err
	}
	dir, err := x.directory(at.dir)
	if err != nil {
		return err
	}
	switch {
	case at.kind == whiteout:
		x.whiteouts++
		return x.whiteout(dir, at.base)
	case at.kind == opaque:
		x.whiteouts++
		return x.setOpaque(dir)
	case at.base == "":
		return x.sameDirectory(erofs.Root, ".", hdr)
	}
	return x.make(dir, at, hdr)
}

// bounded refuses what needs more memory than it may.
func (x *indexer) bounded() error {
	if size := x.index.Size(); size > x.budget.limits.Index {
		return fmt.Errorf("%w: the index of its files needs more than %d bytes of memory", container.ErrInvalid, x.budget.limits.Index)
	}
	return nil
}

// directory returns the directory dir, made with the directories above it when the tar does
// not have them.
func (x *indexer) directory(dir string) (erofs.Node, error) {
	if dir == x.lastAt {
		return x.last, nil
	}
	at := erofs.Root
	for end := 0; end < len(dir); {
		begin := end
		if begin > 0 {
			begin++
		}
		end = len(dir)
		if slash := strings.IndexByte(dir[begin:], '/'); slash >= 0 {
			end = begin + slash
		}
		next, err := x.step(at, dir[begin:end], dir, dir[:end])
		if err != nil {
			return 0, err
		}
		at = next
	}
	x.last, x.lastAt = at, dir
	return at, nil
}

// step returns the directory name in the directory at, which has the path that is given, on
// the way to dir.
func (x *indexer) step(at erofs.Node, name, dir, path string) (erofs.Node, error) {
	next, there := x.index.Lookup(at, name)
	if !there {
		return x.imply(at, name, path)
	}
	switch attr := x.index.Attr(next); {
	case attr.Mode&unix.S_IFMT == unix.S_IFDIR:
		return next, nil
	case isWhiteoutAttr(attr):
		// Of which this layer has only a whiteout: the lower layers' directory stays hidden.
		x.remove(at, name)
		made, err := x.imply(at, name, path)
		if err != nil {
			return 0, err
		}
		return made, x.setOpaque(made)
	case attr.Mode&unix.S_IFMT == unix.S_IFLNK:
		return 0, fmt.Errorf("%w: its directory %s goes through a symbolic link of this layer", container.ErrInvalid, quote(dir))
	}
	return 0, fmt.Errorf("%w: its directory %s is no directory in this layer", container.ErrInvalid, quote(dir))
}

// imply makes a directory that has no entry, or none yet.
func (x *indexer) imply(at erofs.Node, name, path string) (erofs.Node, error) {
	x.implied[path] = true
	if err := x.budget.directory(path); err != nil {
		return 0, err
	}
	return x.add(at, name, unix.S_IFDIR, 0, impliedDirectory)
}

// add makes a node and gives it the attributes of hdr.
func (x *indexer) add(dir erofs.Node, name string, kind uint32, rdev uint64, hdr *tar.Header) (erofs.Node, error) {
	n, err := x.index.Make(dir, name, erofs.Attr{Mode: kind, Rdev: rdev})
	if err != nil {
		return 0, err
	}
	x.nodes++
	return n, x.setAttributes(n, hdr)
}

// setAttributes gives a node owner, mode, time and extended attributes.
func (x *indexer) setAttributes(n erofs.Node, hdr *tar.Header) error {
	attr := x.index.Attr(n)
	attr.UID, attr.GID = uint32(hdr.Uid), uint32(hdr.Gid)
	attr.Mode = attr.Mode&unix.S_IFMT | mode(hdr)
	if attr.Mode&unix.S_IFMT == unix.S_IFLNK {
		attr.Mode = unix.S_IFLNK | 0o777 // as every file system has it
	}
	modified := times(hdr)[1]
	attr.Sec, attr.Nsec = modified.Sec, uint32(modified.Nsec)
	if err := x.index.SetAttr(n, attr); err != nil {
		return err
	}
	if len(hdr.PAXRecords) == 0 {
		return nil
	}
	// At once: what the index has of each attempt stays there.
	all := x.index.Xattrs(n)
	maps.Insert(all, xattrs(hdr))
	if err := x.index.SetXattrs(n, all); err != nil {
		return fmt.Errorf("set attribute: %w", err)
	}
	return nil
}

// make creates the node that hdr describes. No entry can replace another; only the place of a
// whiteout is free.
func (x *indexer) make(dir erofs.Node, at position, hdr *tar.Header) error {
	there, taken := x.index.Lookup(dir, at.base)
	if !taken {
		return x.create(dir, at, hdr)
	}
	isDir := hdr.Typeflag == tar.TypeDir
	switch attr := x.index.Attr(there); {
	case isWhiteoutAttr(attr):
	case attr.Mode&unix.S_IFMT == unix.S_IFDIR && isDir:
		return x.sameDirectory(there, at.path(), hdr)
	default:
		return fmt.Errorf("%w: an earlier entry has the same name", container.ErrInvalid)
	}
	x.remove(dir, at.base)
	if err := x.create(dir, at, hdr); err != nil || !isDir {
		return err
	}
	// The whiteout that stood here hides what lower layers have.
	made, _ := x.index.Lookup(dir, at.base)
	return x.setOpaque(made)
}

// sameDirectory takes the attributes of a directory that an earlier entry, or an entry below
// it, has made: the last entry counts.
func (x *indexer) sameDirectory(n erofs.Node, path string, hdr *tar.Header) error {
	ours := x.index.Xattrs(n)
	maps.DeleteFunc(ours, func(name, _ string) bool { return !ofHost(name) })
	if err := x.index.SetXattrs(n, ours); err != nil {
		return err
	}
	delete(x.implied, path)
	if err := x.budget.directory(path); err != nil {
		return err
	}
	return x.setAttributes(n, hdr)
}

func (x *indexer) create(dir erofs.Node, at position, hdr *tar.Header) error {
	switch hdr.Typeflag {
	case tar.TypeLink:
		return x.hardLink(dir, at.base, hdr)
	case tar.TypeDir:
		if err := x.budget.directory(at.path()); err != nil {
			return err
		}
		_, err := x.add(dir, at.base, unix.S_IFDIR, 0, hdr)
		return err
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse: // the reader has made the old TypeRegA one of these
		n, err := x.add(dir, at.base, unix.S_IFREG, 0, hdr)
		if err != nil {
			return err
		}
		extents, err := x.content(hdr)
		if err != nil {
			return err
		}
		if len(extents) > 0 {
			x.lastFile = placed{n, hdr.Size, extents}
		}
		return x.index.SetContent(n, hdr.Size, extents...)
	case tar.TypeSymlink:
		n, err := x.add(dir, at.base, unix.S_IFLNK, 0, hdr)
		if err != nil {
			return err
		}
		return x.index.SetTarget(n, hdr.Linkname)
	case tar.TypeFifo:
		_, err := x.add(dir, at.base, unix.S_IFIFO, 0, hdr)
		return err
	case tar.TypeChar, tar.TypeBlock:
		kind, rdev := deviceOf(hdr)
		_, err := x.add(dir, at.base, kind, rdev, hdr)
		return err
	}
	return unknownType(hdr)
}

// content returns where in the tar the content of a file is.
func (x *indexer) content(hdr *tar.Header) ([]erofs.Extent, error) {
	switch {
	case hdr.Size == 0:
		return nil, nil
	case !IsSparse(hdr):
		return []erofs.Extent{{Offset: x.stream.n, Length: hdr.Size}}, nil
	}
	// Only the reader knows the map of a sparse file: what it takes of the stream for a block
	// is where that is, and for a hole it takes nothing.
	var extents []erofs.Extent
	for left := hdr.Size; left > 0; {
		part := x.buffer[:min(left, erofs.BlockSize)]
		begin := x.stream.n
		if _, err := io.ReadFull(x.tar, part); err != nil {
			return nil, x.malformed("its content", err)
		}
		taken := x.stream.n - begin
		if err := x.budget.spend(int64(len(part)) - taken); err != nil {
			return nil, err
		}
		e := erofs.Extent{Offset: begin, Length: int64(len(part))}
		switch {
		case taken == 0:
			e.Offset = erofs.Hole
		case taken != int64(len(part)) || begin%erofs.BlockSize != 0:
			// Pieces that do not begin and end at blocks; no tool in use makes them.
			e = x.index.AddData(part)
			if err := x.bounded(); err != nil {
				return nil, err
			}
		}
		extents = erofs.AppendExtent(extents, e)
		left -= int64(len(part))
	}
	return extents, nil
}

// hardLink makes base another name of what this layer has; a whiteout is nothing.
func (x *indexer) hardLink(dir erofs.Node, base string, hdr *tar.Header) error {
	targetDir, target, err := splitName(hdr.Linkname, x.budget.limits.Depth)
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", quote(hdr.Linkname), err)
	}
	n := erofs.Root
	if target != "" {
		for name := range strings.SplitSeq(join(targetDir, target), "/") {
			next, there := x.index.Lookup(n, name)
			if !there {
				return noTarget(hdr)
			}
			n = next
		}
	}
	switch attr := x.index.Attr(n); {
	case isWhiteoutAttr(attr):
		return noTarget(hdr)
	case attr.Mode&unix.S_IFMT == unix.S_IFDIR:
		return fmt.Errorf("%w: hard link to %s: %w", container.ErrInvalid, quote(hdr.Linkname), unix.EPERM)
	}
	x.nodes++
	return x.index.Link(dir, base, n)
}

// whiteout hides the name of the lower layers. What this layer itself has there stays: a file
// hides by being there, a directory by being opaque.
func (x *indexer) whiteout(dir erofs.Node, name string) error {
	n, there := x.index.Lookup(dir, name)
	switch {
	case !there:
		if _, err := x.index.Make(dir, name, erofs.Attr{Mode: unix.S_IFCHR}); err != nil {
			return err
		}
		x.nodes++
		return x.index.AddXattr(dir, originXattr, "") // see mayHaveWhiteouts
	case x.index.Attr(n).Mode&unix.S_IFMT == unix.S_IFDIR:
		return x.setOpaque(n)
	}
	return nil
}

func (x *indexer) setOpaque(dir erofs.Node) error { return x.index.AddXattr(dir, opaqueXattr, "y") }

func (x *indexer) remove(dir erofs.Node, name string) {
	x.nodes--
	x.index.Remove(dir, name)
}

// isWhiteoutAttr is isWhiteout of a node of an index.
func isWhiteoutAttr(a erofs.Attr) bool { return a.Mode&unix.S_IFMT == unix.S_IFCHR && a.Rdev == 0 }
