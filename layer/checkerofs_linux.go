package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"berth/image"
	"berth/internal/readahead"
	"berth/internal/spill"
)

// remadeEROFS returns the record that the form EROFS in dir should have, and compares its
// index with the one that its tar has, as that of the layer id: when only contents have changed,
// the index is still right.
func remadeEROFS(ctx context.Context, id image.Digest, dir int, found *problems) (_ Info, err error) {
	file, err := openBelow(dir, TarFile, unix.O_RDONLY)
	if err != nil {
		found.add("", "its tar is missing: %v", err)
		return Info{}, errNothing
	}
	defer file.Close()
	// What has become a layer was within the limits that were set then.
	limits := Limits{Entries: math.MaxInt, NameBytes: math.MaxInt64, Index: math.MaxInt64, Base: math.MaxInt64, Depth: maxName}
	sum := sha256.New()
	options := readahead.Options{Buffers: 4, Size: 256 << 10, Look: func(piece []byte) { sum.Write(piece) }}
	stream := readahead.New(readahead.Buffered(endingWith(ctx, file)), options)
	defer stream.Close()
	memory := spill.In(fmt.Sprintf("/proc/self/fd/%d", dir))
	defer memory.Close()
	defer memory.Guard(&err)()
	made, info, err := index(stream, file, memory, &budget{limits: limits, compressed: func() int64 { return 0 }})
	if err != nil {
		return Info{}, err
	}
	info.Version, info.DiffID = 1, image.DigestOfSum([sha256.Size]byte(sum.Sum(nil)))
	made.SetUUID(uuidOf(id))
	there, err := openBelow(dir, IndexFile, unix.O_RDONLY)
	if err != nil {
		found.add("", "its index is missing: %v", err)
		return Info{}, errNothing
	}
	defer there.Close()
	same := &comparison{file: there, sum: sha256.New()}
	if err := made.Write(same, info.Size); err != nil {
		return Info{}, fmt.Errorf("compare its index: %w", err)
	}
	if !same.atEnd() {
		found.add("", "its index has changed")
	}
	_ = found.note(same.err)
	info.Index = image.DigestOfSum([sha256.Size]byte(same.sum.Sum(nil)))
	return info, nil
}

// comparison takes what a file should have in it.
type comparison struct {
	file   *os.File
	sum    hash.Hash // of what it should have
	buffer []byte
	differ bool
	err    error // why it could not be read
}

func (c *comparison) Write(p []byte) (int, error) {
	c.sum.Write(p)
	if c.differ {
		return len(p), nil
	}
	if len(c.buffer) < len(p) {
		c.buffer = make([]byte, len(p))
	}
	got := c.buffer[:len(p)]
	if _, err := io.ReadFull(c.file, got); err != nil {
		c.err = err
	}
	c.differ = c.err != nil || !bytes.Equal(got, p)
	return len(p), nil
}

// atEnd reports whether the file had it, and no more.
func (c *comparison) atEnd() bool {
	n, err := c.file.Read(make([]byte, 1))
	return !c.differ && n == 0 && err == io.EOF
}
