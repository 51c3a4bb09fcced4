// Package follow reads a log while it is written, across its renamed files, as package
// plan describes them: name, then name.1 and so on, which are older.
//
// The directory is that of who writes the log, and may be hostile: only regular files in it
// are opened, no link is followed, and nothing there makes a reader wait for it. What is
// read is whatever lies there under these names.
package follow

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"berth/container"
)

// ErrLost is returned where a part of the log is missing, or may be. It is not the end.
var ErrLost = errors.New("a part of the log was lost")

// Log is what to read.
type Log struct {
	Dir  string
	Name string
	// Files is how many files there are at most; 0: one, which is never renamed.
	Files int
	// Ended is closed once nobody writes any more.
	Ended <-chan struct{}
}

// Reader reads a log. Its methods may be called concurrently.
type Reader struct {
	log  Log
	hub  *Hub
	dir  *file
	wake chan struct{}

	mu      sync.Mutex
	current *file
	offset  int64
	closing chan struct{}
	closed  bool
}

// file is a file that is open and watched.
type file struct {
	*os.File
	watch int32
	id    fileID
}

// fileID says whether two files are the same one.
type fileID struct{ dev, inode uint64 }

// Open begins to read, at the start of what is there or at its end. ErrFailedPrecondition:
// what is there is not a regular file. ErrNotFound: nothing is.
func (h *Hub) Open(log Log, atEnd bool) (_ *Reader, err error) {
	r := &Reader{log: log, hub: h, wake: make(chan struct{}, 1), closing: make(chan struct{})}
	defer func() {
		if err != nil {
			err = fmt.Errorf("read %s in %s: %w", log.Name, log.Dir, errors.Join(err, r.Close()))
		}
	}()
	dir, err := unix.Open(log.Dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w: %w", container.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	// Before anything is looked at, so that no change is missed.
	if r.dir, err = r.watched(os.NewFile(uintptr(dir), log.Dir), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_ONLYDIR); err != nil {
		return nil, err
	}
	if r.current, err = r.first(atEnd); err != nil {
		return nil, err
	}
	if atEnd {
		r.offset, err = r.size()
	}
	return r, err
}

// first opens the newest of the files, or the oldest. In the middle of a renaming the newest
// is that which was.
func (r *Reader) first(newest bool) (f *file, err error) {
	for i := range max(1, r.log.Files) {
		number := i
		if !newest {
			number = max(0, r.log.Files-1) - i
		}
		if f, err = r.open(number); err == nil {
			return f, nil
		}
	}
	return nil, err // of the newest, or of the oldest that there can be
}

func (r *Reader) name(number int) string {
	if number == 0 {
		return r.log.Name
	}
	return r.log.Name + "." + strconv.Itoa(number)
}

// open opens one of the files.
func (r *Reader) open(number int) (*file, error) {
	// As a place first: opening a pipe or a device can do anything.
	place, err := unix.Openat2(int(r.dir.Fd()), r.name(number), &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w: %w", container.ErrNotFound, err)
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
		err = notALog(err)
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(place)
	var st unix.Stat_t
	if err := unix.Fstat(place, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, notALog(errors.New("it is not a regular file"))
	}
	// O_NONBLOCK: not even a lease of the container's has it wait.
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(place), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return r.watched(os.NewFile(uintptr(fd), r.name(number)), unix.IN_MODIFY)
}

func notALog(err error) error {
	return fmt.Errorf("%w: %w: the container has put it there", container.ErrFailedPrecondition, err)
}

// watched watches an open file, and closes it if that fails.
func (r *Reader) watched(f *os.File, events uint32) (*file, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	watch, err := r.hub.watch(int(f.Fd()), events, r.wake)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &file{f, watch, idOf(&st)}, nil
}

func idOf(st *unix.Stat_t) fileID { return fileID{st.Dev, st.Ino} }

func (r *Reader) release(f *file) error {
	if f == nil {
		return nil
	}
	return errors.Join(r.hub.unwatch(f.watch, r.wake), f.Close())
}

// Read implements io.Reader. It waits for something to read until the log has ended or
// Close is called, which has it return os.ErrClosed.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		// Before what there is was looked at: nothing can come after.
		ended := isClosed(r.log.Ended)
		n, err := r.readNow(p)
		if n > 0 || err != nil {
			return n, err
		}
		if ended {
			return 0, io.EOF
		}
		select {
		case <-r.wake:
		case <-r.log.Ended:
		case <-r.closing:
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// readNow reads what is there; nothing and no error: nothing is.
func (r *Reader) readNow(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, os.ErrClosed
	}
	for {
		if n, err := r.readCurrent(p); n > 0 || err != nil {
			return n, err
		}
		next, lost, err := r.next()
		if next == nil || err != nil {
			return 0, err
		}
		// Complete now: the next one is there.
		if n, err := r.readCurrent(p); n > 0 || err != nil {
			return n, errors.Join(err, r.release(next))
		}
		if err := r.release(r.current); err != nil {
			return 0, err
		}
		r.current, r.offset = next, 0
		if lost {
			return 0, ErrLost
		}
	}
}

func (r *Reader) readCurrent(p []byte) (int, error) {
	n, err := r.current.ReadAt(p, r.offset)
	r.offset += int64(n)
	if n > 0 {
		return n, nil // and not io.EOF, which says where the file ends now
	}
	if !errors.Is(err, io.EOF) {
		return 0, err
	}
	size, err := r.size()
	if err == nil && size < r.offset { // cut by the container, or by berth-init, which could not rename it
		r.offset, err = 0, ErrLost
	}
	return 0, err
}

func (r *Reader) size() (int64, error) {
	info, err := r.current.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// next opens the file that was begun when the current one was full; nil: there is none yet.
// When the current one is gone, nobody knows which one that was, and it opens the oldest.
func (r *Reader) next() (next *file, lost bool, err error) {
	for number := range r.log.Files {
		if !r.isCurrent(number) {
			continue
		}
		if number == 0 {
			return nil, false, nil
		}
		if next, err = r.open(number - 1); err != nil {
			return nil, false, unlessAbsent(err)
		}
		// They were renamed meanwhile, of which an event comes: it may not be the next one.
		if next.id == r.current.id || !r.isCurrent(number) {
			return nil, false, r.release(next)
		}
		return next, false, nil
	}
	if r.log.Files == 0 {
		return nil, false, nil
	}
	if next, err = r.first(false); err != nil {
		return nil, false, unlessAbsent(err)
	}
	return next, true, nil
}

// unlessAbsent is nil where there is no log, or not yet: files are being renamed, or the
// container has put something in its place.
func unlessAbsent(err error) error {
	if errors.Is(err, container.ErrNotFound) || errors.Is(err, container.ErrFailedPrecondition) {
		return nil
	}
	return err
}

// isCurrent reports whether the current file has this number.
func (r *Reader) isCurrent(number int) bool {
	var st unix.Stat_t
	err := unix.Fstatat(int(r.dir.Fd()), r.name(number), &st, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && idOf(&st) == r.current.id
}

// Close ends the reading. It may be repeated.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	close(r.closing)
	return errors.Join(r.release(r.current), r.release(r.dir))
}
