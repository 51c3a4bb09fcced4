package fetcher

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/disk"
)

// tree is a sandbox in which files are made for a user.
type tree struct {
	root  int // descriptor of the sandbox
	owner user
	// dir is the directory that the last file was made in; it stays the same one for as
	// long as this is open, whoever renames it.
	dir  int
	name string
}

// openTree opens a sandbox. It may lie in that of another container, so links above it are
// not followed either.
func openTree(sandbox string, owner user) (*tree, error) {
	how := &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	root, err := disk.Openat2(unix.AT_FDCWD, sandbox, how)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: sandbox, Err: err}
	}
	return &tree{root: root, owner: owner, dir: root, name: "."}, nil
}

func (t *tree) close() error {
	t.leave()
	return disk.Close(t.root)
}

// leave forgets the directory of the last file.
func (t *tree) leave() {
	if t.dir != t.root {
		_ = disk.Close(t.dir) // nothing was written through it
	}
	t.dir, t.name = t.root, "."
}

// enter returns the directory of this clean name, which stays open until the next call. What
// is missing of it is made.
func (t *tree) enter(name string) (int, error) {
	if name == t.name {
		return t.dir, nil
	}
	t.leave()
	dir, err := t.below(name)
	if errors.Is(err, unix.ENOENT) {
		if err = t.mkdirs(name); err == nil {
			dir, err = t.below(name)
		}
	}
	if err != nil {
		return -1, inTheWay(name, err)
	}
	t.dir, t.name = dir, name
	return dir, nil
}

// below opens a directory in the sandbox, through no symbolic link.
func (t *tree) below(name string) (int, error) {
	if name == "." {
		return t.root, nil
	}
	how := &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	dir, err := disk.Openat2(t.root, name, how)
	for range 1000 { // not for ever
		if !errors.Is(err, unix.EAGAIN) { // which is that somebody renames something just now
			break
		}
		dir, err = disk.Openat2(t.root, name, how)
	}
	return dir, err
}

// inTheWay says what the errors mean that depend on what is in the sandbox already.
func inTheWay(name string, err error) error {
	err = &fs.PathError{Op: "make", Path: name, Err: err}
	for _, class := range []error{unix.ELOOP, unix.ENOTDIR, unix.EXDEV, unix.EISDIR, unix.EEXIST, unix.ENOTEMPTY} {
		if errors.Is(err, class) {
			return fmt.Errorf("%w: something else is in its place or above it: %w", container.ErrInvalid, err)
		}
	}
	return err
}

// mkdirs makes a directory and those above it.
func (t *tree) mkdirs(name string) error {
	if name == "." {
		return nil
	}
	if err := t.mkdirs(path.Dir(name)); err != nil {
		return err
	}
	return t.mkdir(name, 0o755)
}

// mkdir makes a directory, unless there is one, which stays as it is. The directory above
// it has to exist.
func (t *tree) mkdir(name string, mode uint32) error {
	above, err := t.below(path.Dir(name))
	if err != nil {
		return err
	}
	if above != t.root {
		defer disk.Close(above)
	}
	base := path.Base(name)
	if err := disk.Mkdirat(above, base, 0o700); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil // as what, is looked at when it is entered
		}
		return err
	}
	made, err := disk.Openat(above, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(t.own(made, mode), disk.Close(made))
}

// own gives an open file to the user. Nothing that is fetched has more than permissions.
func (t *tree) own(fd int, mode uint32) error {
	if err := disk.Fchown(fd, int(t.owner.uid), int(t.owner.gid)); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	return os.NewSyscallError("fchmod", disk.Fchmod(fd, mode&0o777))
}

// directory makes a directory of an archive.
func (t *tree) directory(name string, mode uint32) error {
	if name == "." {
		return nil
	}
	if _, err := t.enter(path.Dir(name)); err != nil {
		return err
	}
	if err := t.mkdir(name, mode|0o700); err != nil {
		return inTheWay(name, err)
	}
	_, err := t.enter(name)
	return err
}

// clear removes what is in the place of a new file and returns the directory it is in. A
// directory stays, and is an error.
func (t *tree) clear(name string) (int, error) {
	dir, err := t.enter(path.Dir(name))
	if err != nil {
		return -1, err
	}
	if err := disk.Unlinkat(dir, path.Base(name), 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return -1, inTheWay(name, err)
	}
	return dir, nil
}

