package copy

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"berth/internal/attributes"
	"berth/internal/disk"
)

// copier makes one root filesystem.
type copier struct {
	root    int
	workers *errgroup.Group
	buffers sync.Pool // of *buffer

	linking sync.Mutex
	// links has, for each inode with several names, the path of the first that was made.
	links map[inode]string
}

type inode struct {
	layer  *source
	number uint64
}

// buffer is for content that the kernel does not copy by itself.
type buffer [256 << 10]byte

// filesPerJob of a directory are copied one after the other.
const filesPerJob = 16

// run copies the layers, topmost first, into root.
func run(ctx context.Context, root int, layers []*source) error {
	c := &copier{root: root, links: make(map[inode]string)}
	c.buffers.New = func() any { return new(buffer) }
	c.workers, ctx = errgroup.WithContext(ctx)
	// Twice as many as processors: some wait in the kernel, for a lock or for space.
	c.workers.SetLimit(2 * min(runtime.GOMAXPROCS(0), 8))
	c.workers.Go(func() error { return c.tree(ctx, ".", layers) })
	return c.workers.Wait()
}

// spread has a worker that is free do the job, or else does it here and now.
func (c *copier) spread(job func() error) error {
	if c.workers.TryGo(job) {
		return nil
	}
	return job()
}

// tree gives the directory at a path, which is empty, all that the layers have there. The
// directory is closed before those in it have their turn, so that few are open however
// deep they lie.
func (c *copier) tree(ctx context.Context, at string, layers []*source) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d, err := open(c.root, at, layers)
	if err != nil {
		return fmt.Errorf("%q: %w", at, err)
	}
	directories, err := c.directory(ctx, d)
	d.close()
	if err != nil {
		return err
	}
	for _, e := range directories {
		if err := c.spread(func() error { return c.tree(ctx, d.join(e), e.layers) }); err != nil {
			return err
		}
	}
	return nil
}

// directory makes the entries of a directory, gives it its attributes, and returns the
// directories in it, which are empty.
func (c *copier) directory(ctx context.Context, d *directory) (directories []entry, err error) {
	entries, err := d.entries()
	if err != nil {
		return nil, fmt.Errorf("%q: %w", d.path, err)
	}
	var files []entry
	for _, e := range entries {
		if e.kind != unix.DT_DIR {
			files = append(files, e)
			continue
		}
		if err := disk.Mkdirat(d.target, e.name, 0o700); err != nil {
			return nil, fmt.Errorf("%q: %w", d.join(e), err)
		}
		directories = append(directories, e)
	}
	if err := c.files(ctx, d, files); err != nil {
		return nil, err
	}
	// Last: what was made in the directory has changed its times, and would have inherited
	// a default access control list.
	if err := d.finish(); err != nil {
		return nil, fmt.Errorf("%q: %w", d.path, err)
	}
	return directories, nil
}

// files makes entries that are no directories, several at a time.
func (c *copier) files(ctx context.Context, d *directory, files []entry) (err error) {
	var jobs sync.WaitGroup
	for some := range slices.Chunk(files, filesPerJob) {
		jobs.Add(1)
		err = c.spread(func() error {
			defer jobs.Done()
			for _, e := range some {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := c.file(ctx, d, e); err != nil {
					return fmt.Errorf("%q of layer %d: %w", d.join(e), e.part.layer.number, err)
				}
			}
			return nil
		})
		if err != nil {
			break
		}
	}
	jobs.Wait()
	return err
}

// file makes an entry that is no directory.
func (c *copier) file(ctx context.Context, d *directory, e entry) error {
	if e.kind == unix.DT_REG {
		return c.regular(ctx, d, e)
	}
	wanted, err := attributes.Of(attributes.At(e.part.fd, e.name))
	if err != nil {
		return err
	}
	if e.kind == unix.DT_CHR && wanted.Stat.Rdev == 0 {
		return nil // a whiteout: nothing is seen
	}
	made, err := c.name(d, e, &wanted.Stat, func() error {
		if e.kind != unix.DT_LNK {
			return disk.Mknodat(d.target, e.name, wanted.Stat.Mode, int(wanted.Stat.Rdev))
		}
		link, err := readlink(e.part.fd, e.name)
		if err != nil {
			return err
		}
		return disk.Symlinkat(link, d.target, e.name)
	})
	if err != nil || !made {
		return err
	}
	return wanted.Give(attributes.At(d.target, e.name))
}

// regular makes a regular file.
func (c *copier) regular(ctx context.Context, d *directory, e entry) (err error) {
	from, err := disk.Openat(e.part.fd, e.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	wanted, err := attributes.Of(attributes.Open(from))
	if err != nil {
		return err
	}
	f := file{from: from, st: &wanted.Stat}
	made, err := c.name(d, e, f.st, func() (err error) {
		// With the mode, which mostly is right then.
		f.to, err = disk.Openat(d.target, e.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, f.st.Mode&0o777)
		return err
	})
	if err != nil || !made {
		return err
	}
	defer func() {
		if closeErr := unix.Close(f.to); err == nil {
			err = closeErr
		}
	}()
	b := c.buffers.Get().(*buffer)
	defer c.buffers.Put(b)
	if err := f.copyContent(ctx, b[:]); err != nil {
		return err
	}
	return wanted.Give(attributes.Open(f.to))
}

// name makes a node by its first name, and reports whether this is it: further ones are
// linked to it.
func (c *copier) name(d *directory, e entry, st *unix.Stat_t, create func() error) (made bool, err error) {
	if st.Nlink == 1 {
		return true, create()
	}
	c.linking.Lock() // also while it is made: others wait for its name
	defer c.linking.Unlock()
	node := inode{e.part.layer, st.Ino}
	if first, ok := c.links[node]; ok {
		return false, disk.Linkat(c.root, first, d.target, e.name, 0)
	}
	if err := create(); err != nil {
		return false, err
	}
	c.links[node] = d.join(e)
	return true, nil
}

func readlink(dir int, name string) (string, error) {
	buffer := make([]byte, unix.PathMax)
	n, err := disk.Readlinkat(dir, name, buffer)
	if err != nil {
		return "", err
	}
	return string(buffer[:n]), nil
}
