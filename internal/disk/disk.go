// Package disk is how berth touches file systems: the calls of package os and of
// system calls of the same names, one seam for all of them.
//
// A test sees every call before it is made (Intercept). It may let it fail, as a full
// or broken disk does, end the process there, as kill -9 does, or copy the disk, as it
// would be after a power cut. In a program nobody intercepts anything.
//
// A call that a signal interrupts (EINTR) is made again, here and for all callers.
package disk

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
)

// Step is a call that is about to be made, or a place in the code that is named
// because a kill there is worth a test.
type Step struct {
	Op   string // as in "rename", or "reached"
	Path string // as the caller has it, or the name of the place
}

// Reached is the Op of named places.
const Reached = "reached"

// ErrShort, as the answer of an interceptor, lets a write stop half-way: a caller of
// Pwrite is told how much was written, and one of File.Write that no space is left. For all other
// calls it is an error like others.
var ErrShort = errors.New("short write")

var interceptor atomic.Pointer[func(Step) error]

// Intercept has f called before every step, by whichever goroutine takes it, until
// restore. An error of f is the outcome of the step, which is not carried out; an errno
// looks to callers as if the kernel had answered. For tests: there is one interceptor.
func Intercept(f func(Step) error) (restore func()) {
	if !interceptor.CompareAndSwap(nil, &f) {
		panic("disk: there is an interceptor already")
	}
	return func() { interceptor.Store(nil) }
}

// At says that a named place is reached, "pull: layers are durable" for example.
func At(name string) error { return before(Reached, name) }

func before(op, path string) error {
	if f := interceptor.Load(); f != nil {
		return (*f)(Step{op, path})
	}
	return nil
}

// do makes a call, again for as long as signals interrupt it. Its error is that of the
// call or of the interceptor, as it is.
func do(op, path string, call func() error) error {
	for {
		err := before(op, path)
		if err == nil {
			err = call()
		}
		if err != syscall.EINTR {
			return err
		}
	}
}

// doNamed is do for the calls of package os, whose errors name the path.
func doNamed(op, path string, call func() error) error {
	err := do(op, path, call)
	var errno syscall.Errno
	if err != nil && errors.As(err, &errno) && err == error(errno) {
		return &fs.PathError{Op: op, Path: path, Err: err}
	}
	return err
}

// File is an open file whose writes and syncs are steps, too.
type File struct {
	*os.File
}

// Open is os.Open.
func Open(path string) (*File, error) { return OpenFile(path, os.O_RDONLY, 0) }

// OpenFile is os.OpenFile for regular files and directories.
func OpenFile(path string, flag int, mode os.FileMode) (f *File, err error) {
	err = doNamed("open", path, func() error {
		file, err := open(path, flag, mode)
		f = &File{file}
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// open leaves out what package os does besides: it asks with six more system calls
// whether the file can be polled, which no regular file and no directory can.
func open(path string, flag int, mode os.FileMode) (*os.File, error) {
	fd, err := syscall.Open(path, flag|syscall.O_CLOEXEC, uint32(mode.Perm()))
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// CreateTemp is os.CreateTemp, for a pattern with one asterisk.
func CreateTemp(dir, pattern string) (f *File, err error) {
	err = doNamed("open", dir+"/"+pattern, func() error {
		// As long as those of package os: names near the limit have room for it.
		const length = 10
		name := strings.Replace(pattern, "*", rand.Text()[:length], 1)
		file, err := open(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		f = &File{file}
		return err
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Write is os.File.Write.
func (f *File) Write(p []byte) (n int, err error) {
	err = doNamed("write", f.Name(), func() (err error) {
		n, err = f.File.Write(p)
		return err
	})
	if err == ErrShort {
		n, _ = f.File.Write(p[:len(p)/2])
		err = &fs.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
	}
	return n, err
}

// Sync is os.File.Sync.
func (f *File) Sync() error { return doNamed("fsync", f.Name(), f.File.Sync) }

// Close is os.File.Close. The file is closed even if the interceptor has another outcome.
func (f *File) Close() error {
	err := before("close", f.Name())
	closeErr := f.File.Close()
	if err == nil || err == syscall.EINTR { // closed nevertheless
		return closeErr
	}
	return &fs.PathError{Op: "close", Path: f.Name(), Err: err}
}

// Chmod is os.File.Chmod.
func (f *File) Chmod(mode os.FileMode) error {
	return doNamed("chmod", f.Name(), func() error { return f.File.Chmod(mode) })
}

// Mkdir is os.Mkdir.
func Mkdir(path string, mode os.FileMode) error {
	return doNamed("mkdir", path, func() error { return os.Mkdir(path, mode) })
}

// MkdirAll is os.MkdirAll, as one step.
func MkdirAll(path string, mode os.FileMode) error {
	return doNamed("mkdir", path, func() error { return mkdirAll(path, mode) })
}

// mkdirAll tries the last directory first: those above it are mostly there.
func mkdirAll(path string, mode os.FileMode) error {
	err := os.Mkdir(path, mode)
	if above := filepath.Dir(path); errors.Is(err, fs.ErrNotExist) && above != path {
		if err := mkdirAll(above, mode); err != nil {
			return err
		}
		err = os.Mkdir(path, mode)
	}
	if errors.Is(err, fs.ErrExist) {
		if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
			return nil
		}
	}
	return err
}

// Rename is os.Rename.
func Rename(from, to string) error {
	return doNamed("rename", to, func() error { return os.Rename(from, to) })
}

// Remove is os.Remove.
func Remove(path string) error {
	return doNamed("remove", path, func() error { return os.Remove(path) })
}

// Rmdir is rmdir(2): where it is known that path is a directory, one call less than Remove.
func Rmdir(path string) error {
	return doNamed("rmdir", path, func() error { return syscall.Rmdir(path) })
}

// RemoveAll is os.RemoveAll, as one step.
func RemoveAll(path string) error {
	return doNamed("remove", path, func() error { return os.RemoveAll(path) })
}

// Symlink is os.Symlink.
func Symlink(target, path string) error {
	return doNamed("symlink", path, func() error { return os.Symlink(target, path) })
}

// Lstat is os.Lstat.
func Lstat(path string) (info os.FileInfo, err error) {
	err = doNamed("stat", path, func() error {
		info, err = os.Lstat(path)
		return err
	})
	return info, err
}

// ReadFile is os.ReadFile, as one step.
func ReadFile(path string) (data []byte, err error) {
	err = doNamed("read", path, func() error {
		data, err = readFile(path)
		return err
	})
	return data, err
}

func readFile(path string) ([]byte, error) {
	f, err := open(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	data := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	_, err = data.ReadFrom(f)
	return data.Bytes(), err
}

// WriteFile is os.WriteFile, in the steps that it has.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	f, err := OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	return f.fill(data)
}

// Overwrite is WriteFile without making the file empty before: what it has beyond the data
// stays.
func Overwrite(path string, data []byte, mode os.FileMode) error {
	f, err := OpenFile(path, os.O_WRONLY|os.O_CREATE, mode)
	if err != nil {
		return err
	}
	return f.fill(data)
}

// fill writes all that is to be written, and closes the file.
func (f *File) fill(data []byte) error {
	_, err := f.Write(data)
	return errors.Join(err, f.Close())
}

// ReadDir is os.ReadDir, as one step.
func ReadDir(path string) (entries []os.DirEntry, err error) {
	err = doNamed("list", path, func() error {
		entries, err = os.ReadDir(path)
		return err
	})
	return entries, err
}
