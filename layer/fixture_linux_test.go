package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/image"
	"berth/internal/testrig"
)

// testLimits keep bombs small.
var testLimits = Limits{Entries: 20000, NameBytes: 2 << 20, Index: 16 << 20, Base: 8 << 20, Ratio: 20, Depth: 64}

// reporter is what the functions below need of a test; rapid's has it, too.
type reporter interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func needRoot(t testing.TB) {
	t.Helper()
	testrig.RequireRoot(t)
}

func newStore(t testing.TB, limits Limits) *Store {
	t.Helper()
	needRoot(t)
	return openStore(t, filepath.Join(t.TempDir(), "store"), limits)
}

func openStore(t testing.TB, dir string, limits Limits) *Store {
	t.Helper()
	s, err := Open(dir, limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newLease(t reporter, s *Store) *Lease {
	t.Helper()
	l, err := s.Lease(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func release(t reporter, l *Lease) {
	t.Helper()
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}

// addLayer unpacks and commits a blob.
func addLayer(t testing.TB, s *Store, blob []byte) Info {
	t.Helper()
	l := newLease(t, s)
	defer release(t, l)
	info, err := l.Unpack(context.Background(), Tree, "", bytes.NewReader(blob))
	if err != nil {
		t.Fatalf("unpack: %v", err)
	}
	if err := l.Commit(context.Background()); err != nil {
		t.Fatalf("commit: %v", err)
	}
	return info
}

// check checks a layer in each form that it has.
func check(t reporter, s *Store, id image.Digest) (found []Problem) {
	t.Helper()
	forms, err := s.Forms(id)
	if err != nil {
		t.Fatal(err)
	}
	if len(forms) == 0 {
		forms = []Form{Tree}
	}
	for _, form := range forms {
		problems, err := s.Check(context.Background(), id, form)
		if err != nil {
			t.Fatalf("check: %v", err)
		}
		found = append(found, problems...)
	}
	return found
}

func wantClean(t reporter, s *Store, id image.Digest) {
	t.Helper()
	for _, p := range check(t, s, id) {
		t.Errorf("check: %s", p)
	}
}

// wantEmpty says that a store has no layer and no trace of an attempt at one.
func wantEmpty(t reporter, s *Store) {
	t.Helper()
	for _, dir := range []string{s.layers(), s.leases(), s.staging()} {
		wantNothingIn(t, dir)
	}
}

func wantNothingIn(t reporter, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left behind: %s", filepath.Join(dir, e.Name()))
	}
}

// look describes every node below dir, by other means than the package's own. It
// leaves out times.
func look(t reporter, dir string) map[string]string {
	t.Helper()
	seen := make(map[string]string)
	names := make(map[uint64]string) // the first name of a file with several
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		seen[name] = describe(t, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if first, ok := names[st.Ino]; ok {
				seen[name] = "same as " + first
			} else {
				names[st.Ino] = name
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func describe(t reporter, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	words := []string{}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		words = append(words, "dir")
	case unix.S_IFREG:
		words = append(words, "file", contentOf(t, path))
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		words = append(words, "-> "+target)
	case unix.S_IFIFO:
		words = append(words, "fifo")
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return "whiteout"
		}
		words = append(words, fmt.Sprintf("char %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	case unix.S_IFBLK:
		words = append(words, fmt.Sprintf("block %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	default:
		words = append(words, fmt.Sprintf("type %o", st.Mode&unix.S_IFMT))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		words = append(words, fmt.Sprintf("%04o", st.Mode&0o7777))
	}
	words = append(words, fmt.Sprintf("%d:%d", st.Uid, st.Gid))
	return strings.Join(append(words, attributes(t, path)...), " ")
}

// contentOf is the content of a file that has few bytes, else its size and digest.
func contentOf(t reporter, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) <= 20 {
		return fmt.Sprintf("%q", data)
	}
	sum := sha256.Sum256(data)
	return fmt.Sprintf("%d bytes %s", len(data), hex.EncodeToString(sum[:4]))
}

func attributes(t reporter, path string) []string {
	t.Helper()
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}
	var words []string
	for _, name := range strings.Split(string(list[:max(n, 0)]), "\x00") {
		if name == "" || name == originXattr || name == "security.selinux" || strings.HasPrefix(name, "trusted.SGI_ACL_") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatal(err)
		}
		if name == opaqueXattr && string(value[:n]) == "y" {
			words = append(words, "opaque")
			continue
		}
		words = append(words, fmt.Sprintf("%s=%q", name, value[:n]))
	}
	sort.Strings(words)
	return words
}

// wantTree compares descriptions of trees. Of the root only what want says.
func wantTree(t reporter, got, want map[string]string) {
	t.Helper()
	for name, w := range want {
		if g, ok := got[name]; !ok {
			t.Errorf("%q is missing, want %s", name, w)
		} else if g != w {
			t.Errorf("%q is %s, want %s", name, g, w)
		}
	}
	for name, g := range got {
		if _, ok := want[name]; !ok && name != "." {
			t.Errorf("%q is too many: %s", name, g)
		}
	}
}

// mountNew mounts a new file system for as long as the test runs.
func mountNew(t testing.TB, kind, size string, options ...string) string {
	t.Helper()
	mnt := testrig.TempDir(t)
	mount := []string{"-t", kind, "-o", "size=" + size, "none", mnt}
	if kind != "tmpfs" {
		testrig.RequireTools(t, "mkfs."+kind)
		img := filepath.Join(t.TempDir(), "img")
		run(t, "truncate", "--size="+size, img)
		run(t, "mkfs."+kind, append(append([]string{"-q"}, options...), img)...)
		mount = []string{"-o", "loop", img, mnt}
	}
	if out, err := exec.Command("mount", mount...).CombinedOutput(); err != nil {
		t.Skipf("%s cannot be mounted: %v: %s", kind, err, out)
	}
	t.Cleanup(func() { run(t, "umount", mnt) })
	return mnt
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}
