package backendtest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/container"
)

// listing is a tree as a container sees it: a line for each name, with all that a
// program can find out about the node. Names of the same node are marked so.
type listing []string

// stacked returns the listing of the root filesystem that the layers, base first, make
// by the rules of the OCI image specification ("Image Layer Filesystem Changeset").
func stacked(layers ...Tree) listing {
	nodes := make(map[string]*Node)
	for _, layer := range layers {
		for path, n := range layer.nodes() {
			lower := nodes[path]
			merged := lower != nil && lower.isDir() && n.isDir()
			if !merged || n.opaque {
				maps.DeleteFunc(nodes, func(name string, _ *Node) bool { return contains(path, name) })
			}
			switch {
			case merged && n.implied:
				nodes[path] = lower
			case n.kind != kindWhiteout:
				nodes[path] = n
			}
		}
	}
	return list(nodes)
}

// contains reports whether name is path or below it.
func contains(path, name string) bool {
	return path == "." || name == path || strings.HasPrefix(name, path+"/")
}

// nodes yields the nodes of a tree, "." first, hard links as the node that they are a name of.
func (t Tree) nodes() func(yield func(string, *Node) bool) {
	return func(yield func(string, *Node) bool) {
		byPath := make(map[string]*Node)
		for _, n := range t.withRoot() {
			byPath[n.path] = &n
			if n.kind == kindHardLink {
				byPath[n.path] = byPath[n.linkTo]
			}
			if !yield(n.path, byPath[n.path]) {
				return
			}
		}
	}
}

// list makes the listing of nodes by path. Several names of one node have the same
// pointer.
func list(nodes map[string]*Node) listing {
	var lines listing
	first := make(map[*Node]string)
	for _, path := range slices.Sorted(maps.Keys(nodes)) {
		n := nodes[path]
		line := fmt.Sprintf("%q %s", path, n.describe())
		if name, ok := first[n]; ok {
			line += fmt.Sprintf(" is %q", name)
		} else {
			first[n] = path
		}
		lines = append(lines, line)
	}
	return lines
}

var kindNames = map[uint32]string{
	unix.S_IFDIR: "directory", unix.S_IFREG: "file", unix.S_IFLNK: "link", unix.S_IFIFO: "fifo",
	unix.S_IFSOCK: "socket", unix.S_IFCHR: "char", unix.S_IFBLK: "block",
}

// describe returns all that is known of a node but its name.
func (n *Node) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %04o %d:%d %d.%09d", kindNames[n.kind], n.mode, n.uid, n.gid, n.mtime.Sec, n.mtime.Nsec)
	switch n.kind {
	case unix.S_IFREG, unix.S_IFLNK:
		content := n.bytes()
		if len(content) > 40 {
			content = fmt.Sprintf("%d bytes, sha256 %.8x", len(content), sha256.Sum256([]byte(content)))
		}
		fmt.Fprintf(&b, " %q", content)
	case unix.S_IFCHR, unix.S_IFBLK:
		fmt.Fprintf(&b, " %d:%d", unix.Major(n.rdev), unix.Minor(n.rdev))
	}
	for _, name := range slices.Sorted(maps.Keys(n.xattrs)) {
		fmt.Fprintf(&b, " %s=%q", name, n.xattrs[name])
	}
	return b.String() + n.details
}

// read returns the listing of a tree on disk.
func read(tb testing.TB, root string) listing { return readTree(tb, root, false) }

// readAs is read as a container of the range does it.
func readAs(tb testing.TB, root string, ids container.IDRange) listing {
	tb.Helper()
	r := reader{ids: ids, nodes: make(map[string]*Node), inodes: make(map[inode]*Node)}
	if err := r.read(root, "."); err != nil {
		tb.Fatalf("list %s: %v", root, err)
	}
	return list(r.nodes)
}

// readTree returns the listing of a tree on disk; with details, also what only matters
// where nothing at all may change.
func readTree(tb testing.TB, root string, details bool) listing {
	tb.Helper()
	r := reader{details: details, nodes: make(map[string]*Node), inodes: make(map[inode]*Node)}
	if err := r.read(root, "."); err != nil {
		tb.Fatalf("list %s: %v", root, err)
	}
	return list(r.nodes)
}

// reader reads a tree.
type reader struct {
	details bool
	ids     container.IDRange
	nodes   map[string]*Node // by path
	inodes  map[inode]*Node
}

// inode is a file. In an overlay each layer may count for itself.
type inode struct{ device, number uint64 }

// read reads the node at place, and what is below it. path is its name in the tree.
func (r *reader) read(place, path string) error {
	n, st, err := readNode(place)
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	n.inside(r.ids)
	if r.details {
		n.details = fmt.Sprintf("inode %d links %d size %d blocks %d changed %v", st.Ino, st.Nlink, st.Size, st.Blocks, st.Ctim)
	}
	id := inode{st.Dev, st.Ino}
	if first := r.inodes[id]; first != nil && !n.isDir() {
		n = first
	}
	r.nodes[path], r.inodes[id] = n, n
	if !n.isDir() {
		return nil
	}
	// By descriptors, or a deep tree would take long, and have paths that are too long.
	f, err := os.OpenFile(place, os.O_RDONLY|unix.O_NOATIME, 0)
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	for _, name := range names {
		if err == nil {
			err = r.read(procPath(int(f.Fd()))+"/"+name, filepath.Join(path, name))
		}
	}
	return err
}

// readNames returns all names in a directory. os.ReadDir would leave out those that
// are listed but do not exist.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

func readNode(path string) (*Node, *unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, nil, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	n := &Node{kind: st.Mode & unix.S_IFMT, mode: st.Mode & 0o7777, uid: int(st.Uid), gid: int(st.Gid), mtime: st.Mtim, rdev: st.Rdev}
	var err error
	switch n.kind {
	case unix.S_IFREG:
		n.content, err = readFile(path)
	case unix.S_IFLNK:
		n.content, err = os.Readlink(path)
	}
	if err == nil {
		n.xattrs, err = readXattrs(path)
	}
	return n, &st, err
}

// readFile leaves the time of access alone.
func readFile(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOATIME|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	var content strings.Builder
	content.Grow(int(info.Size()))
	_, err = io.Copy(&content, f)
	return content.String(), err
}

func readXattrs(path string) (map[string]string, error) {
	if n, err := unix.Llistxattr(path, nil); err != nil || n == 0 { // as of most
		return nil, err
	}
	buffer := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buffer)
	if err != nil {
		return nil, err
	}
	xattrs := make(map[string]string)
	for name := range strings.FieldsFuncSeq(string(buffer[:n]), func(r rune) bool { return r == 0 }) {
		// SELinux gives it to every node, xfs keeps access control lists in these.
		if name == "security.selinux" || strings.HasPrefix(name, "trusted.SGI_ACL_") {
			continue
		}
		size, err := unix.Lgetxattr(path, name, buffer)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", name, path, err)
		}
		xattrs[name] = string(buffer[:size])
	}
	return xattrs, nil
}
