package layer

import (
	"bytes"
	"fmt"
	"hash"
	"hash/crc64"
	"io"
	"os"

	"github.com/vbatts/tar-split/tar/storage"
	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// tarball is the tar of a layer, made again of its split and its tree as it is read.
// What it has to say of the files' contents it adds to found.
type tarball struct {
	split *splitReader
	tree  *tree
	found *problems
	part  io.Reader // the rest of the present record
	file  *content  // of the present record, if it is a file's
	n     int64
}

func newTarball(split io.Reader, t *tree, found *problems) (*tarball, error) {
	records, err := newSplitReader(split)
	if err != nil {
		return nil, err
	}
	return &tarball{split: records, tree: t, found: found, part: bytes.NewReader(nil)}, nil
}

func (t *tarball) Read(p []byte) (int, error) {
	for {
		n, err := t.part.Read(p)
		t.n += int64(n)
		if n > 0 || err != io.EOF {
			return n, err
		}
		if err := t.next(); err != nil {
			return 0, err
		}
	}
}

// next takes up the next record; io.EOF says that there is none.
func (t *tarball) next() error {
	t.finish()
	record, err := t.split.next()
	if err != nil {
		return err
	}
	switch {
	case record.Type == storage.SegmentType:
		t.part = bytes.NewReader(record.Payload)
	case record.Type == storage.FileType && record.Size >= 0:
		t.file = openContent(t.tree, record)
		t.part = t.file
	default:
		return fmt.Errorf("the split has a record of type %d and size %d", record.Type, record.Size)
	}
	return nil
}

// finish ends the present record.
func (t *tarball) finish() {
	if t.file == nil {
		return
	}
	_ = t.found.note(t.file.err)
	if what := t.file.close(); what != "" {
		t.found.add(t.file.name, "%s", what)
	}
	t.file = nil
}

func (t *tarball) close() {
	t.finish()
	t.split.close()
	t.tree.close()
}

// content reads a file of the tree. It always has as many bytes as the record says,
// so that the rest of the tar can be made whatever has become of the file.
type content struct {
	name string
	file *os.File
	left int64
	sum  hash.Hash64
	want []byte
	err  error // why there are zeros in place of the rest
}

func openContent(t *tree, record storage.Entry) *content {
	c := &content{name: record.GetName(), left: record.Size, sum: crc64.New(fileSum), want: record.Payload}
	c.file, c.err = openFile(t, c.name)
	return c
}

// openFile opens a regular file of the tree and nothing else: to open a device or a
// FIFO may wait, or do something.
func openFile(t *tree, name string) (*os.File, error) {
	dir, base, err := splitName(name, maxName)
	if err != nil {
		return nil, err
	}
	parent, err := t.open(dir)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := disk.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("it is not a regular file")
	}
	fd, err := disk.Openat(parent, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), base), nil
}

func (c *content) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(c.left, int64(len(p)))]
	n := len(p)
	if c.err == nil {
		n, c.err = io.ReadFull(c.file, p)
		c.sum.Write(p[:n])
	}
	if c.err != nil {
		clear(p[n:])
		n = len(p)
	}
	c.left -= int64(n)
	return n, nil
}

// close says what was wrong with the file.
func (c *content) close() string {
	if c.file != nil {
		c.file.Close()
	}
	switch {
	case c.err == io.EOF || c.err == io.ErrUnexpectedEOF:
		return "its content is too short"
	case c.err != nil:
		return fmt.Sprintf("its content cannot be read: %v", c.err)
	case c.left == 0 && !bytes.Equal(c.sum.Sum(nil), c.want):
		return "its content has changed"
	}
	return ""
}
