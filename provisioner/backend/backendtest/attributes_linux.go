package backendtest

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// attributes: how nodes look.
var attributes = []check{
	{"owners, modes and times are those of the layer", nil, checkTree(Tree{
		Dir(".").perm(0o711).owner(65534, 65533).date(1, 1),
		File("setuid", "x").perm(0o4755).owner(1000, 1001),
		File("setgid", "x").perm(0o2755).owner(0, 4_000_000_000),
		File("none", "").perm(0).owner(4_000_000_000, 0),
		Dir("sticky").perm(0o1777), Dir("setgid-dir").perm(0o2770).owner(5, 6), File("setgid-dir/file", ""), Dir("setgid-dir/dir"),
		Dir("closed").perm(0), File("closed/file", ""),
		File("old", "").date(-1, 999_999_999), File("future", "").date(1<<33, 1),
		symlink("link", "setuid").owner(7, 8).date(3, 3),
		fifo("fifo").perm(0o4622).owner(1, 2).date(4, 4),
	})},
	{"extended attributes are those of the layer", nil, checkTree(Tree{
		Dir(".").xattr("user.root", "1").xattr("trusted.root", "2"),
		File("capable", "x").perm(0o755).owner(1, 1).xattr("security.capability", netBindService),
		File("file", "x").xattr("user.empty", "").xattr("user.binary", "\x00\xff\x00").xattr("trusted.x", "1").xattr("user."+strings.Repeat("n", 250), strings.Repeat("v", 1000)),
		Dir("dir").xattr("user.x", "1").xattr(defaultACL, someACL).xattr(accessACL, someACL).perm(0o775), File("dir/file", ""), Dir("dir/dir"),
		File("acl", "").xattr(accessACL, someACL).perm(0o775),
		symlink("link", "file").xattr("trusted.x", "1"),
		fifo("fifo").xattr("trusted.x", "1"), charDevice("null", 1, 3).xattr("trusted.x", "1"),
	})},
	{"hard links are names of one file", nil, checkTree(Tree{
		File("a", "x").perm(0o4755).xattr("user.x", "1"), Dir("d"), hardLink("d/b", "a"), Dir("d/e"), hardLink("d/e/c", "a"), hardLink("0", "a"),
		symlink("l", "a"), hardLink("d/l", "l"), fifo("f"), hardLink("d/f", "f"), charDevice("null", 1, 3), hardLink("d/null", "null"),
		File("empty", ""), hardLink("d/empty", "empty"), File("other", "x"),
	})},
	{"sockets are those of the layer", func(t Traits) bool { return !t.OfTars }, checkTree(Tree{socket("socket").perm(0o711)})},
	{"devices and FIFOs are those of the layer", nil, checkTree(Tree{
		charDevice("null", 1, 3).perm(0o666), charDevice("large", 511, 1<<18-1), charDevice("minor", 0, 1), charDevice("major", 1, 0),
		blockDevice("loop", 7, 0).owner(0, 6), fifo("fifo").perm(0o777),
	})},
	{"names are any bytes", nil, checkTree(named(strings.Repeat("n", 255), strings.Repeat("\xff", 255), "new\nline", "\xff\xfe", "\\", `a\040b`, " ", "-rf", "...", "~",
		"*", "$HOME", "lost+found", "käse", "\x01", "a:b,c=d", "work", "upper", "index", "#1", ".wh"))},
	{"names that aufs takes for marks are names", func(t Traits) bool { return !t.ReservedNames },
		checkTree(named(".wh.file", ".wh..wh..opq", ".wh..wh.aufs", ".wh..wh.plnk", ".wh..wh.orph", ".wh.", ".wh..", ".wh.file.wh."))},
	{"trees may be 1000 directories deep", nil, checkTree(deepTree(1000))},
	{"directories may be large", nil, checkTree(largeDirectory(2000))},
	{"the content of a file is that of the layer, whatever its size", nil, checkTree(Tree{
		File("empty", ""), File("1", "x"), File("4095", pattern(4095)), File("4096", pattern(4096)), File("4097", pattern(4097)),
		File("large", pattern(3<<20+1)), File("zeros", strings.Repeat("\x00", 10_000)),
	})},
	{"sparse files stay sparse", func(t Traits) bool { return !t.OfTars }, checkSparse},
	{"what the backend's directory hands down is not seen", nil, checkInheritance},
}

