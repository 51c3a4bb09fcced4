package user

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	v1 "berth/api/v1"
	"berth/container"
)

// Size is how many ids a container has that does not ask for more: those that images use,
// from root to nobody.
const Size = 1 << 16

// firstFree is the first id that is for containers: those below are given to people, to
// services and to nobody.
const firstFree = 1 << 16

// owners are the names under which /etc/subuid and /etc/subgid may have the ids of
// containers: the first of these that has any. The second is podman's.
var owners = []string{"berth", "containers"}

// Ranges chooses the ranges of containers.
type Ranges struct {
	// Pool is what ranges are taken of for containers that do not ask for one; zero: what
	// /etc/subuid and /etc/subgid both give to owners.
	Pool container.IDRange
	// Etc is the directory of these files, and of the users of the host.
	Etc string
}

// Choose returns the range that is asked for, unless it overlaps one of taken; or else the
// first free one of the pool. ErrInvalid, ErrFailedPrecondition: there is none to be had.
// ErrUnavailable: all of the pool is taken.
func (r *Ranges) Choose(asked *v1.UserNamespaceInfo, taken []container.IDRange) (container.IDRange, error) {
	if asked.Range == nil {
		return r.free(taken)
	}
	ids := container.IDRange{Start: asked.GetRange().GetStart(), Size: asked.GetRange().GetSize()}
	if err := r.check(ids); err != nil {
		return container.IDRange{}, err
	}
	if i := slices.IndexFunc(taken, ids.Overlaps); i >= 0 {
		return container.IDRange{}, fmt.Errorf("the ids %s: %w: a container that runs has %s for itself", ids, container.ErrExists, taken[i])
	}
	return ids, nil
}

// Check refuses ranges that are none for a container, and those with ids of the host's own
// users and groups. The error is of class ErrInvalid.
func (r *Ranges) check(ids container.IDRange) error {
	switch {
	case ids.Size < Size:
		return fmt.Errorf("the ids %s: %w: images have files of any user from 0 to 65534, so a container needs %d ids", ids, container.ErrInvalid, Size)
	case ids.Start < firstFree:
		return fmt.Errorf("the ids %s: %w: those below %d are users of the host", ids, container.ErrInvalid, firstFree)
	case uint64(ids.Start)+uint64(ids.Size) > 1<<32-1:
		return fmt.Errorf("the ids %s: %w: the last id is %d", ids, container.ErrInvalid, uint32(1<<32-2))
	}
	for _, file := range []string{"passwd", "group"} {
		if err := r.checkAccounts(file, ids); err != nil {
			return err
		}
	}
	return nil
}

// checkAccounts refuses ids of somebody in /etc/passwd or /etc/group.
func (r *Ranges) checkAccounts(file string, ids container.IDRange) error {
	return r.lines(file, func(fields []string) error {
		if len(fields) < 3 {
			return nil
		}
		id, err := strconv.ParseUint(fields[2], 10, 32)
		if err == nil && ids.Overlaps(container.IDRange{Start: uint32(id), Size: 1}) {
			return fmt.Errorf("the ids %s: %w: %d is %q of the host's %s", ids, container.ErrInvalid, id, fields[0], filepath.Join(r.Etc, file))
		}
		return nil
	})
}

// free returns the first range of the pool that nobody has.
func (r *Ranges) free(taken []container.IDRange) (container.IDRange, error) {
	pool, err := r.pool()
	if err != nil {
		return container.IDRange{}, err
	}
	for _, part := range pool {
		for ; part.Size >= Size; part.Start, part.Size = part.Start+Size, part.Size-Size {
			ids := container.IDRange{Start: part.Start, Size: Size}
			if !slices.ContainsFunc(taken, ids.Overlaps) {
				return ids, r.check(ids)
			}
		}
	}
	return container.IDRange{}, fmt.Errorf("%w: containers have all ranges of %d ids that fit into %v: end some, or have more ids with --userns_range or in %s and %s",
		container.ErrUnavailable, Size, pool, filepath.Join(r.Etc, "subuid"), filepath.Join(r.Etc, "subgid"))
}

// Check reports why no container can have a range of its own; nil: it can.
func (r *Ranges) Check() error {
	_, err := r.free(nil)
	return err
}

// pool returns what ranges are taken of.
func (r *Ranges) pool() ([]container.IDRange, error) {
	if !r.Pool.IsHost() {
		return []container.IDRange{r.Pool}, nil
	}
	for _, owner := range owners {
		users, err := r.subordinate("subuid", owner)
		if err != nil {
			return nil, err
		}
		groups, err := r.subordinate("subgid", owner)
		if err != nil {
			return nil, err
		}
		if both := intersect(users, groups); len(both) > 0 {
			return both, nil
		}
	}
	return nil, fmt.Errorf("%w: neither %s has ids in both %s and %s: add a line like berth:2147483648:1073741824 to both, or say --userns_range",
		container.ErrFailedPrecondition, strings.Join(owners, " nor "), filepath.Join(r.Etc, "subuid"), filepath.Join(r.Etc, "subgid"))
}

// subordinate returns the ranges of an owner (subuid(5)).
func (r *Ranges) subordinate(file, owner string) (ranges []container.IDRange, err error) {
	err = r.lines(file, func(fields []string) error {
		if fields[0] != owner {
			return nil
		}
		ids, err := ParseRange(strings.Join(fields[1:], ":"))
		if err != nil {
			return fmt.Errorf("%s of %s: %w", filepath.Join(r.Etc, file), owner, err)
		}
		ranges = append(ranges, ids)
		return nil
	})
	return ranges, err
}

// lines calls do with the fields of each line of a file, which need not exist.
func (r *Ranges) lines(file string, do func(fields []string) error) error {
	data, err := os.ReadFile(filepath.Join(r.Etc, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range bytes.Lines(data) {
		if err := do(strings.Split(strings.TrimSpace(string(line)), ":")); err != nil {
			return err
		}
	}
	return nil
}

// intersect returns the ids that are in both lists.
func intersect(a, b []container.IDRange) (both []container.IDRange) {
	for _, x := range a {
		for _, y := range b {
			if !x.Overlaps(y) {
				continue
			}
			start := max(x.Start, y.Start)
			end := min(uint64(x.Start)+uint64(x.Size), uint64(y.Start)+uint64(y.Size))
			both = append(both, container.IDRange{Start: start, Size: uint32(end - uint64(start))})
		}
	}
	return both
}

// ParseRange reads START:SIZE. The error is of class ErrInvalid.
func ParseRange(text string) (container.IDRange, error) {
	start, size, ok := strings.Cut(text, ":")
	from, startErr := strconv.ParseUint(start, 10, 32)
	count, sizeErr := strconv.ParseUint(size, 10, 32)
	if !ok || startErr != nil || sizeErr != nil || count == 0 {
		return container.IDRange{}, fmt.Errorf("%q: %w: a range of ids is START:SIZE, as 100000:65536", text, container.ErrInvalid)
	}
	return container.IDRange{Start: uint32(from), Size: uint32(count)}, nil
}