// temporary makes an empty file with a name that nobody knows, to be renamed.
func (t *tree) temporary() (name string, f *disk.File, err error) {
	name = ".fetch-" + rand.Text()
	f, err = t.open(t.root, name)
	return name, f, err
}

func (t *tree) open(dir int, base string) (*disk.File, error) {
	fd, err := disk.Openat(dir, base, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, inTheWay(base, err)
	}
	return &disk.File{File: os.NewFile(uintptr(fd), base)}, nil
}

// file makes a file with what fill writes, in the place of whatever other file.
func (t *tree) file(name string, mode uint32, modified time.Time, fill func(*disk.File) error) error {
	dir, err := t.clear(name)
	if err != nil {
		return err
	}
	f, err := t.open(dir, path.Base(name))
	if err != nil {
		return err
	}
	// The owner comes first: it is what loses the bits that a mode may have.
	err = errors.Join(fill(f), t.own(int(f.Fd()), mode))
	if err == nil && !modified.IsZero() {
		err = setTime(f, modified)
	}
	return errors.Join(err, f.Close())
}

func setTime(f *disk.File, modified time.Time) error {
	at, err := unix.TimeToTimespec(modified)
	if err != nil {
		return fmt.Errorf("%w: its time is %v", container.ErrInvalid, modified)
	}
	times := []unix.Timespec{at, at}
	return disk.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(f.Fd())), times, 0)
}

// symlink makes a symbolic link.
func (t *tree) symlink(name, target string) error {
	if target == "" || len(target) > 4095 {
		return fmt.Errorf("%w: the link %.80q leads nowhere", container.ErrInvalid, name)
	}
	dir, err := t.clear(name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	if err := disk.Symlinkat(target, dir, base); err != nil {
		return inTheWay(name, err)
	}
	return disk.Fchownat(dir, base, int(t.owner.uid), int(t.owner.gid), unix.AT_SYMLINK_NOFOLLOW)
}

// link makes a further name of a file that the archive has.
func (t *tree) link(name, target string) error {
	if name == target {
		return nil
	}
	from, err := t.below(path.Dir(target))
	if err != nil {
		return inTheWay(target, err)
	}
	if from != t.root {
		defer disk.Close(from)
	}
	var st unix.Stat_t
	if err := disk.Fstatat(from, path.Base(target), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil ||
		st.Uid != t.owner.uid || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fmt.Errorf("%w: the hard link %.80q is to no file of the archive", container.ErrInvalid, name)
	}
	dir, err := t.clear(name)
	if err != nil {
		return err
	}
	if err := disk.Linkat(from, path.Base(target), dir, path.Base(name), 0); err != nil {
		return inTheWay(name, err)
	}
	return nil
}

// place renames a temporary file to its name.
func (t *tree) place(temporary, name string) error {
	dir, err := t.enter(path.Dir(name))
	if err != nil {
		return err
	}
	if err := disk.Renameat2(t.root, temporary, dir, path.Base(name), 0); err != nil {
		return inTheWay(name, err)
	}
	return nil
}

// copyAll fills to with the content of from, of at most max bytes; blocks are shared where
// the file system can.
func copyAll(ctx context.Context, to, from *disk.File, max int64) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if info.Size() > max {
		return fmt.Errorf("%w: it has more than %d bytes", container.ErrInvalid, max)
	}
	if disk.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
		return nil
	}
	return copyBytes(ctx, to, io.NewSectionReader(from, 0, max))
}

// copyBytes writes all that r has, until ctx ends.
func copyBytes(ctx context.Context, to *disk.File, r io.Reader) error {
	checked := readerFunc(func(p []byte) (int, error) {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		return r.Read(p)
	})
	// Neither may use the calls of the other that are no steps of package disk.
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, checked, make([]byte, 256<<10))
	return err
}

// discard removes a temporary file.
func (t *tree) discard(temporary string) error {
	if err := disk.Unlinkat(t.root, temporary, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "remove", Path: temporary, Err: err}
	}
	return nil
}
