// Package filelock takes flock(2) locks: they bind processes that share a
// directory, and the kernel frees them however their holder ends.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"berth/internal/disk"
)

// Mode says who else may hold the lock.
type Mode int

// The two modes of flock(2).
const (
	Shared    Mode = syscall.LOCK_SH
	Exclusive Mode = syscall.LOCK_EX
)

// ErrHeld is returned by Try when another open file holds a conflicting lock.
var ErrHeld = errors.New("lock is held")

// Lock is a held lock.
type Lock struct {
	file *disk.File
}

// Acquire locks the file at path, which is made when missing, and waits for it
// until ctx ends. Critical sections under these locks are short, so it polls.
func Acquire(ctx context.Context, path string, mode Mode) (*Lock, error) {
	return poll(ctx, path, func() (*Lock, error) { return Try(path, mode) })
}

// poll tries until the lock is not held.
func poll(ctx context.Context, path string, try func() (*Lock, error)) (*Lock, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		lock, err := try()
		if !errors.Is(err, ErrHeld) {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for lock %s: %w", path, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// Try locks the file at path, which is made when missing, or returns ErrHeld.
func Try(path string, mode Mode) (*Lock, error) {
	f, err := disk.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return lockFile(f, mode)
}

// TryExisting is Try for a file that must exist: fs.ErrNotExist otherwise.
func TryExisting(path string, mode Mode) (*Lock, error) {
	f, err := disk.OpenFile(path, os.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return lockFile(f, mode)
}

func lockFile(f *disk.File, mode Mode) (*Lock, error) {
	if err := flock(f, int(mode)|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrHeld
		}
		return nil, &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	return &Lock{file: f}, nil
}

func flock(f *disk.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// Convert changes the mode of the lock. ErrHeld says that another open file holds a
// conflicting one, and that this one is lost: flock(2) frees it first.
func (l *Lock) Convert(mode Mode) error {
	err := flock(l.file, int(mode)|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return ErrHeld
	case err != nil:
		return &fs.PathError{Op: "flock", Path: l.file.Name(), Err: err}
	}
	return nil
}

// File returns the locked file. It is valid until Unlock.
func (l *Lock) File() *disk.File { return l.file }

// Unlock frees the lock. The file stays.
func (l *Lock) Unlock() error { return l.file.Close() }

// Directory locks the directory at path and waits for it as Acquire does. fs.ErrNotExist:
// there is none, or the holder before has removed it.
func Directory(ctx context.Context, path string, mode Mode) (*Lock, error) {
	return poll(ctx, path, func() (*Lock, error) { return tryDirectory(path, mode) })
}

func tryDirectory(path string, mode Mode) (*Lock, error) {
	f, err := disk.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(f, mode)
	if err != nil {
		return nil, err
	}
	var st syscall.Stat_t
	if err = syscall.Fstat(int(f.Fd()), &st); err == nil && st.Nlink == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, errors.Join(&fs.PathError{Op: "flock", Path: path, Err: err}, lock.Unlock())
	}
	return lock, nil
}
