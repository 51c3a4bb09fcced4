package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"
	"io"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/disk"
)

// unpacker makes a tree of a tar. It is used by one goroutine.
type unpacker struct {
	entries
	tree   *tree
	split  *splitWriter
	crc    hash.Hash64
	buffer []byte
	// directories get their times last: whatever is made in them changes these.
	directories []directoryTime
	// implied are the directories that have had no entry so far.
	implied   map[string]bool
	whiteouts int
}

type directoryTime struct {
	path  string
	times [2]unix.Timespec
	again bool // it has had others before
}

// unpack reads the tar in stream to its end and makes the tree below root, an empty
// directory. Everything but file contents goes to split.
func unpack(stream io.Reader, root int, split *splitWriter, budget *budget) (Info, error) {
	u := &unpacker{
		entries: newEntries(&recorder{src: stream, split: split}, budget),
		tree:    newTree(root),
		split:   split,
		crc:     crc64.New(fileSum),
		buffer:  make([]byte, 256<<10),
		implied: make(map[string]bool),
	}
	defer u.tree.close()
	footprint, err := newFootprint(root)
	if err != nil {
		return Info{}, err
	}
	u.tree.footprint = footprint
	// The root is there even when it has no entry.
	if err := u.imply("."); err != nil {
		return Info{}, err
	}
	if err := u.each(func(hdr *tar.Header, at position) error { return u.classify(u.place(hdr, at)) }); err != nil {
		return Info{}, err
	}
	return u.finish()
}

// classify tells what kind of error the kernel's answer to an entry is.
func (u *unpacker) classify(err error) error {
	switch {
	case err == nil, u.stream.err != nil: // not of the kernel, whatever number it has
		return err
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: %w: the file system of the store cannot hold it; choose a --work_dir on ext4, xfs or btrfs",
			container.ErrNotSupported, err)
	case errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EFBIG):
		return fmt.Errorf("%w: %w", container.ErrInvalid, err)
	}
	return err
}

// place makes what hdr says.
func (u *unpacker) place(hdr *tar.Header, at position) error {
	parent, err := u.parent(at.dir)
	if err != nil {
		return err
	}
	n := node{parent: parent, dir: at.dir, base: at.base}
	switch {
	case at.kind == whiteout:
		u.whiteouts++
		return did("whiteout", u.tree.whiteout(n))
	case at.kind == opaque:
		u.whiteouts++
		return setOpaque(node{parent: parent, base: "."})
	case at.base != "":
		return u.make(hdr, n)
	}
	return u.sameDirectory(hdr, node{parent: parent, base: "."})
}

// parent returns the directory dir, made with the directories above it when the
// tar does not have them.
func (u *unpacker) parent(dir string) (int, error) {
	fd, made, err := u.tree.directory(dir)
	for _, name := range made {
		if err := u.imply(name); err != nil {
			return -1, err
		}
	}
	return fd, err
}

// imply notes a directory that is there because names go through it.
func (u *unpacker) imply(name string) error {
	u.implied[name] = true
	return u.remember(name, impliedDirectory, false)
}

// make creates the node that hdr describes. Every creation is exclusive, so that no
// entry can replace or reach through another; only the place of a whiteout is free.
func (u *unpacker) make(hdr *tar.Header, n node) error {
	err := u.create(hdr, n)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	isDir := hdr.Typeflag == tar.TypeDir
	switch kind, err := u.tree.vacate(n); {
	case err != nil:
		return err
	case kind == unix.S_IFDIR && isDir:
		return u.sameDirectory(hdr, n)
	case kind != 0:
		return fmt.Errorf("%w: an earlier entry has the same name", container.ErrInvalid)
	}
	if err := u.create(hdr, n); err != nil || !isDir {
		return err
	}
	// The whiteout that stood here hides what lower layers have.
	return setOpaque(n)
}

// sameDirectory takes the attributes of a directory that an earlier entry, or an
// entry below it, has made: the last entry counts.
func (u *unpacker) sameDirectory(hdr *tar.Header, n node) error {
	if err := clearXattrs(n); err != nil {
		return err
	}
	if err := u.tree.setAttributes(n, hdr); err != nil {
		return err
	}
	delete(u.implied, n.path())
	return u.remember(n.path(), hdr, true)
}

func (u *unpacker) create(hdr *tar.Header, n node) error {
	if hdr.Typeflag == tar.TypeLink {
		return u.hardLink(hdr, n) // it has the attributes of its target
	}
	if err := u.createNode(hdr, n); err != nil {
		return err
	}
	u.tree.nodes++
	if err := u.tree.setAttributes(n, hdr); err != nil {
		return err
	}
	if hdr.Typeflag == tar.TypeDir {
		return u.remember(n.path(), hdr, false)
	}
	if err := setTimes(n.parent, n.base, times(hdr)); err != nil {
		return err
	}
	size, err := u.tree.measure(n.parent, n.base)
	u.tree.bytes += size
	return err
}

