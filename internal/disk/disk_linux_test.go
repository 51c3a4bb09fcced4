package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// intercept is Intercept until the end of the test, or until restore.
func intercept(t testing.TB, f func(Step) error) (restore func()) {
	t.Helper()
	restore = Intercept(f)
	t.Cleanup(restore)
	return restore
}

// touch makes a file and returns its path.
func touch(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// calls are all calls of the package, as on a file that exists in a directory. Those that
// need privileges, or a mount, fail here; they are steps nevertheless.
func calls(path string, f *File) map[string][]func() error {
	var (
		dir  = filepath.Dir(path)
		fd   = int(f.Fd())
		st   unix.Stat_t
		fst  unix.Statfs_t
		buf  = make([]byte, 16)
		attr unix.MountAttr
		how  = unix.OpenHow{Flags: unix.O_RDONLY}
		of   = func(_ any, err error) error { return err }
		here = unix.AT_FDCWD
		now  = []unix.Timespec{{}, {}}
		gone = path + ".gone"
		file = func(f *File, err error) error {
			if err == nil {
				err = f.File.Close()
			}
			return err
		}
		raw = func(fd int, err error) error {
			if err == nil {
				err = unix.Close(fd)
			}
			return err
		}
	)
	return map[string][]func() error{
		"open": {
			func() error { return file(Open(path)) },
			func() error { return file(OpenFile(path, os.O_RDWR, 0)) },
			func() error { return file(CreateTemp(dir, "temp")) },
			func() error { return raw(Openat(here, path, unix.O_RDONLY, 0)) },
			func() error { return raw(Openat2(here, path, &how)) },
		},
		"write": {
			func() error { return of(f.Write([]byte("x"))) },
			func() error { return of(Pwrite(fd, []byte("x"), 0)) },
			func() error { return of(CopyFileRange(fd, new(int64), fd, new(int64), 0, 0)) },
		},
		"read": {
			func() error { return of(ReadFile(path)) },
			func() error { return of(Pread(fd, buf, 0)) },
		},
		"close":           {func() error { return Close(-1) }},
		"fsync":           {f.Sync},
		"syncfs":          {func() error { return Syncfs(f) }},
		"sync_file_range": {func() error { return StartWriteback(f, 0, 1) }},
		"truncate":        {func() error { return Ftruncate(fd, 1) }},
		"clone":           {func() error { return IoctlFileClone(fd, fd) }},
		"stat": {
			func() error { return Fstatat(here, path, &st, 0) },
			func() error { return of(Lstat(path)) },
		},
		"statfs": {func() error { return Fstatfs(fd, &fst) }},
		"list": {
			func() error { return of(ReadDir(dir)) },
			func() error { return of(ReadDirent(fd, buf)) },
			func() error { return of(ReadDirents(fd, buf)) },
		},
		"mkdir": {
			func() error { return Mkdir(path, 0o700) },
			func() error { return MkdirAll(dir, 0o700) },
			func() error { return Mkdirat(here, path, 0o700) },
		},
		"mknod": {func() error { return Mknodat(here, path, unix.S_IFIFO, 0) }},
		"symlink": {
			func() error { return Symlink("x", path) },
			func() error { return Symlinkat("x", here, path) },
		},
		"readlink": {func() error { return of(Readlinkat(here, path, buf)) }},
		"link":     {func() error { return Linkat(here, gone, here, path, 0) }},
		"rename": {
			func() error { return Rename(gone, path) },
			func() error { return Renameat2(here, gone, here, path, 0) },
		},
		"remove": {
			func() error { return Remove(gone) },
			func() error { return RemoveAll(gone) },
			func() error { return Unlinkat(here, gone, 0) },
		},
		"chown": {
			func() error { return Chown(gone, 0, 0) },
			func() error { return Fchown(fd, -1, -1) },
			func() error { return Fchownat(here, gone, 0, 0, 0) },
		},
		"chmod": {
			func() error { return f.Chmod(0o600) },
			func() error { return Chmod(path, 0o600) },
			func() error { return Fchmod(fd, 0o600) },
			func() error { return Fchmodat(here, path, 0o600, 0) },
		},
		"utimensat": {func() error { return UtimesNanoAt(here, path, now, 0) }},
		"setxattr": {
			func() error { return Setxattr(path, "user.a", nil, 0) },
			func() error { return Lsetxattr(path, "user.a", nil, 0) },
			func() error { return Fsetxattr(fd, "user.a", nil, 0) },
		},
		"getxattr": {
			func() error { return of(Lgetxattr(path, "user.a", buf)) },
			func() error { return of(Fgetxattr(fd, "user.a", buf)) },
		},
		"listxattr": {
			func() error { return of(Llistxattr(path, buf)) },
			func() error { return of(Flistxattr(fd, buf)) },
		},
		"removexattr": {
			func() error { return Removexattr(path, "user.b") },
			func() error { return Lremovexattr(path, "user.b") },
			func() error { return Fremovexattr(fd, "user.b") },
		},
		"mount": {
			func() error { return Mount("", gone, "none", 0, "") },
			func() error { return FsconfigCreate(-1) },
		},
		"open_tree":     {func() error { return raw(OpenTree(here, gone, 0)) }},
		"move_mount":    {func() error { return MoveMount(-1, "", here, gone, 0) }},
		"mount_setattr": {func() error { return MountSetattr(here, gone, 0, &attr) }},
		"umount":        {func() error { return Unmount(gone, 0) }},
		Reached:         {func() error { return At("a place") }},
	}
}

func openForTest(t testing.TB, path string) *File {
	t.Helper()
	f, err := OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.File.Close() })
	return f
}

