package testrig

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Entry is one name of a tree and all that can be known of it. What a kind of
// file does not have is zero.
type Entry struct {
	Path     string // relative to the tree's root, which is "."
	Type     uint32 // S_IFREG, S_IFDIR...
	Mode     uint32 // the twelve bits of chmod
	UID, GID uint32
	MTime    time.Time         // in nanoseconds
	Size     int64             // of a regular file
	Digest   string            // sha256 of a regular file's content
	Target   string            // of a symbolic link
	Rdev     string            // major:minor of a device
	Links    uint64            // number of names, of all but directories: there file systems differ
	First    string            // the first path, in order, that names the same inode
	Xattrs   map[string]string // but those that IgnoredXattr names
}

// Field names one attribute of an entry in an Exception.
type Field string

// The fields that CompareTrees holds against each other. Presence is whether
// there is an entry of that path at all.
const (
	Presence Field = "presence"
	Type     Field = "type"
	Mode     Field = "mode"
	Owner    Field = "owner"
	MTime    Field = "mtime"
	Size     Field = "size"
	Content  Field = "content"
	Target   Field = "target"
	Device   Field = "device"
	Links    Field = "links"
	HardLink Field = "hard link"
	Xattrs   Field = "xattrs"
)

// Exception excuses differences of one field.
type Exception struct {
	Field  Field
	Path   func(path string) bool // nil: every path
	Reason string                 // why it is right to look away
}

// mostReported bounds what CompareTrees reports.
const mostReported = 30

// CompareTrees reports each way in which the tree got differs from the tree
// want, as errors of the test: at most 30, and then how many more.
func CompareTrees(tb testing.TB, want, got string, except ...Exception) {
	tb.Helper()
	wanted, err := Manifest(want)
	if err != nil {
		tb.Fatalf("read the wanted tree: %v", err)
	}
	found, err := Manifest(got)
	if err != nil {
		tb.Fatalf("read the tree: %v", err)
	}
	diffs := Compare(wanted, found, except...)
	for _, d := range diffs[:min(len(diffs), mostReported)] {
		tb.Error(d)
	}
	if more := len(diffs) - mostReported; more > 0 {
		tb.Errorf("... and %d more differences between %s and %s", more, want, got)
	}
}

// Compare returns each way in which got differs from want, one line each, in
// the order of the paths.
func Compare(want, got []Entry, except ...Exception) []string {
	found := make(map[string]Entry, len(got))
	for _, e := range got {
		found[e.Path] = e
	}
	c := comparison{except: except}
	for _, w := range want {
		g, ok := found[w.Path]
		if !ok {
			c.report(w.Path, Presence, w.describe(), "nothing")
			continue
		}
		delete(found, w.Path)
		c.entry(w, g)
	}
	for _, g := range found {
		c.report(g.Path, Presence, "nothing", g.describe())
	}
	slices.SortStableFunc(c.diffs, func(a, b difference) int { return cmp.Compare(a.path, b.path) })
	lines := make([]string, len(c.diffs))
	for i, d := range c.diffs {
		lines[i] = d.line
	}
	return lines
}

type difference struct{ path, line string }

type comparison struct {
	except []Exception
	diffs  []difference
}

// entry compares two entries of one path. Where the types differ the rest means
// nothing.
func (c *comparison) entry(w, g Entry) {
	if w.Type != g.Type {
		c.report(w.Path, Type, w.describe(), g.describe())
		return
	}
	differ(c, w.Path, Mode, fmt.Sprintf("%04o", w.Mode), fmt.Sprintf("%04o", g.Mode))
	differ(c, w.Path, Owner, fmt.Sprint(w.UID, ":", w.GID), fmt.Sprint(g.UID, ":", g.GID))
	differ(c, w.Path, MTime, w.MTime.Format(time.RFC3339Nano), g.MTime.Format(time.RFC3339Nano))
	differ(c, w.Path, Size, w.Size, g.Size)
	differ(c, w.Path, Content, w.Digest, g.Digest)
	differ(c, w.Path, Target, w.Target, g.Target)
	differ(c, w.Path, Device, w.Rdev, g.Rdev)
	differ(c, w.Path, Links, w.Links, g.Links)
	differ(c, w.Path, HardLink, w.First, g.First)
	if !maps.Equal(w.Xattrs, g.Xattrs) {
		c.report(w.Path, Xattrs, fmt.Sprintf("%q", w.Xattrs), fmt.Sprintf("%q", g.Xattrs))
	}
}

