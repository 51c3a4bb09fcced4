package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/disk"
)

const (
	// device numbers are 12 and 20 bits wide inside the kernel
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
	// the id 2^32-1 means "unchanged" to chown(2)
	maxOwner = 1<<32 - 2
)

// unpacker makes a tree of a tar. It is used by one goroutine.
type unpacker struct {
	tree   *tree
	budget *budget
	split  *splitWriter
	stream *recorder
	tar    *tar.Reader
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
	recorded := &recorder{src: stream, split: split}
	u := &unpacker{
		tree:   newTree(root),
		budget: budget,
		split:  split,
		stream: recorded,
		tar:    tar.NewReader(recorded),
		crc:    crc64.New(fileSum),
		buffer: make([]byte, 256<<10),

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
	for {
		switch err := u.next(); {
		case err == io.EOF:
			return u.finish()
		case err != nil:
			return Info{}, err
		}
	}
}

// next unpacks one entry; io.EOF says that there is none left.
func (u *unpacker) next() error {
	hdr, err := u.tar.Next()
	switch {
	case err == io.EOF:
		return io.EOF
	case err != nil && u.budget.entries == 0:
		return u.malformed("it is not a tar archive", err)
	case err != nil:
		return u.malformed(fmt.Sprintf("after entry %d", u.budget.entries-1), err)
	}
	if err := u.budget.entry(); err != nil {
		return err
	}
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil // such as git's comment; no tool that unpacks images applies them
	}
	if err := u.place(hdr); err != nil {
		return fmt.Errorf("entry %d, %s: %w", u.budget.entries-1, quote(hdr.Name), u.classify(err))
	}
	return nil
}

// malformed classifies an error of the tar reader: either the stream failed, or it
// did not and its bytes are wrong. Among the latter is an end in mid-entry.
func (u *unpacker) malformed(what string, err error) error {
	if u.stream.err != nil {
		return u.stream.err
	}
	return fmt.Errorf("%w: %s: %w", container.ErrInvalid, what, err)
}

// classify tells what kind of error the kernel's answer to an entry is.
func (u *unpacker) classify(err error) error {
	switch {
	case u.stream.err != nil: // not of the kernel, whatever number it has
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
func (u *unpacker) place(hdr *tar.Header) error {
	if !isOwner(hdr.Uid) || !isOwner(hdr.Gid) {
		return fmt.Errorf("%w: the owner %d:%d is not a user and group id", container.ErrInvalid, hdr.Uid, hdr.Gid)
	}
	at, err := locate(hdr.Name, u.budget.limits.Depth)
	switch {
	case err != nil:
		return err
	case at.kind == metadata:
		return nil // its content, like that of any marker, goes to the split
	case at.kind != noMarker && hdr.Typeflag != tar.TypeReg && hdr.Typeflag != tar.TypeLink:
		return fmt.Errorf("%w: a whiteout that is not a file", container.ErrInvalid)
	}
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
	case hdr.Typeflag != tar.TypeDir:
		return fmt.Errorf("%w: the root of the layer is not a directory", container.ErrInvalid)
	}
	return u.sameDirectory(hdr, node{parent: parent, base: "."})
}

func isOwner(id int) bool { return id >= 0 && int64(id) <= maxOwner }

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
		if hdr.Linkname == "" || len(hdr.Linkname) > maxName {
			return fmt.Errorf("%w: a symbolic link to %s", container.ErrInvalid, quote(hdr.Linkname))
		}
		return did("symlink", disk.Symlinkat(hdr.Linkname, n.parent, n.base))
	case tar.TypeFifo:
		return did("mkfifo", disk.Mknodat(n.parent, n.base, unix.S_IFIFO, 0))
	case tar.TypeChar, tar.TypeBlock:
		return makeDevice(hdr, n)
	default:
		return fmt.Errorf("%w: entries of type %q are not known", container.ErrInvalid, hdr.Typeflag)
	}
}

func makeDevice(hdr *tar.Header, n node) error {
	major, minor := hdr.Devmajor, hdr.Devminor
	switch {
	case major == 0 && minor == 0:
		return fmt.Errorf("%w: the device 0:0 is overlayfs's whiteout; an image may not make one", container.ErrInvalid)
	case major < 0 || major > maxMajor || minor < 0 || minor > maxMinor:
		return fmt.Errorf("%w: the device number %d:%d is out of range", container.ErrInvalid, major, minor)
	}
	kind := uint32(unix.S_IFCHR)
	if hdr.Typeflag == tar.TypeBlock {
		kind = unix.S_IFBLK
	}
	return did("mknod", disk.Mknodat(n.parent, n.base, kind, int(unix.Mkdev(uint32(major), uint32(minor)))))
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
		return fmt.Errorf("%w: hard link to %s, which this layer does not have", container.ErrInvalid, quote(hdr.Linkname))
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
	if isSparse(hdr) {
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

func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
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

// finish reads what follows the end of the archive and dates the directories.
func (u *unpacker) finish() (Info, error) {
	if _, err := io.Copy(io.Discard, u.stream); err != nil {
		return Info{}, err
	}
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
	info := Info{Size: u.stream.n, Entries: u.budget.entries, Nodes: u.tree.nodes, Whiteouts: u.whiteouts, Disk: u.tree.bytes}
	for _, name := range slices.Sorted(maps.Keys(u.implied)) {
		info.Implied = append(info.Implied, []byte(name))
	}
	return info, nil
}
