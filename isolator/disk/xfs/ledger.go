//go:build linux

package xfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"berth/container"
	"berth/internal/atomicfile"
	"berth/internal/filelock"
	"berth/internal/projectquota"
)

// ledger says which directories a project is of: a file for each project in use, named by
// its number, with a line for each directory. It is written before the directories are
// the project's; until all that is in one of them is, its line begins with a mark. A project
// whose directories are gone is free, whoever removed them: nobody has to be there at that
// time.
type ledger struct {
	dir      string
	projects Range
}

// unfinished marks a directory of which not everything may be the project's.
const unfinished = "?"

// entry is what the ledger has of a project: whether all of a directory is its.
type entry map[string]bool

func (l *ledger) lock(ctx context.Context) (*filelock.Lock, error) {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, err
	}
	return filelock.Acquire(ctx, filepath.Join(l.dir, "lock"), filelock.Exclusive)
}

// take finds a free project for directories, none of which is finished.
// ErrFailedPrecondition: there is none.
func (l *ledger) take(ctx context.Context, directories []string) (p projectquota.Project, err error) {
	lock, err := l.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	// From anywhere, so that not all that are in use are looked at each time.
	begin := rand.Uint64N(l.projects.size())
	for n := range l.projects.size() {
		p := l.projects.at(begin + n)
		free, err := l.free(p)
		if err != nil {
			return 0, err
		}
		if free {
			e := entry{}
			for _, dir := range directories {
				e[dir] = false
			}
			return p, l.write(p, e, true)
		}
	}
	return 0, fmt.Errorf("%w: all %d projects of --xfs_project_range are in use, of directories that %s names: end containers or widen the range", container.ErrFailedPrecondition, l.projects.size(), l.dir)
}

// add makes directories a project's, and returns those that are not finished.
func (l *ledger) add(ctx context.Context, p projectquota.Project, directories []string) (pending []string, err error) {
	err = l.change(ctx, p, func(e entry) error {
		added := false
		for _, dir := range directories {
			finished, known := e[dir]
			if !known {
				e[dir], added = false, true
			}
			if !finished || !isOf(dir, p) {
				pending = append(pending, dir)
			}
		}
		if !added {
			return nil
		}
		for dir := range e { // those that have come and gone
			if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) && !slices.Contains(directories, dir) {
				delete(e, dir)
			}
		}
		return l.write(p, e, true)
	})
	return pending, err
}

// finish takes the marks from directories. A power cut may bring them back: then they are
// finished again.
func (l *ledger) finish(ctx context.Context, p projectquota.Project, directories []string) error {
	return l.change(ctx, p, func(e entry) error {
		for _, dir := range directories {
			e[dir] = true
		}
		return l.write(p, e, false)
	})
}

// change calls a function with an entry while nobody else changes one.
func (l *ledger) change(ctx context.Context, p projectquota.Project, do func(entry) error) (err error) {
	lock, err := l.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	e, err := l.read(p)
	if err != nil {
		return err
	}
	return do(e)
}

func (l *ledger) file(p projectquota.Project) string {
	return filepath.Join(l.dir, strconv.FormatUint(uint64(p), 10))
}

// read returns what there is of a project, which is nothing if there is no file.
func (l *ledger) read(p projectquota.Project) (entry, error) {
	text, err := os.ReadFile(l.file(p))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	e := entry{}
	for line := range strings.Lines(string(text)) {
		dir, marked := strings.CutPrefix(strings.TrimSuffix(line, "\n"), unfinished)
		e[dir] = !marked
	}
	return e, nil
}

func (l *ledger) write(p projectquota.Project, e entry, sync bool) error {
	var text []byte
	for _, dir := range slices.Sorted(maps.Keys(e)) {
		if !e[dir] {
			text = append(text, unfinished...)
		}
		text = append(append(text, dir...), '\n')
	}
	return atomicfile.Write(l.file(p), text, 0o600, sync)
}

// free reports whether no directory that is a project's is left. One of the same name that
// is another's, or nobody's, does not count.
func (l *ledger) free(p projectquota.Project) (bool, error) {
	e, err := l.read(p)
	for dir, finished := range e {
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) || err == nil && finished && !isOf(dir, p) {
			continue
		}
		return false, err
	}
	return err == nil, err
}

// isOf reports whether a directory is a project's, or nobody can tell.
func isOf(dir string, p projectquota.Project) bool {
	has, err := projectquota.Of(dir)
	return err != nil || has == p
}

// used counts the projects that are not free, or of which that cannot be told.
func (l *ledger) used() (n uint64) {
	entries, _ := os.ReadDir(l.dir) // of a directory that is not there yet, none
	for _, entry := range entries {
		number, err := strconv.ParseUint(entry.Name(), 10, 32)
		if p := projectquota.Project(number); err == nil && l.projects.has(p) {
			if free, _ := l.free(p); !free {
				n++
			}
		}
	}
	return n
}
