package fetch

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"berth/image"
	"berth/internal/atomicfile"
	"berth/internal/disk"
	"berth/internal/filelock"
	"berth/provisioner/store"
)

const (
	// keepFrom is the size from which on what came of a blob is kept. Smaller ones are
	// fetched anew.
	keepFrom = 1 << 20
	// keepFor is how long it is kept for somebody who goes on with it.
	keepFor = 24 * time.Hour
	// keepMost is the size of all that is kept.
	keepMost = 16 << 30
)

// Partials are a directory of blobs as far as they have come, a file each, named after the
// digest: whoever fetches the blob next, in this process or after a kill -9, goes on from
// there. A file is locked by who writes it. Nothing here is durable or trusted: a blob proves
// itself when all of it was read. So whatever goes wrong here is no trouble of a pull.
type Partials struct {
	dir string
}

// Blob is one on its way.
type Blob interface {
	io.ReadCloser
	// Distrust says that these are not the bytes of the blob. If others may be had, say
	// because these came from a mirror, the answer is true.
	Distrust() bool
}

// Resume opens a blob by open, which is told what is kept of it, n bytes that begun has, and
// keeps what comes. They need not be trusted: should the blob prove wrong, open is asked
// again, without them.
func (p *Partials) Resume(d image.Descriptor, open func(begun io.Reader, n int64) (Blob, error)) (io.ReadCloser, error) {
	kept := p.open(d)
	blob, err := open(kept.beginning(), kept.size)
	if err != nil {
		kept.close()
		return nil, err
	}
	return &keptBlob{Blob: blob, kept: kept, begun: kept.size}, nil
}

// keeper is a layer on its way of which something is kept for another attempt.
type keeper interface {
	// Distrust is that of Blob. Nothing is kept any more.
	Distrust() bool
	// Settle says that nothing has to be kept: all that the pull needs has come.
	Settle()
}

// keptBlob is a blob of which all that comes is kept, should another process have to go on.
type keptBlob struct {
	Blob
	kept  *partial
	begun int64 // bytes that an earlier attempt had kept
	read  int64
}

func (b *keptBlob) Read(p []byte) (int, error) {
	n, err := b.Blob.Read(p)
	if fresh := min(int64(n), b.read+int64(n)-b.begun); fresh > 0 {
		b.kept.add(p[int64(n)-fresh : n])
	}
	b.read += int64(n)
	return n, err
}

func (b *keptBlob) Close() error {
	b.kept.close()
	return b.Blob.Close()
}

// Distrust implements keeper.
func (b *keptBlob) Distrust() bool {
	b.Settle()
	again := b.Blob.Distrust()
	return again || b.begun > 0
}

// Settle implements keeper.
func (b *keptBlob) Settle() {
	b.kept.forget()
	if b.kept.path != "" {
		_ = disk.Remove(b.kept.path)
	}
}

func (p *Partials) path(d image.Digest) string { return filepath.Join(p.dir, d.Hex()) }

// partial is a blob on its way.
type partial struct {
	path string
	lock *filelock.Lock // nil when nothing is kept
	size int64          // of what was there at first
	out  *bufio.Writer
}

// open takes hold of what there is of a blob. Somebody else may have: then nothing is kept.
func (p *Partials) open(d image.Descriptor) *partial {
	none := &partial{}
	if p.dir == "" || d.Size < keepFrom || disk.MkdirAll(p.dir, 0o700) != nil {
		return none
	}
	lock, err := lockInPlace(p.path(d.Digest))
	if err != nil {
		return none
	}
	kept := &partial{path: p.path(d.Digest), lock: lock, out: bufio.NewWriterSize(lock.File(), pieceOf(d.Size))}
	size, err := lock.File().Seek(0, io.SeekEnd)
	if err != nil || size > d.Size {
		kept.forget()
		return none
	}
	kept.size = size
	return kept
}

