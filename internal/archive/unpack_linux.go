package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
)

// Unpack makes below a directory what a tar of Pack has. What is called top there is called
// as; with "" everything keeps its name. Files that are there are replaced, and what is in
// directories that are there stays. No link is followed out of the directory: an entry that
// would have to is an error of the class ErrInvalid, and so is one of another kind than Pack
// makes. What was made before an error stays.
func Unpack(ctx context.Context, r io.Reader, dir *os.Root, as string) error {
	u := &unpacker{dir: dir, times: make(map[string]time.Time)}
	reader := tar.NewReader(r)
	for {
		h, err := reader.Next()
		if err == io.EOF {
			return u.setTimes()
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("read the tar: %w", err)
		}
		name := rename(h.Name, as)
		if !fs.ValidPath(name) {
			return fmt.Errorf("tar entry %q: %w: it is no path below the directory", h.Name, container.ErrInvalid)
		}
		if err := u.make(name, h, reader); err != nil {
			return explain(name, err)
		}
	}
}

// rename puts as in the place of the first part of a name.
func rename(name, as string) string {
	name = path.Clean(name)
	if as == "" {
		return name
	}
	_, rest, _ := strings.Cut(name, "/")
	return path.Join(as, rest)
}

// explain classes what a hostile or unfit directory answers.
func explain(name string, err error) error {
	switch {
	case strings.Contains(err.Error(), "path escapes from parent"), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("make %s: %w: a link in its path leads out of the directory, or what it lies in is none: %w", name, container.ErrInvalid, err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("make %s: %w: it is read-only: %w", name, container.ErrFailedPrecondition, err)
	}
	return fmt.Errorf("make %s: %w", name, err)
}

type unpacker struct {
	dir   *os.Root
	times map[string]time.Time // of directories, which change while they are filled
}

func (u *unpacker) make(name string, h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return u.makeDir(name, h)
	case tar.TypeReg:
		return u.makeFile(name, h, content)
	case tar.TypeSymlink:
		if err := u.clear(name); err != nil {
			return err
		}
		return u.dir.Symlink(h.Linkname, name)
	}
	return fmt.Errorf("%w: an entry of the type %q; files, directories and symbolic links are copied", container.ErrInvalid, h.Typeflag)
}

// clear removes what is no directory, so that nothing of it, a link say, counts for what
// takes its place.
func (u *unpacker) clear(name string) error {
	info, err := u.dir.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%w: a directory is in its place", container.ErrFailedPrecondition)
	}
	return u.dir.Remove(name)
}

func (u *unpacker) makeDir(name string, h *tar.Header) error {
	mode := fs.FileMode(h.Mode) & fs.ModePerm
	err := u.dir.Mkdir(name, mode)
	if errors.Is(err, fs.ErrExist) {
		info, statErr := u.dir.Lstat(name)
		if statErr != nil || !info.IsDir() {
			return errors.Join(fmt.Errorf("%w: what is in its place is no directory", container.ErrFailedPrecondition), statErr)
		}
		return nil // it stays as it is
	}
	if err != nil {
		return err
	}
	u.times[name] = h.ModTime
	return u.dir.Chmod(name, mode) // the umask does not count
}

func (u *unpacker) makeFile(name string, h *tar.Header, content io.Reader) error {
	if err := u.clear(name); err != nil {
		return err
	}
	file, err := u.dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	err = errors.Join(err, file.Chmod(fs.FileMode(h.Mode)&fs.ModePerm))
	if err == nil {
		t := unix.NsecToTimeval(h.ModTime.UnixNano())
		err = unix.Futimes(int(file.Fd()), []unix.Timeval{t, t})
	}
	return errors.Join(err, file.Close())
}

func (u *unpacker) setTimes() error {
	for name, at := range u.times {
		if err := u.dir.Chtimes(name, at, at); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
