package backendtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"berth/layer"
	"berth/provisioner/backend"
)

// Tree is a directory tree as a list of its nodes, directories before what is in
// them. Of a layer it may have whiteouts, too. A node "." has the attributes of the
// root.
type Tree []Node

// Node is a node of a Tree. The functions that are named after the types make one
// with usual attributes.
type Node struct {
	path   string
	kind   uint32 // S_IFDIR..., or one of the two below
	mode   uint32
	uid    int
	gid    int
	mtime  unix.Timespec
	xattrs map[string]string
	opaque bool
	// implied: a directory that the layer has only because names go through it.
	implied bool

	content string   // of a file; of a symbolic link its target
	linkTo  string   // of a hard link the path of another name
	rdev    uint64   // of a device
	data    [][2]int // of a sparse file: offset and length of what is not a hole
	size    int      // of a sparse file
	details string   // for a listing
}

const (
	kindWhiteout = 1
	kindHardLink = 2
)

var usualTime = unix.Timespec{Sec: 1_000_000_000, Nsec: 123_456_789}

// Dir is a directory.
func Dir(path string) Node {
	return Node{path: path, kind: unix.S_IFDIR, mode: 0o755, mtime: usualTime}
}

// File is a regular file.
func File(path, content string) Node {
	return Node{path: path, kind: unix.S_IFREG, mode: 0o644, mtime: usualTime, content: content}
}

func sparse(path string, size int, data ...[2]int) Node {
	n := File(path, "")
	n.size, n.data = size, data
	return n
}

func symlink(path, target string) Node {
	return Node{path: path, kind: unix.S_IFLNK, mode: 0o777, mtime: usualTime, content: target}
}

func hardLink(path, to string) Node { return Node{path: path, kind: kindHardLink, linkTo: to} }

func whiteout(path string) Node { return Node{path: path, kind: kindWhiteout} }

func special(path string, kind uint32, rdev uint64) Node {
	return Node{path: path, kind: kind, mode: 0o600, mtime: usualTime, rdev: rdev}
}

func fifo(path string) Node   { return special(path, unix.S_IFIFO, 0) }
func socket(path string) Node { return special(path, unix.S_IFSOCK, 0) }
func charDevice(path string, major, minor uint32) Node {
	return special(path, unix.S_IFCHR, unix.Mkdev(major, minor))
}
func blockDevice(path string, major, minor uint32) Node {
	return special(path, unix.S_IFBLK, unix.Mkdev(major, minor))
}

func opaque(path string) Node {
	n := Dir(path)
	n.opaque = true
	return n
}

func implied(path string) Node {
	n := Dir(path).date(0, 0)
	n.implied = true
	return n
}

func impliedOpaque(path string) Node {
	n := implied(path)
	n.opaque = true
	return n
}

func (n Node) perm(mode uint32) Node   { n.mode = mode; return n }
func (n Node) owner(uid, gid int) Node { n.uid, n.gid = uid, gid; return n }
func (n Node) date(seconds, nano int64) Node {
	n.mtime = unix.Timespec{Sec: seconds, Nsec: nano}
	return n
}
func (n Node) isDir() bool { return n.kind == unix.S_IFDIR }
func (n Node) xattr(name, value string) Node {
	xattrs := map[string]string{name: value}
	for name, value := range n.xattrs {
		xattrs[name] = value
	}
	n.xattrs = xattrs
	return n
}

// bytes returns the content of a file.
func (n Node) bytes() string {
	if n.data == nil {
		return n.content
	}
	content := make([]byte, n.size)
	for _, d := range n.data {
		copy(content[d[0]:], pattern(d[1]))
	}
	return string(content)
}

// pattern returns n bytes without a zero and without a short period.
func pattern(n int) string {
	b := make([]byte, 0, n+20)
	for i := 0; len(b) < n; i++ {
		b = append(strconv.AppendInt(b, int64(i*i), 10), ',')
	}
	return string(b[:n])
}

// whiteouts reports whether the tree hides names of others.
func (t Tree) whiteouts() bool {
	return slices.ContainsFunc(t, func(n Node) bool { return n.opaque || n.kind == kindWhiteout })
}

