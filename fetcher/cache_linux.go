package fetcher

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/atomicfile"
	"berth/internal/disk"
	"berth/internal/filelock"
)

// cache is the directory that doc.go draws.
type cache struct {
	dir  string
	size int64
	web  *web
}

// record says what content an entry has.
type record struct {
	Digest       string    `json:"sha256"`
	Size         int64     `json:"size"`
	ETag         string    `json:"etag,omitempty"`
	LastModified string    `json:"last_modified,omitempty"`
	Fetched      time.Time `json:"fetched"`
}

// errUncached says that a download cannot be kept: it does not fit, or its server does not
// say how large it is.
var errUncached = errors.New("not cached")

// entry is one that is locked by this caller.
type entry struct {
	*cache
	key  string
	lock *filelock.Lock
}

func (e *entry) path(suffix string) string { return filepath.Join(e.dir, e.key+suffix) }

// open returns the content of a URI, downloaded now or before. errUncached: see there.
func (c *cache) open(ctx context.Context, s source) (f *disk.File, err error) {
	began := time.Now()
	if err := disk.MkdirAll(c.dir, 0o700); err != nil {
		return nil, err
	}
	key := sha256.Sum256([]byte(s.url.String()))
	e, err := c.lock(ctx, hex.EncodeToString(key[:]))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.release()) }()
	r, f, err := e.sound(ctx, s.digest)
	if err != nil {
		return nil, err
	}
	if f != nil && (s.digest != "" || r.Fetched.After(began) && !r.Fetched.After(time.Now())) {
		return e.use(f)
	}
	answer, err := c.web.ask(ctx, s.url, changes(r))
	if err != nil {
		return nil, errors.Join(err, closeIf(f))
	}
	defer func() { err = errors.Join(err, answer.body.Close()) }()
	if f != nil && answer.same(r) {
		return e.use(f)
	}
	if err := closeIf(f); err != nil {
		return nil, err
	}
	return e.fill(ctx, s, answer)
}

func closeIf(f *disk.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

// lock locks the entry of a key. Whoever removes an entry removes the locked file, too.
func (c *cache) lock(ctx context.Context, key string) (*entry, error) {
	e := &entry{cache: c, key: key}
	for {
		lock, err := filelock.Acquire(ctx, e.path(".lock"), filelock.Exclusive)
		if err != nil {
			return nil, err
		}
		if e.lock = lock; e.valid() {
			return e, nil
		}
		if err := lock.Unlock(); err != nil {
			return nil, err
		}
	}
}

// release unlocks the entry, of which nothing stays if it has no record.
func (e *entry) release() (err error) {
	if _, statErr := disk.Lstat(e.path(".json")); errors.Is(statErr, fs.ErrNotExist) {
		err = e.removeIf(".lock")
	}
	return errors.Join(err, e.lock.Unlock())
}

// valid reports whether the locked file is still the one of this name.
func (e *entry) valid() bool {
	locked, err := e.lock.File().Stat()
	if err != nil {
		return false
	}
	named, err := disk.Lstat(e.path(".lock"))
	return err == nil && os.SameFile(locked, named)
}

// read returns the record and its content; nil if there is none that can be used.
func (e *entry) read() (r record, f *disk.File) {
	data, err := disk.ReadFile(e.path(".json"))
	if err != nil || json.Unmarshal(data, &r) != nil || len(r.Digest) != 2*sha256.Size {
		return record{}, nil
	}
	if f, err = disk.Open(e.path("." + filepath.Base(r.Digest))); err != nil {
		return record{}, nil
	}
	if info, err := f.Stat(); err != nil || info.Size() != r.Size {
		_ = f.Close() // nothing was written to it
		return record{}, nil
	}
	return r, f
}

// sound is read; where a digest is wanted, content that does not have it is none.
func (e *entry) sound(ctx context.Context, digest string) (record, *disk.File, error) {
	r, f := e.read()
	if f == nil || digest == "" {
		return r, f, nil
	}
	got := r.Digest
	var err error
	if got == digest { // as the record says
		got, err = digestOf(ctx, f)
	}
	if err == nil && got == digest {
		return r, f, nil
	}
	return record{}, nil, errors.Join(err, f.Close())
}

// use notes that the entry is wanted.
func (e *entry) use(f *disk.File) (*disk.File, error) {
	now, err := unix.TimeToTimespec(time.Now())
	if err == nil {
		err = disk.UtimesNanoAt(unix.AT_FDCWD, e.path(".json"), []unix.Timespec{now, now}, 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// fill downloads the content, in the place of another one.
func (e *entry) fill(ctx context.Context, s source, first *answer) (f *disk.File, err error) {
	if first.size <= 0 {
		return nil, errUncached
	}
	f, err = e.reserve(ctx, first.size)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), e.removeIf(".partial"))
			f = nil
		}
	}()
	if err := disk.At("fetcher: room is made"); err != nil {
		return f, err
	}
	r := record{ETag: first.etag, LastModified: first.lastModified}
	bounded := *e.web
	bounded.limit = first.size // also if the server says another size later
	if r.Size, r.Digest, err = bounded.download(ctx, s.url, first, f); err != nil {
		return f, err
	}
	if err := checkDigest(r.Digest, s.digest); err != nil {
		return f, err
	}
	return f, e.keep(r, f)
}