func TestTheOutcomeOfEveryCallIsTheInterceptors(t *testing.T) {
	path := touch(t)
	for op, calls := range calls(path, openForTest(t, path)) {
		for i, call := range calls {
			var steps []Step
			restore := Intercept(func(step Step) error {
				steps = append(steps, step)
				return unix.EDQUOT
			})
			err := call()
			restore()
			if len(steps) != 1 || steps[0].Op != op {
				t.Errorf("%s, call %d: the steps were %+v", op, i, steps)
			}
			if !errors.Is(err, unix.EDQUOT) {
				t.Errorf("%s, call %d: its error is %v", op, i, err)
			}
		}
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "content" {
		t.Errorf("the file has %q, %v: a call was carried out", data, err)
	}
}

func TestWhatASignalInterruptsIsDoneAgain(t *testing.T) {
	path := touch(t)
	for op, calls := range calls(path, openForTest(t, path)) {
		for i, call := range calls {
			if op == Reached { // it is not a call
				continue
			}
			interrupted := 0
			restore := Intercept(func(Step) error {
				if interrupted++; interrupted <= 2 {
					return unix.EINTR
				}
				return nil
			})
			err := call()
			restore()
			want := 3
			if op == "close" { // what was closed must not be closed again
				want = 1
			}
			if interrupted != want || errors.Is(err, unix.EINTR) {
				t.Errorf("%s, call %d: made %d times, its error is %v", op, i, interrupted, err)
			}
		}
	}
}

func TestErrorsOfNamedCallsNameThePath(t *testing.T) {
	path := touch(t)
	intercept(t, func(Step) error { return unix.EIO })
	var named *fs.PathError
	if err := Remove(path); !errors.As(err, &named) || named.Path != path || named.Op != "remove" {
		t.Errorf("the error is %v", err)
	}
}

func TestShortWritesWriteHalf(t *testing.T) {
	path := touch(t)
	f := openForTest(t, path)
	intercept(t, func(step Step) error {
		if step.Op == "write" {
			return ErrShort
		}
		return nil
	})
	if n, err := f.Write([]byte("abcd")); n != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a write of a file: %d, %v; want half and that there is no space", n, err)
	}
	for want := 5; want > 1; {
		n, err := Pwrite(int(f.Fd()), make([]byte, want), 100)
		if half := (want + 1) / 2; n != half || err != nil {
			t.Fatalf("a write of %d: %d, %v", want, n, err)
		}
		want /= 2
	}
	if data, err := os.ReadFile(path); err != nil || string(data[:7]) != "abntent" {
		t.Errorf("the file has %q, %v", data, err)
	}
}

