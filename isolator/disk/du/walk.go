package du

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// walk adds up what directories occupy, as `du -x` does. The container changes them
// meanwhile: what vanishes does not count, and no link leads out.
type walk struct {
	ctx   context.Context
	bytes uint64
	// tooDeep: there is more below maxDepth.
	tooDeep bool
	// links are the files with several names that were counted.
	links map[inode]struct{}
}

type inode struct {
	device uint64
	number uint64
}

func newWalk(ctx context.Context) *walk { return &walk{ctx: ctx, links: map[inode]struct{}{}} }

// add counts a directory and what is in it, but for other file systems.
func (w *walk) add(path string) (err error) {
	dir, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	info, err := dir.Stat(".")
	if err != nil {
		return err
	}
	w.count(info)
	return w.entries(dir, deviceOf(info), 1)
}

// What the walk has of each directory that it is in: two open files, and names. A container
// that nests directories without end is not to take those of this process.
const (
	maxDepth = 500
	atATime  = 100 // names
)

func (w *walk) entries(dir *os.Root, device uint64, depth int) (err error) {
	if depth > maxDepth {
		w.tooDeep = true
		return nil
	}
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for {
		names, err := f.Readdirnames(atATime)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if w.ctx.Err() != nil {
				return context.Cause(w.ctx)
			}
			if err := w.entry(dir, name, device, depth); err != nil && !(vanished(err) && w.ctx.Err() == nil) {
				return err
			}
		}
	}
}

func (w *walk) entry(dir *os.Root, name string, device uint64, depth int) error {
	info, err := dir.Lstat(name)
	if err != nil || deviceOf(info) != device {
		return err
	}
	w.count(info)
	if !info.IsDir() {
		return nil
	}
	below, err := dir.OpenRoot(name)
	if err != nil {
		return err
	}
	defer below.Close()
	if opened, err := below.Stat("."); err != nil || !os.SameFile(info, opened) {
		return err // a link has taken its place
	}
	return w.entries(below, device, depth+1)
}

// vanished says that what was a directory or a file a moment ago is none any more: it was
// removed or replaced. That a link leads out is no error of the kernel.
func vanished(err error) bool {
	var errno syscall.Errno
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) || !errors.As(err, &errno)
}

func (w *walk) count(info fs.FileInfo) {
	st := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() && st.Nlink > 1 {
		file := inode{deviceOf(info), st.Ino}
		if _, counted := w.links[file]; counted {
			return
		}
		w.links[file] = struct{}{}
	}
	w.bytes += uint64(st.Blocks) * 512
}

func deviceOf(info fs.FileInfo) uint64 { return uint64(info.Sys().(*syscall.Stat_t).Dev) }