func (u *unpacker) createNode(hdr *tar.Header, n node) error {
	switch hdr.Typeflag {
	case tar.TypeDir:
		return did("mkdir", disk.Mkdirat(n.parent, n.base, 0o700))
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse: // the reader has made the old TypeRegA one of these
		return u.file(hdr, n)
	case tar.TypeSymlink:
		return did("symlink", disk.Symlinkat(hdr.Linkname, n.parent, n.base))
	case tar.TypeFifo:
		return did("mkfifo", disk.Mknodat(n.parent, n.base, unix.S_IFIFO, 0))
	case tar.TypeChar, tar.TypeBlock:
		kind, rdev := deviceOf(hdr)
		return did("mknod", disk.Mknodat(n.parent, n.base, kind, int(rdev)))
	}
	return unknownType(hdr)
}

func (u *unpacker) hardLink(hdr *tar.Header, n node) error {
	dir, base, err := splitName(hdr.Linkname, u.budget.limits.Depth)
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", quote(hdr.Linkname), err)
	}
	switch err := u.tree.hardLink(dir, base, n); {
	case err == nil:
		u.tree.nodes++
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return noTarget(hdr)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EMLINK): // a directory; too many links
		return fmt.Errorf("%w: hard link to %s: %w", container.ErrInvalid, quote(hdr.Linkname), err)
	default:
		return did("link", err)
	}
}

// did says in an error what the kernel was asked for.
func did(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// file makes a regular file and copies its content.
func (u *unpacker) file(hdr *tar.Header, n node) error {
	fd, err := disk.Openat(n.parent, n.base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return did("create", err)
	}
	if IsSparse(hdr) {
		err = u.copySparse(fd, hdr.Size)
	} else {
		err = u.copy(fd, hdr.Size, n)
	}
	return errors.Join(err, did("close", disk.Close(fd)))
}

// copy writes the next size bytes of the tar to fd and their checksum to the split.
func (u *unpacker) copy(fd int, size int64, n node) error {
	if size == 0 {
		return nil
	}
	u.stream.off = true
	defer func() { u.stream.off = false }()
	u.crc.Reset()
	for left := size; left > 0; {
		part := u.buffer[:min(left, int64(len(u.buffer)))]
		if _, err := io.ReadFull(u.tar, part); err != nil {
			return u.malformed("its content", err)
		}
		u.crc.Write(part)
		if err := writeAt(fd, part, size-left); err != nil {
			return err
		}
		left -= int64(len(part))
	}
	return u.split.content(n.path(), size, u.crc.Sum(nil))
}

// copySparse writes a sparse file, leaving holes where it has only zeros. Its
// fragments stay in the split, because there is no other place that has them as
// they were.
func (u *unpacker) copySparse(fd int, size int64) error {
	for offset := int64(0); offset < size; {
		part := u.buffer[:min(size-offset, int64(len(u.buffer)))]
		before := u.stream.n
		if _, err := io.ReadFull(u.tar, part); err != nil {
			return u.malformed("its content", err)
		}
		// The stream has been charged for what it has of the part; the rest are holes.
		if err := u.budget.spend(int64(len(part)) - (u.stream.n - before)); err != nil {
			return err
		}
		if err := writeBlocks(fd, part, offset); err != nil {
			return err
		}
		offset += int64(len(part))
	}
	return did("truncate", disk.Ftruncate(fd, size))
}

var zeroBlock [4096]byte

// writeBlocks writes the blocks of p that are not zero.
func writeBlocks(fd int, p []byte, offset int64) error {
	for start := 0; start < len(p); start += len(zeroBlock) {
		block := p[start:min(start+len(zeroBlock), len(p))]
		if bytes.Equal(block, zeroBlock[:len(block)]) {
			continue
		}
		if err := writeAt(fd, block, offset+int64(start)); err != nil {
			return err
		}
	}
	return nil
}

// writeAt writes all of p: write(2) may write less, on a full disk for example.
func writeAt(fd int, p []byte, offset int64) error {
	for len(p) > 0 {
		n, err := disk.Pwrite(fd, p, offset)
		if err != nil {
			return did("write", err)
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

// remember keeps the times of a directory for the end. They are those of the last call.
func (u *unpacker) remember(path string, hdr *tar.Header, again bool) error {
	if err := u.budget.directory(path); err != nil {
		return err
	}
	u.directories = append(u.directories, directoryTime{path, times(hdr), again})
	return nil
}

// finish dates the directories.
func (u *unpacker) finish() (Info, error) {
	for _, d := range u.directories {
		// No component of the path can be a link: each was made as a directory, and
		// no entry replaces another.
		if err := setTimes(u.tree.root, d.path, d.times); err != nil {
			return Info{}, fmt.Errorf("%s: %w", quote(d.path), err)
		}
		if d.again {
			continue
		}
		size, err := u.tree.measure(u.tree.root, d.path)
		if err != nil {
			return Info{}, fmt.Errorf("%s: %w", quote(d.path), err)
		}
		u.tree.bytes += size
	}
	return Info{Size: u.stream.n, Entries: u.budget.entries, Nodes: u.tree.nodes, Whiteouts: u.whiteouts, Implied: inOrder(u.implied), Disk: u.tree.bytes}, nil
}
