//go:build linux

package xfs

import (
	"fmt"
	"strconv"
	"strings"

	"berth/container"
	"berth/internal/projectquota"
)

// Range is a set of projects.
type Range struct {
	first, last projectquota.Project
}

// ParseRange reads FIRST-LAST, which may be in brackets. The error is of class ErrInvalid.
func ParseRange(text string) (Range, error) {
	inner := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(text), "["), "]")
	from, to, _ := strings.Cut(inner, "-")
	first, firstErr := strconv.ParseUint(strings.TrimSpace(from), 10, 32)
	last, lastErr := strconv.ParseUint(strings.TrimSpace(to), 10, 32)
	// The last is what says that there is none (XFS) or that it does not change.
	if firstErr != nil || lastErr != nil || first == 0 || first > last || last == 1<<32-1 {
		return Range{}, fmt.Errorf("range of projects %q: %w: it is FIRST-LAST, from 1 to %d, as [5000-10000]", text, container.ErrInvalid, uint32(1<<32-2))
	}
	return Range{projectquota.Project(first), projectquota.Project(last)}, nil
}

func (r Range) size() uint64 { return uint64(r.last-r.first) + 1 }

// at returns the nth project, counted round.
func (r Range) at(n uint64) projectquota.Project {
	return r.first + projectquota.Project(n%r.size())
}

func (r Range) has(p projectquota.Project) bool { return r.first <= p && p <= r.last }