// Write makes the tree in a new directory and returns it as a layer in the form Tree:
// a whiteout is a character device 0:0; an opaque directory has the attribute
// trusted.overlay.opaque=y; a directory with whiteouts has trusted.overlay.origin,
// empty, without which overlayfs lists the whiteouts of a directory that only one
// layer has.
func (t Tree) Write(tb testing.TB, dir string) backend.Layer {
	tb.Helper()
	err := os.Mkdir(dir, 0o755)
	for _, n := range t {
		if err == nil && n.path != "." {
			err = n.make(dir)
		}
	}
	if err == nil {
		err = t.setAttributes(dir)
	}
	if err != nil {
		tb.Fatalf("make the layer %s: %v", dir, err)
	}
	return t.layer(dir)
}

// WriteAs writes the tree as a layer in the form.
func (t Tree) WriteAs(tb testing.TB, form layer.Form, dir string) backend.Layer {
	tb.Helper()
	if form == layer.Tree {
		return t.Write(tb, dir)
	}
	return t.WriteEROFS(tb, dir)
}

// layer returns the tree as the layer that was written to dir.
func (t Tree) layer(dir string) backend.Layer {
	layer := backend.Layer{Path: dir, Whiteouts: t.whiteouts()}
	for _, n := range t {
		if n.implied {
			layer.Implied = append(layer.Implied, n.path)
		}
	}
	return layer
}

// make makes the node below root.
func (n Node) make(root string) error {
	parent, name, err := n.open(root)
	if err != nil {
		return fmt.Errorf("%q: %w", n.path, err)
	}
	defer unix.Close(parent)
	switch n.kind {
	case unix.S_IFDIR:
		err = unix.Mkdirat(parent, name, 0o700)
	case unix.S_IFREG:
		err = n.write(parent, name)
	case unix.S_IFLNK:
		err = unix.Symlinkat(n.content, parent, name)
	case kindHardLink:
		err = unix.Link(filepath.Join(root, n.linkTo), filepath.Join(root, n.path))
	case kindWhiteout:
		err = unix.Mknodat(parent, name, unix.S_IFCHR, 0)
		if err == nil {
			err = unix.Setxattr(procPath(parent), "trusted.overlay.origin", nil, 0)
		}
	default:
		err = unix.Mknodat(parent, name, n.kind|0o600, int(n.rdev))
	}
	if err != nil {
		return fmt.Errorf("%q: %w", n.path, err)
	}
	return nil
}

// open opens the directory that the node is in.
func (n Node) open(root string) (parent int, name string, err error) {
	dir, name := filepath.Split(filepath.Join(root, n.path))
	if n.path == "." {
		dir, name = root, "."
	}
	parent, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return parent, name, err
}

func (n Node) write(parent int, name string) error {
	fd, err := unix.Openat(parent, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if n.data == nil {
		_, err = f.WriteString(n.content)
		return err
	}
	content := n.bytes()
	for _, d := range n.data {
		if _, err := f.WriteAt([]byte(content[d[0]:d[0]+d[1]]), int64(d[0])); err != nil {
			return err
		}
	}
	return f.Truncate(int64(n.size))
}

// withRoot returns the tree with a node for its root, which it may leave out.
func (t Tree) withRoot() Tree {
	if len(t) > 0 && t[0].path == "." {
		return t
	}
	return append(Tree{Dir(".")}, t...)
}

// setAttributes gives all nodes their attributes, the deepest first: to make a node
// changes the times of its directory.
func (t Tree) setAttributes(root string) error {
	for _, n := range slices.Backward(t.withRoot()) {
		if n.kind == kindWhiteout || n.kind == kindHardLink {
			continue
		}
		if err := n.setAttributes(root); err != nil {
			return fmt.Errorf("%q: %w", n.path, err)
		}
	}
	return nil
}

func (n Node) setAttributes(root string) error {
	parent, name, err := n.open(root)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := unix.Fchownat(parent, name, n.uid, n.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if n.kind != unix.S_IFLNK {
		if err := unix.Fchmodat(parent, name, n.mode, 0); err != nil {
			return err
		}
	}
	xattrs := n.xattrs
	if n.opaque {
		xattrs = n.xattr("trusted.overlay.opaque", "y").xattrs
	}
	for key, value := range xattrs {
		if err := unix.Lsetxattr(procPath(parent)+"/"+name, key, []byte(value), 0); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return unix.UtimesNanoAt(parent, name, []unix.Timespec{n.mtime, n.mtime}, unix.AT_SYMLINK_NOFOLLOW)
}

func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
