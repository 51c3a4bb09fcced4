package attributes

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/mount/mounttest"
)

func TestMain(m *testing.M) { mounttest.Main(m) }

// described is what Of finds, without what a node does not share with others.
func described(t *testing.T, n Node) (a Attributes) {
	t.Helper()
	a, err := Of(n)
	if err != nil {
		t.Fatal(err)
	}
	st := a.Stat
	a.Stat = unix.Stat_t{Mode: st.Mode, Uid: st.Uid, Gid: st.Gid, Mtim: st.Mtim, Atim: st.Atim}
	slices.SortFunc(a.xattrs, func(a, b xattr) int { return len(a.name) - len(b.name) })
	return a
}

func same(a, b Attributes) bool {
	return a.Stat == b.Stat && slices.EqualFunc(a.xattrs, b.xattrs, func(a, b xattr) bool { return a.name == b.name && string(a.value) == string(b.value) })
}

// All ways to name a node are as good as the others, also for nodes that cannot be opened.
func TestCopy(t *testing.T) {
	dir := mounttest.FileSystem(t, "ext4")
	makers := map[string]func(path string) error{
		"file":      func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"link":      func(path string) error { return os.Symlink("nowhere", path) },
		"fifo":      func(path string) error { return unix.Mkfifo(path, 0o600) },
	}
	for kind, create := range makers {
		for _, by := range []string{"path", "directory", "descriptor"} {
			opened := kind == "file" || kind == "directory"
			if by == "descriptor" && !opened {
				continue
			}
			t.Run(kind+" by "+by, func(t *testing.T) {
				from, to := filepath.Join(dir, kind+by), filepath.Join(dir, kind+by+" copy")
				date := unix.NsecToTimespec(time.Date(1990, 1, 2, 3, 4, 5, 6, time.UTC).UnixNano())
				err := errors.Join(create(from), create(to), os.Lchown(from, 1000, 1001),
					unix.Lsetxattr(from, "trusted.a", []byte("1"), 0), unix.Lsetxattr(from, "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
					unix.Lsetxattr(from, "trusted.overlay.opaque", []byte("y"), 0), unix.Lsetxattr(to, "trusted.old", nil, 0))
				if kind != "link" {
					err = errors.Join(err, unix.Chmod(from, 0o4751))
				}
				err = errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, from, []unix.Timespec{date, date}, unix.AT_SYMLINK_NOFOLLOW))
				if err != nil {
					t.Fatal(err)
				}
				source, target := nodes(t, by, from), nodes(t, by, to)
				if err := errors.Join(Clear(target), Copy(source, target)); err != nil {
					t.Fatal(err)
				}
				if want, got := described(t, Path(from)), described(t, Path(to)); !same(want, got) {
					t.Errorf("the copy is %+v, want %+v", got, want)
				}
				if opaque, err := IsOpaque(target); opaque || err != nil {
					t.Errorf("what overlayfs reads was copied: %v, %v", opaque, err)
				}
				if opaque, err := IsOpaque(source); !opaque || err != nil {
					t.Errorf("the mark is not seen: %v, %v", opaque, err)
				}
			})
		}
	}
}

// nodes names the node at path in one of the ways.
func nodes(t *testing.T, by, path string) Node {
	t.Helper()
	if by == "path" {
		return Path(path)
	}
	open := path
	if by == "directory" {
		open = filepath.Dir(path)
	}
	f, err := os.Open(open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if by == "directory" {
		return At(int(f.Fd()), filepath.Base(path))
	}
	return Open(int(f.Fd()))
}

func TestClearLeavesWhatTheHostGives(t *testing.T) {
	path := filepath.Join(mounttest.FileSystem(t, "ext4"), "file")
	err := os.WriteFile(path, nil, 0o600)
	for _, name := range []string{"user.a", "trusted.b", "security.selinux", "security.SMACK64EXEC"} {
		err = errors.Join(err, unix.Setxattr(path, name, []byte("x"), 0))
	}
	if err := errors.Join(err, Clear(Path(path))); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, x := range described(t, Path(path)).xattrs {
		left = append(left, x.name)
	}
	if !slices.Equal(left, []string{"security.selinux", "security.SMACK64EXEC"}) {
		t.Errorf("%q are left", left)
	}
}