// netBindService is cap_net_bind_service=ep (struct vfs_cap_data, revision 2).
const netBindService = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

// someACL is user::rwx,user:1234:rw-,group::r-x,mask::rwx,other::r-x, which goes with
// the mode 0775.
var someACL = func() string {
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 7, 1<<32 - 1}, {2, 6, 1234}, {4, 5, 1<<32 - 1}, {16, 7, 1<<32 - 1}, {32, 5, 1<<32 - 1}} {
		acl = binary.LittleEndian.AppendUint16(acl, e.tag)
		acl = binary.LittleEndian.AppendUint16(acl, e.perm)
		acl = binary.LittleEndian.AppendUint32(acl, e.id)
	}
	return string(acl)
}()

// checkTree checks that a layer of the tree is shown as it is.
func checkTree(tree Tree) func(*testing.T, *suite) {
	return func(t *testing.T, s *suite) {
		p := s.place(t)
		layers := p.layers(tree)
		unchanged := p.unchanged()
		p.shows(p.provision(layers...), stacked(tree))
		unchanged()
	}
}

// named is a tree of directories with the names, and files of the same names in them and
// beside them.
func named(names ...string) (tree Tree) {
	for _, name := range names {
		tree = append(tree, Dir(name), File(name+"/"+name, name))
	}
	tree = append(tree, Dir("files"))
	for _, name := range names {
		tree = append(tree, File("files/"+name, name))
	}
	return tree
}

func deepTree(depth int) Tree {
	var tree Tree
	path := "d"
	for range depth {
		tree = append(tree, Dir(path))
		path += "/d"
	}
	return append(tree, File(path, "deep"), hardLink("shallow", path))
}

func largeDirectory(count int) Tree {
	tree := Tree{Dir("d")}
	for i := range count {
		tree = append(tree, File(fmt.Sprint("d/a rather long name for a file of a large directory ", i), fmt.Sprint(i)))
	}
	return tree
}

func checkSparse(t *testing.T, s *suite) {
	const size = 16 << 20
	tree := Tree{
		sparse("hole", size),
		sparse("start", size, [2]int{0, 5000}),
		sparse("middle", size, [2]int{size / 2, 5000}, [2]int{size * 3 / 4, 1}),
		sparse("end", size, [2]int{size - 1, 1}),
	}
	p := s.place(t)
	rootfs := p.provision(p.layers(tree)...)
	p.shows(rootfs, stacked(tree))
	for _, n := range tree {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(rootfs, n.path), &st); err != nil {
			t.Error(err)
		}
		if used := st.Blocks * 512; used > 1<<20 {
			t.Errorf("%s takes %d bytes on disk", n.path, used)
		}
	}
}

// checkInheritance: a default access control list and the setgid bit are inherited by
// what is made in a directory.
func checkInheritance(t *testing.T, s *suite) {
	tree := Tree{File("file", ""), Dir("d"), File("d/file", ""), symlink("link", ""+"file"), fifo("fifo")}
	p := s.place(t)
	if err := os.Chown(p.backendDir(), 0, 77); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(p.backendDir(), 0o2775); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(p.backendDir(), defaultACL, []byte(someACL), 0); err != nil {
		t.Fatal(err)
	}
	rootfs := p.provision(p.layers(tree)...)
	p.shows(rootfs, stacked(tree))
	if !s.Writable {
		return
	}
	if err := os.WriteFile(rootfs+"/new", nil, 0o640); err != nil {
		t.Fatal(err)
	}
	n, _, err := readNode(rootfs + "/new")
	if err != nil || n.gid != 0 || n.mode != 0o640 || n.xattrs != nil {
		t.Errorf("a new file in the root filesystem is %s, %v", n.describe(), err)
	}
}