func differ[T comparable](c *comparison, path string, field Field, want, got T) {
	if want != got {
		c.report(path, field, fmt.Sprint(want), fmt.Sprint(got))
	}
}

func (c *comparison) report(path string, field Field, want, got string) {
	for _, e := range c.except {
		if e.Field == field && (e.Path == nil || e.Path(path)) {
			return
		}
	}
	c.diffs = append(c.diffs, difference{path, fmt.Sprintf("%q: %s: want %s, got %s", path, field, want, got)})
}

func (e Entry) describe() string {
	kinds := map[uint32]string{
		unix.S_IFREG: "a regular file", unix.S_IFDIR: "a directory", unix.S_IFLNK: "a symbolic link", unix.S_IFIFO: "a FIFO",
		unix.S_IFCHR: "a character device", unix.S_IFBLK: "a block device", unix.S_IFSOCK: "a socket",
	}
	return cmp.Or(kinds[e.Type], fmt.Sprintf("type %#o", e.Type))
}

// IgnoredXattr says which extended attributes are no part of an image: notes
// that overlayfs, rootless tools and a security module of the host make for
// themselves.
func IgnoredXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") ||
		name == "user.rootlesscontainers" || name == "security.selinux"
}

// Manifest reads a tree, the root included, in the order of its paths. It does
// not follow symbolic links; it needs root where files are not readable.
func Manifest(dir string) ([]Entry, error) {
	type inode struct{ dev, ino uint64 }
	var entries []Entry
	first := map[inode]int{} // index of the first name of each inode
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		id := inode{st.Dev, st.Ino}
		if i, ok := first[id]; ok && st.Nlink > 1 {
			e := entries[i]
			e.Path = name
			entries = append(entries, e)
			return nil
		}
		first[id] = len(entries)
		e, err := readEntry(path, name, &st)
		entries = append(entries, e)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the tree %s: %w", dir, err)
	}
	sortEntries(entries)
	return entries, nil
}

// sortEntries brings entries into the order of their paths, and First with
// them: what named the same inode by any of its paths then does by the first.
func sortEntries(entries []Entry) {
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
	renamed := map[string]string{}
	for i, e := range entries {
		if _, ok := renamed[e.First]; !ok {
			renamed[e.First] = e.Path
		}
		entries[i].First = renamed[e.First]
	}
}

func readEntry(path, name string, st *unix.Stat_t) (Entry, error) {
	e := Entry{
		Path: name, Type: st.Mode & unix.S_IFMT, Mode: st.Mode &^ unix.S_IFMT, UID: st.Uid, GID: st.Gid,
		MTime: time.Unix(st.Mtim.Unix()).UTC(), Links: uint64(st.Nlink), First: name,
	}
	var err error
	switch e.Type {
	case unix.S_IFREG:
		e.Size = st.Size
		e.Digest, err = fileDigest(path)
	case unix.S_IFLNK:
		e.Target, err = os.Readlink(path)
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Rdev = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	case unix.S_IFDIR:
		e.Links = 0
	}
	if err == nil {
		e.Xattrs, err = readXattrs(path)
	}
	return e, err
}

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// readXattrs returns nil for no attributes.
func readXattrs(path string) (map[string]string, error) {
	list, err := growing(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if err == unix.ENOTSUP {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "llistxattr", Path: path, Err: err}
	}
	var xattrs map[string]string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if name == "" || IgnoredXattr(name) {
			continue
		}
		value, err := growing(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if err != nil {
			return nil, &fs.PathError{Op: "lgetxattr " + name, Path: path, Err: err}
		}
		if xattrs == nil {
			xattrs = map[string]string{}
		}
		xattrs[name] = string(value)
	}
	return xattrs, nil
}

// growing calls a function of the kernel that fails with ERANGE while the
// buffer is too small.
func growing(call func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 2 {
		buffer := make([]byte, size)
		n, err := call(buffer)
		if err == nil {
			return buffer[:n], nil
		}
		if err != unix.ERANGE || size > 1<<20 {
			return nil, err
		}
	}
}