// pieceOf is how much of a blob is written at a time: page caches take large pieces for
// less, and what is not written yet a kill takes away.
func pieceOf(size int64) int { return int(min(max(size/64, 64<<10), 1<<20)) }

// lockInPlace locks the file at path, which is made when missing. Whoever removes such a
// file holds its lock, so the one that was opened may be gone once it is locked.
func lockInPlace(path string) (*filelock.Lock, error) {
	lock, err := filelock.Try(path, filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	opened, err := lock.File().Stat()
	if err == nil {
		var there os.FileInfo
		if there, err = disk.Lstat(path); err == nil && !os.SameFile(opened, there) {
			err = filelock.ErrHeld
		}
	}
	if err != nil {
		_ = lock.Unlock()
		return nil, err
	}
	return lock, nil
}

// beginning reads what was there at first.
func (p *partial) beginning() io.Reader {
	if p.lock == nil {
		return nil
	}
	return io.NewSectionReader(p.lock.File(), 0, p.size)
}

// add keeps the bytes that follow. When it cannot, nothing is kept any more.
func (p *partial) add(more []byte) {
	if p.lock == nil {
		return
	}
	if _, err := p.out.Write(more); err != nil {
		p.forget()
	}
}

// forget removes what was kept.
func (p *partial) forget() {
	if p.lock == nil {
		return
	}
	_ = disk.Remove(p.path)
	_ = p.lock.Unlock()
	p.lock = nil
}

// close leaves what was kept to whoever comes next.
func (p *partial) close() {
	if p.lock == nil {
		return
	}
	if p.out.Flush() != nil {
		p.forget()
		return
	}
	_ = p.lock.Unlock()
	p.lock = nil
}

// all returns the files that have blobs, the newest first.
func (p *Partials) all() (all []os.FileInfo, err error) {
	entries, err := disk.ReadDir(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && isPartial(e) {
			all = append(all, info)
		}
	}
	slices.SortFunc(all, func(a, b os.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	return all, err
}

// isPartial reports whether an entry of the directory is one of these.
func isPartial(e fs.DirEntry) bool {
	_, err := image.ParseDigest("sha256:" + e.Name())
	return err == nil && e.Type().IsRegular()
}

// expire removes what nobody has come back for, and the oldest of what is too much.
func (p *Partials) expire(now time.Time) {
	all, _ := p.all()
	var sum int64
	for _, info := range all {
		sum += info.Size()
		if now.Sub(info.ModTime()) >= keepFor || sum > keepMost {
			_, _ = p.abandoned(info, false)
		}
	}
}

// abandoned reports whether nobody writes a file, and unless dryRun removes it then.
func (p *Partials) abandoned(info os.FileInfo, dryRun bool) (bool, error) {
	path := filepath.Join(p.dir, info.Name())
	lock, err := filelock.TryExisting(path, filelock.Exclusive)
	if errors.Is(err, filelock.ErrHeld) || errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !dryRun {
		err = disk.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) { // by who had the lock before
		return false, lock.Unlock()
	}
	return err == nil, errors.Join(err, lock.Unlock())
}

// Abandoned implements store.Resumer.
func (s *Store) Abandoned(dryRun bool) (abandoned []store.Partial, err error) {
	all, err := s.partials.all()
	errs := []error{err}
	for _, info := range all {
		ok, err := s.partials.abandoned(info, dryRun)
		errs = append(errs, err)
		if ok {
			abandoned = append(abandoned, store.Partial{
				Blob:  image.Digest("sha256:" + info.Name()),
				Bytes: info.Sys().(*syscall.Stat_t).Blocks * 512,
			})
		}
	}
	if len(abandoned) > 0 && !dryRun {
		errs = append(errs, atomicfile.SyncDir(s.partials.dir))
	}
	if err := errors.Join(errs...); err != nil {
		return abandoned, fmt.Errorf("remove what is kept of interrupted downloads: %w", err)
	}
	return abandoned, nil
}