func TestAFileIsClosedWhateverTheOutcome(t *testing.T) {
	path := touch(t)
	for _, fault := range []error{unix.EIO, unix.EINTR, nil} {
		f := openForTest(t, path)
		restore := Intercept(func(step Step) error { return fault })
		err := f.Close()
		restore()
		if fault == unix.EIO && !errors.Is(err, fault) || fault != unix.EIO && err != nil {
			t.Errorf("%v: the error is %v", fault, err)
		}
		if err := f.File.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%v: it was not closed: %v", fault, err)
		}

		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		restore = Intercept(func(step Step) error { return fault })
		err = Close(fd)
		restore()
		if fault == unix.EIO && err != fault || fault != unix.EIO && err != nil {
			t.Errorf("%v: the error is %v", fault, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != unix.EBADF {
			t.Errorf("%v: descriptor %d was not closed: %v", fault, fd, err)
		}
	}
}

func TestWriteFileHasItsSteps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	var steps []string
	intercept(t, func(step Step) error {
		steps = append(steps, step.Op)
		return nil
	})
	if err := WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if want := []string{"open", "write", "close"}; !slices.Equal(steps, want) {
		t.Errorf("the steps were %q, want %q", steps, want)
	}
}

func TestReadDirentsSaysWhatEntriesAre(t *testing.T) {
	dir := t.TempDir()
	want := []Dirent{{"directory", unix.DT_DIR}, {"fifo", unix.DT_FIFO}, {"file", unix.DT_REG}, {"link", unix.DT_LNK}}
	err := errors.Join(os.Mkdir(dir+"/directory", 0o700), unix.Mkfifo(dir+"/fifo", 0o600), os.WriteFile(dir+"/file", nil, 0o600), os.Symlink("file", dir+"/link"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []Dirent
	for buffer := make([]byte, 64); ; { // of two entries at most
		some, err := ReadDirents(int(f.Fd()), buffer)
		if err != nil {
			t.Fatal(err)
		}
		if len(some) == 0 {
			break
		}
		all = append(all, some...)
	}
	slices.SortFunc(all, func(a, b Dirent) int { return strings.Compare(a.Name, b.Name) })
	if !slices.Equal(all, want) {
		t.Errorf("the entries are %v, want %v", all, want)
	}
}

func TestThereIsOneInterceptor(t *testing.T) {
	intercept(t, func(Step) error { return nil })
	defer func() {
		if recover() == nil {
			t.Error("a second one was taken")
		}
	}()
	Intercept(func(Step) error { return nil })
}

func TestNothingIsInterceptedOtherwise(t *testing.T) {
	path := touch(t)
	Intercept(func(Step) error { return unix.EIO })() // restored at once
	if _, err := ReadFile(path); err != nil {
		t.Error(err)
	}
	if err := At("a place"); err != nil {
		t.Error(err)
	}
	if err := Remove(path); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// BenchmarkStat compares the cheapest call with the bare one.
func BenchmarkStat(b *testing.B) {
	path := touch(b)
	var st unix.Stat_t
	b.Run("bare", func(b *testing.B) {
		for b.Loop() {
			if err := unix.Fstatat(unix.AT_FDCWD, path, &st, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("seam", func(b *testing.B) {
		for b.Loop() {
			if err := Fstatat(unix.AT_FDCWD, path, &st, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
}