// keep makes a download visible.
func (e *entry) keep(r record, f *disk.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if err := disk.Rename(e.path(".partial"), e.path("."+r.Digest)); err != nil {
		return err
	}
	if err := disk.At("fetcher: content is there"); err != nil {
		return err
	}
	r.Fetched = time.Now()
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(e.path(".json"), append(data, '\n'), 0o600, false); err != nil {
		return errors.Join(err, e.removeIf("."+r.Digest))
	}
	return nil
}

func (e *entry) removeIf(suffix string) error {
	if err := disk.Remove(e.path(suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// reserve makes the partial file of this entry as large as it will be, and room for it. What
// the entry had is out of date, and goes first.
func (e *entry) reserve(ctx context.Context, size int64) (f *disk.File, err error) {
	if size > e.size {
		return nil, errUncached
	}
	lock, err := filelock.Acquire(ctx, filepath.Join(e.dir, "lock"), filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := e.makeRoom(size); err != nil {
		return nil, err
	}
	f, err = disk.OpenFile(e.path(".partial"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := disk.Ftruncate(int(f.Fd()), size); err != nil {
		return nil, errors.Join(os.NewSyscallError("ftruncate", err), f.Close(), e.removeIf(".partial"))
	}
	return f, nil
}

// kept is what lies in the cache of one key.
type kept struct {
	key   string
	files []string
	size  int64
	used  time.Time // zero: there is no record
}

// makeRoom removes what killed processes left, and then what was not used for longest,
// until so many bytes are free. Entries that somebody has locked stay.
func (e *entry) makeRoom(size int64) error {
	all, err := e.list()
	if err != nil {
		return err
	}
	used := size
	for _, k := range all {
		used += k.size
	}
	slices.SortFunc(all, func(a, b kept) int { return a.used.Compare(b.used) })
	for _, k := range all {
		var freed int64
		switch whole := k.used.IsZero() || used > e.size; {
		case k.key == e.key:
			freed, err = e.remove(k.files, []string{e.key + ".lock"})
		case whole || len(k.files) > 3:
			freed, err = e.evict(k, whole)
		}
		if err != nil {
			return err
		}
		used -= freed
	}
	if used > e.size {
		return errUncached
	}
	return nil
}

// list returns what is in the cache, by key.
func (c *cache) list() (all []kept, err error) {
	entries, err := disk.ReadDir(c.dir)
	if err != nil {
		return nil, err
	}
	at := make(map[string]int)
	for _, found := range entries {
		// The temporary file of a record begins with a dot.
		key, suffix, ok := strings.Cut(strings.TrimPrefix(found.Name(), "."), ".")
		if !ok || len(key) != 2*sha256.Size {
			continue
		}
		if _, known := at[key]; !known {
			at[key] = len(all)
			all = append(all, kept{key: key})
		}
		info, err := found.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // its owner removed it
		}
		if err != nil {
			return nil, err
		}
		k := &all[at[key]]
		k.files, k.size = append(k.files, found.Name()), k.size+info.Size()
		if suffix == "json" && found.Name()[0] != '.' {
			k.used = info.ModTime()
		}
	}
	return all, nil
}

// evict removes an entry, or only what is no part of it, and returns the bytes that makes.
// One that is locked stays as it is.
func (c *cache) evict(k kept, whole bool) (freed int64, err error) {
	e := &entry{cache: c, key: k.key}
	if e.lock, err = filelock.Try(e.path(".lock"), filelock.Exclusive); errors.Is(err, filelock.ErrHeld) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, e.lock.Unlock()) }()
	if !e.valid() { // it went between its opening and its locking: what is there now is another's
		return 0, nil
	}
	if whole {
		return e.remove(append(k.files, k.key+".lock"), nil)
	}
	r, f := e.read()
	if f == nil {
		return e.remove(append(k.files, k.key+".lock"), nil)
	}
	if err := f.Close(); err != nil {
		return 0, err
	}
	return e.remove(k.files, []string{k.key + ".lock", k.key + ".json", k.key + "." + r.Digest})
}

// remove removes those files of an entry that are not to be kept: the record before what it
// names, and the lock last.
func (e *entry) remove(files, keep []string) (freed int64, err error) {
	slices.SortFunc(files, func(a, b string) int { return order(a) - order(b) })
	// Each once: as soon as the lock is removed, somebody else may have made another.
	for _, name := range slices.Compact(files) {
		if slices.Contains(keep, name) {
			continue
		}
		info, err := disk.Lstat(filepath.Join(e.dir, name))
		if err == nil {
			err = disk.Remove(filepath.Join(e.dir, name))
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return freed, err
		}
		freed += info.Size()
	}
	return freed, nil
}

func order(name string) int {
	switch filepath.Ext(name) {
	case ".json":
		return 0
	case ".lock":
		return 2
	}
	return 1
}

// digestOf returns the digest of a file, as it is on disk.
func digestOf(ctx context.Context, f *disk.File) (string, error) {
	sum := sha256.New()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	content := io.NewSectionReader(f, 0, info.Size())
	_, err = io.Copy(sum, readerFunc(func(p []byte) (int, error) {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		return content.Read(p)
	}))
	if err != nil {
		return "", fmt.Errorf("digest: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// used returns how many bytes the cache holds.
func (c *cache) used() (bytes int64) {
	all, err := c.list()
	if err != nil { // there is none yet
		return 0
	}
	for _, k := range all {
		bytes += k.size
	}
	return bytes
}
