package fetcher

import (
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	"berth/container"
)

// limits bound what one URI may demand of this host.
type limits struct {
	// download is the size of a file.
	download int64
	// entries is the number of entries of an archive.
	entries int
	// base and ratio bound what an archive unpacks to: base + ratio times its own size.
	base, ratio int64
	// directory is how much of a zip may be its list of entries, which is held in memory.
	directory int64
}

// defaultLimits are far above what is in use.
var defaultLimits = limits{
	download:  1 << 40,
	entries:   4 << 20,
	base:      1<<30 + 64<<20,
	ratio:     200,
	directory: 32 << 20,
}

// maxDepth is how many components a name may have: whoever removes a tree holds a
// descriptor for each.
const maxDepth = 256

// cleanName returns the name of a file in the sandbox, "." for the sandbox itself.
// ErrInvalid: it is outside, or no file system can have it.
func cleanName(name string) (string, error) {
	clean := path.Clean("./" + name)
	switch components := strings.Split(name, "/"); {
	case path.IsAbs(name):
		return "", fmt.Errorf("%w: the name %.80q is absolute", container.ErrInvalid, name)
	case strings.ContainsRune(name, 0) || len(name) > 4095:
		return "", fmt.Errorf("%w: the name %.80q is too long or has a NUL", container.ErrInvalid, name)
	case len(components) > maxDepth:
		return "", fmt.Errorf("%w: the name %.80q has more than %d components", container.ErrInvalid, name, maxDepth)
	default:
		for _, c := range components {
			if c == ".." || len(c) > 255 {
				return "", fmt.Errorf("%w: the name %.80q has a component that is \"..\" or longer than 255 bytes", container.ErrInvalid, name)
			}
		}
	}
	return clean, nil
}

// budget is what an archive may still take.
type budget struct {
	limits  limits
	entries int
	bytes   int64
}

// newBudget is that of an archive of size bytes.
func newBudget(l limits, size int64) *budget {
	return &budget{limits: l, entries: l.entries, bytes: l.base + l.ratio*min(size, 1<<40)}
}

func (b *budget) entry() error {
	if b.entries--; b.entries < 0 {
		return fmt.Errorf("%w: it has more than %d entries", container.ErrInvalid, b.limits.entries)
	}
	return nil
}

// metered is r within the budget, until ctx ends.
func (b *budget) metered(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		n, err := r.Read(p)
		if b.bytes -= int64(n); b.bytes < 0 {
			return 0, fmt.Errorf("%w: it expands to more than %d bytes and %d times its size (a decompression bomb?)",
				container.ErrInvalid, b.limits.base, b.limits.ratio)
		}
		return n, err
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
