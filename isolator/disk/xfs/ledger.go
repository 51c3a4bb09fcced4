//go:build linux

package xfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"berth/container"
	"berth/internal/atomicfile"
	"berth/internal/filelock"
	"berth/internal/projectquota"
)

// ledger says which directories a project is of: a file for each project in use, named by
// its number, with a line for each directory. It is written before the directories are
// the project's. A project whose directories are gone is free, whoever removed them:
// nobody has to be there at that time.
type ledger struct {
	dir      string
	projects Range
}

// take finds a free project for directories. ErrFailedPrecondition: there is none.
func (l *ledger) take(ctx context.Context, directories []string) (p projectquota.Project, err error) {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return 0, err
	}
	lock, err := filelock.Acquire(ctx, filepath.Join(l.dir, "lock"), filelock.Exclusive)
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
			return p, atomicfile.Write(l.file(p), []byte(strings.Join(directories, "\n")+"\n"), 0o600, true)
		}
	}
	return 0, fmt.Errorf("%w: all %d projects of --xfs_project_range are in use, of directories that %s names: end containers or widen the range", container.ErrFailedPrecondition, l.projects.size(), l.dir)
}

func (l *ledger) file(p projectquota.Project) string {
	return filepath.Join(l.dir, strconv.FormatUint(uint64(p), 10))
}

// free reports whether no directory that is a project's is left.
func (l *ledger) free(p projectquota.Project) (bool, error) {
	text, err := os.ReadFile(l.file(p))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	for directory := range strings.Lines(string(text)) {
		if _, err := os.Lstat(strings.TrimSuffix(directory, "\n")); !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return true, nil
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
