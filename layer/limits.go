package layer

import (
	"fmt"

	"berth/container"
)

// Limits bound what one layer may demand of this host.
type Limits struct {
	// Entries is the number of tar entries.
	Entries int
	// NameBytes bounds the names of all directories together, each with 64 bytes
	// beside it: they are kept in memory until the end of the layer, when the
	// directories get their times.
	NameBytes int64
	// Index bounds the memory for the index of a layer in the form EROFS, most of which is in a
	// file while it is made if it is large.
	Index int64
	// Base and Ratio bound the uncompressed size, holes of sparse files counted:
	// at most Base + Ratio times the compressed size.
	Base  int64
	Ratio int64
	// Depth is the number of components of a name.
	Depth int
}

// DefaultLimits are far above what images in use need: the largest have a million
// entries, and a layer of plain zeros of 1 GiB is still within them.
var DefaultLimits = Limits{
	Entries:   4 << 20,
	NameBytes: 64 << 20,
	Index:     1 << 30,
	Base:      1<<30 + 64<<20,
	Ratio:     200,
	// Whoever removes or copies a tree by directory descriptors holds one for each
	// level, and a process may have no more than 1024.
	Depth: 256,
}

const (
	maxName      = 4095 // PATH_MAX without its NUL
	maxComponent = 255  // NAME_MAX
)

// budget counts what a layer has used of its limits.
type budget struct {
	limits  Limits
	entries int
	names   int64
	bytes   int64
	// compressed returns the bytes of the compressed stream read so far.
	compressed func() int64
}

func (b *budget) entry() error {
	if b.entries++; b.entries > b.limits.Entries {
		return fmt.Errorf("%w: more than %d entries", container.ErrInvalid, b.limits.Entries)
	}
	return nil
}

// directory charges for remembering a directory.
func (b *budget) directory(name string) error {
	if b.names += int64(len(name)) + 64; b.names > b.limits.NameBytes {
		return fmt.Errorf("%w: the names of its directories need more than %d bytes", container.ErrInvalid, b.limits.NameBytes)
	}
	return nil
}

// spend takes n uncompressed bytes.
func (b *budget) spend(n int64) error {
	b.bytes += n
	if b.bytes-b.limits.Base > b.limits.Ratio*b.compressed() {
		return fmt.Errorf("%w: it expands to more than %d bytes and %d times its compressed size (a decompression bomb?)",
			container.ErrInvalid, b.limits.Base, b.limits.Ratio)
	}
	return nil
}
