package layer

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/internal/testrig"
)

// legitTars are accepted; the tree is as described, and Check finds it clean.
var legitTars = []struct {
	name    string
	members []member
	want    map[string]string // "." where it matters
}{
	{"nothing", nil, map[string]string{".": "dir 0755 0:0"}},
	{"owner and mode of the root", []member{dir("./").perm(0o711).owner(3, 4)}, map[string]string{".": "dir 0711 3:4"}},
	{"spellings of names", []member{dir("./a/"), file("./a/./b", "1"), file("a//c", "2"), dir("a/.")}, map[string]string{
		"a": "dir 0755 0:0", "a/b": `file "1" 0644 0:0`, "a/c": `file "2" 0644 0:0`}},
	{"implied directories", []member{file("a/b/c", "x"), dir("d/e").perm(0o700)}, map[string]string{
		"a": "dir 0755 0:0", "a/b": "dir 0755 0:0", "a/b/c": `file "x" 0644 0:0`, "d": "dir 0755 0:0", "d/e": "dir 0700 0:0"}},
	{"implied directory that gets an entry later", []member{file("a/b", ""), dir("a").perm(0o1777).owner(7, 8)}, map[string]string{
		"a": "dir 1777 7:8", "a/b": `file "" 0644 0:0`}},
	{"implied directory in a directory with setgid", []member{dir("a").perm(0o2775).owner(0, 50), file("a/b/c", "")}, map[string]string{
		"a": "dir 2775 0:50", "a/b": "dir 0755 0:0", "a/b/c": `file "" 0644 0:0`}},
	{"directory twice: the last entry counts", []member{dir("a").perm(0o700).owner(1, 1).xattr("user.one", "1"), file("a/b", ""), dir("a/").owner(2, 2).xattr("user.two", "2")}, map[string]string{
		"a": `dir 0755 2:2 user.two="2"`, "a/b": `file "" 0644 0:0`}},
	{"root twice", []member{dir("./").perm(0o700), dir(".").perm(0o755)}, map[string]string{".": "dir 0755 0:0"}},
	{"setuid, setgid and sticky bits", []member{file("su", "").perm(0o4755).owner(5, 6), file("sg", "").perm(0o2755).owner(5, 6), dir("st").perm(0o1777)}, map[string]string{
		"su": `file "" 4755 5:6`, "sg": `file "" 2755 5:6`, "st": "dir 1777 0:0"}},
	{"type bits in the mode", []member{file("f", "").perm(0o100644), dir("d").perm(0o40755)}, map[string]string{"f": `file "" 0644 0:0`, "d": "dir 0755 0:0"}},
	{"modes without permissions", []member{dir("d").perm(0), file("d/f", "x").perm(0)}, map[string]string{"d": "dir 0000 0:0", "d/f": `file "x" 0000 0:0`}},
	{"largest owner", []member{file("f", "").owner(1<<32-2, 1<<32-2), file("g", "").with("uid=4294967294", "gid=100000")}, map[string]string{
		"f": `file "" 0644 4294967294:4294967294`, "g": `file "" 0644 4294967294:100000`}},
	{"file capability", []member{file("ping", "x").perm(0o755).owner(1, 1).xattr("security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}, map[string]string{
		"ping": `file "x" 0755 1:1 security.capability="\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"`}},
	{"attributes of all types", []member{
		file("f", "").xattr("user.a", "\x00=\n").xattr("user.empty", ""), dir("d").xattr("user.b", "c"), symlink("l", "x").xattr("trusted.c", "d"),
		device("fifo", '6', 0, 0).xattr("trusted.e", "f"), device("null", '3', 1, 3).xattr("trusted.g", "h")}, map[string]string{
		"f": `file "" 0644 0:0 user.a="\x00=\n" user.empty=""`, "d": `dir 0755 0:0 user.b="c"`, "l": `-> x 0:0 trusted.c="d"`,
		"fifo": `fifo 0600 0:0 trusted.e="f"`, "null": `char 1:3 0600 0:0 trusted.g="h"`}},
	{"attributes of other systems are dropped", []member{file("f", "").xattr("com.apple.provenance", "x").with("LIBARCHIVE.xattr.user.a=eA==")}, map[string]string{
		"f": `file "" 0644 0:0`}},
	{"access control list", []member{file("f", "").perm(0o664).xattr("system.posix_acl_access", acl(6))}, map[string]string{
		"f": fmt.Sprintf(`file "" 0664 0:0 system.posix_acl_access=%q`, acl(6))}},
	{"default access control list is not inherited", []member{dir("d").xattr("system.posix_acl_default", acl(7)), file("d/f", ""), dir("d/e"), file("d/i/f", ""), device("d/p", '6', 0, 0), symlink("d/l", "f")}, map[string]string{
		"d": fmt.Sprintf(`dir 0755 0:0 system.posix_acl_default=%q`, acl(7)), "d/f": `file "" 0644 0:0`, "d/e": "dir 0755 0:0",
		"d/i": "dir 0755 0:0", "d/i/f": `file "" 0644 0:0`, "d/p": "fifo 0600 0:0", "d/l": "-> f 0:0"}},

	{"hard links", []member{file("a", "x"), hardLink("b", "a"), hardLink("d/c", "./a"), symlink("l", "nowhere"), hardLink("m", "l")}, map[string]string{
		"a": `file "x" 0644 0:0`, "b": "same as a", "d": "dir 0755 0:0", "d/c": "same as a", "l": "-> nowhere 0:0", "m": "same as l"}},
	{"symbolic links to anywhere", []member{symlink("a", "/etc/passwd").owner(1, 2), symlink("b", "../../.."), symlink("c", "c"), symlink("d", strings.Repeat("x/", 2047)+"y")}, map[string]string{
		"a": "-> /etc/passwd 1:2", "b": "-> ../../.. 0:0", "c": "-> c 0:0", "d": "-> " + strings.Repeat("x/", 2047) + "y 0:0"}},
	{"devices and pipes", []member{device("c", '3', 5, 1).perm(0o620).owner(0, 5), device("b", '4', 8, 1), device("p", '6', 0, 0).perm(0o666), device("max", '3', 4095, 1<<20-1), device("z", '3', 0, 1)}, map[string]string{
		"c": "char 5:1 0620 0:5", "b": "block 8:1 0600 0:0", "p": "fifo 0666 0:0", "max": "char 4095:1048575 0600 0:0", "z": "char 0:1 0600 0:0"}},
	{"contiguous file", []member{file("f", "x").as('7')}, map[string]string{"f": `file "x" 0644 0:0`}},
	{"names that are not text", []member{file("a\nb", ""), file("\xff\xfe", ""), file("\x1b[31m", ""), dir(" "), file("-rf", ""), file("...", "")}, map[string]string{
		"a\nb": `file "" 0644 0:0`, "\xff\xfe": `file "" 0644 0:0`, "\x1b[31m": `file "" 0644 0:0`, " ": "dir 0755 0:0", "-rf": `file "" 0644 0:0`, "...": `file "" 0644 0:0`}},
	{"longest names", []member{file(strings.Repeat("x", 255), ""), symlink("l", strings.Repeat("y", 4095))}, map[string]string{
		strings.Repeat("x", 255): `file "" 0644 0:0`, "l": "-> " + strings.Repeat("y", 4095) + " 0:0"}},
	{"global header", []member{global("comment=0123456789", "path=../../evil", "uid=7"), file("f", "x")}, map[string]string{"f": `file "x" 0644 0:0`}},
	{"something after the end of the archive", []member{file("f", "x"), {raw: make([]byte, 1024)}, {raw: []byte("rubbish")}}, map[string]string{"f": `file "x" 0644 0:0`}},
	{"sparse file by name alone", []member{file("f", "abc").with("GNU.sparse.of=unknown.kind")}, map[string]string{"f": `file "abc" 0644 0:0`}},
	{"sparse file", []member{sparse("s", 9, "2,3,7,1", "abcd"), file("f", "x")}, map[string]string{
		"s": `file "\x00\x00abc\x00\x00d\x00" 0644 0:0`, "f": `file "x" 0644 0:0`}},

	{"whiteout", []member{file(".wh.a", ""), file("d/.wh.b", "")}, map[string]string{"a": "whiteout", "d": "dir 0755 0:0", "d/b": "whiteout"}},
	{"whiteout as aufs made it", []member{hardLink(".wh.a", ".wh..wh.aufs")}, map[string]string{"a": "whiteout"}},
	{"whiteout with content", []member{file(".wh.a", "content"), file("b", "x")}, map[string]string{"a": "whiteout", "b": `file "x" 0644 0:0`}},
	{"whiteout twice", []member{file(".wh.a", ""), file(".wh.a", "")}, map[string]string{"a": "whiteout"}},
	{"whiteout, then file", []member{file(".wh.a", ""), file("a", "new")}, map[string]string{"a": `file "new" 0644 0:0`}},
	{"file, then whiteout", []member{file("a", "new"), file(".wh.a", "")}, map[string]string{"a": `file "new" 0644 0:0`}},
	{"whiteout, then link", []member{file(".wh.a", ""), symlink("a", "b"), file("c", ""), file(".wh.h", ""), hardLink("h", "c")}, map[string]string{
		"a": "-> b 0:0", "c": `file "" 0644 0:0`, "h": "same as c"}},
	{"whiteout, then directory", []member{file(".wh.a", ""), dir("a").perm(0o700), file("a/b", "")}, map[string]string{
		"a": "dir 0700 0:0 opaque", "a/b": `file "" 0644 0:0`}},
	{"directory, then whiteout", []member{dir("a"), file("a/b", ""), file(".wh.a", "")}, map[string]string{
		"a": "dir 0755 0:0 opaque", "a/b": `file "" 0644 0:0`}},
	{"whiteout, then implied directory", []member{file(".wh.a", ""), file("a/b/c", "")}, map[string]string{
		"a": "dir 0755 0:0 opaque", "a/b": "dir 0755 0:0", "a/b/c": `file "" 0644 0:0`}},
	{"whiteout, directory, directory again", []member{file(".wh.a", ""), dir("a"), dir("a").owner(1, 1)}, map[string]string{"a": "dir 0755 1:1 opaque"}},
	{"whiteout in a directory that gets its entry later", []member{file("a/.wh.b", ""), dir("a").perm(0o750)}, map[string]string{"a": "dir 0750 0:0", "a/b": "whiteout"}},

	{"opaque marker before its siblings", []member{dir("a"), file("a/.wh..wh..opq", ""), file("a/b", "")}, map[string]string{"a": "dir 0755 0:0 opaque", "a/b": `file "" 0644 0:0`}},
	{"opaque marker after its siblings", []member{dir("a"), file("a/b", ""), file("a/.wh..wh..opq", "")}, map[string]string{"a": "dir 0755 0:0 opaque", "a/b": `file "" 0644 0:0`}},
	{"opaque marker before its directory", []member{file("a/.wh..wh..opq", ""), dir("a").owner(1, 1)}, map[string]string{"a": "dir 0755 1:1 opaque"}},
	{"opaque marker at the root", []member{file(".wh..wh..opq", ""), dir("./"), file("a", "")}, map[string]string{".": "dir 0755 0:0 opaque", "a": `file "" 0644 0:0`}},
	{"opaque marker and whiteout", []member{file("a/.wh..wh..opq", ""), file("a/.wh.b", ""), file("a/c", "")}, map[string]string{
		"a": "dir 0755 0:0 opaque", "a/b": "whiteout", "a/c": `file "" 0644 0:0`}},
	{"aufs's own files are ignored", []member{dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "x"), file(".wh..wh.aufs", ""), dir("a/.wh..wh.orph/b"), file("b", "")}, map[string]string{
		"b": `file "" 0644 0:0`}},
}

func TestLegitTars(t *testing.T) {
	for _, c := range legitTars {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t, testLimits)
			info := addLayer(t, s, archive(c.members...))
			got := look(t, s.Path(info.DiffID, Tree))
			wantTree(t, got, c.want)
			wantClean(t, s, info.DiffID)
			if info.Nodes != len(got)-1 {
				t.Errorf("the record counts %d nodes, there are %d", info.Nodes, len(got)-1)
			}
		})
	}
}

func TestDeepestAndLongestName(t *testing.T) {
	s := newStore(t, DefaultLimits)
	deep := strings.Repeat("abcdefghijklmn/", DefaultLimits.Depth-1) + "f" // 3826 bytes
	long := strings.Repeat(strings.Repeat("x", 255)+"/", 15) + strings.Repeat("y", 255)
	info := addLayer(t, s, archive(file(deep, "1"), file(long, "2"), hardLink("link", long)))
	wantClean(t, s, info.DiffID)
	if info.Nodes != DefaultLimits.Depth+16+1 {
		t.Errorf("%d nodes", info.Nodes)
	}
	if swept, err := s.Sweep(context.Background(), keepNothing); err != nil || len(swept.Layers) != 1 {
		t.Errorf("sweep: %v, %v", swept, err)
	}
	wantEmpty(t, s)
}

func TestTimes(t *testing.T) {
	s := newStore(t, testLimits)
	info := addLayer(t, s, archive(
		dir("d").date(1234567890),
		file("d/f", "").with("mtime=1500000000.123456789", "atime=1400000000.000000001"),
		symlink("d/l", "x").with("mtime=1500000001.5"),
		device("d/p", '6', 0, 0).date(7),
		file("d/before1970", "").date(-1),
		file("d/beforeFractions", "").with("mtime=-1.25"),
		file("d/huge", "").date(math.MaxInt64),
		file("d/tiny", "").date(math.MinInt64/2),
		file("d/e/f", ""),
	))
	for name, want := range map[string]unix.Timespec{
		".":                 {},
		"d":                 {Sec: 1234567890},
		"d/f":               {Sec: 1500000000, Nsec: 123456789},
		"d/l":               {Sec: 1500000001, Nsec: 500000000},
		"d/p":               {Sec: 7},
		"d/before1970":      {Sec: -1},
		"d/beforeFractions": {Sec: -2, Nsec: 750000000},
		"d/huge":            {Sec: maxTime},
		"d/tiny":            {Sec: minTime},
		"d/e":               {},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(s.Path(info.DiffID, Tree), name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mtim != want {
			t.Errorf("%s is of %v, want %v", name, st.Mtim, want)
		}
		if name == "d/f" && st.Atim != (unix.Timespec{Sec: 1400000000, Nsec: 1}) {
			t.Errorf("%s was accessed at %v", name, st.Atim)
		}
	}
	wantClean(t, s, info.DiffID)
}

// The owner and mode of what is made must not depend on the umask of the process.
func TestUmaskDoesNotMatter(t *testing.T) {
	needRoot(t)
	old := unix.Umask(0o777)
	defer unix.Umask(old)
	s := newStore(t, testLimits)
	info := addLayer(t, s, archive(file("a/b", "x").perm(0o666), dir("c").perm(0o777), device("p", '6', 0, 0).perm(0o666)))
	wantTree(t, look(t, s.Path(info.DiffID, Tree)), map[string]string{
		".": "dir 0755 0:0", "a": "dir 0755 0:0", "a/b": `file "x" 0666 0:0`, "c": "dir 0777 0:0", "p": "fifo 0666 0:0"})
	wantClean(t, s, info.DiffID)
}

// An incompressible file of more than the base of the limits is no bomb, also when
// its header comes long before its data.
func TestLargeIncompressibleFile(t *testing.T) {
	s := newStore(t, Limits{Entries: 10, NameBytes: 1000, Base: 1 << 20, Ratio: 1, Depth: 10})
	noise := pseudoRandom(4 << 20)
	for _, blob := range [][]byte{
		archive(file("big", noise)),
		gzipped(t, archive(file("big", noise))),
		archive(sparse("big", 4<<20+4096, "4096,4194304", noise)),
	} {
		wantClean(t, s, addLayer(t, s, blob).DiffID)
	}
}

func pseudoRandom(n int) string {
	b, x := make([]byte, n), uint32(1)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return string(b)
}

// Whatever GNU tar makes of a tree gives the same tree.
func TestFormatsOfGNUTar(t *testing.T) {
	needRoot(t)
	testrig.RequireTools(t, "tar")
	src := t.TempDir()
	makeSource(t, src)
	want := look(t, src)
	for _, format := range []string{
		"--format=gnu", "--format=gnu --sparse", "--format=oldgnu --sparse", "--format=posix", "--format=posix --xattrs --xattrs-include=*",
		"--format=posix --sparse --sparse-version=0.0", "--format=posix --sparse --sparse-version=0.1", "--format=posix --sparse --sparse-version=1.0",
		"--format=posix --pax-option=globexthdr.name=g,comment=x", "--format=ustar", "--format=v7",
	} {
		t.Run(format, func(t *testing.T) {
			args := append(strings.Fields(format), "--create", "--sort=name", "--directory", src)
			want := cloneMap(want)
			if strings.Contains(format, "v7") || strings.Contains(format, "ustar") {
				args = append(args, "--exclude=long*") // names and link targets these formats have no room for
				deleteLong(want)
			}
			if strings.Contains(format, "v7") {
				args = append(args, "--exclude=null", "--exclude=fifo") // nor for these types
				delete(want, "null")
				delete(want, "fifo")
			}
			if !strings.Contains(format, "xattrs") {
				for name := range want {
					want[name] = strings.TrimSuffix(want[name], ` user.a="b"`)
				}
			}
			var stderr bytes.Buffer
			cmd := exec.Command("tar", append(args, ".")...)
			cmd.Stderr = &stderr
			blob, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, &stderr)
			}
			s := newStore(t, DefaultLimits)
			info := addLayer(t, s, blob)
			wantTree(t, look(t, s.Path(info.DiffID, Tree)), want)
			wantClean(t, s, info.DiffID)
			if strings.Contains(format, "--sparse") {
				wantHoles(t, filepath.Join(s.Path(info.DiffID, Tree), "holes"))
			}
		})
	}
}

func makeSource(t *testing.T, src string) {
	t.Helper()
	long := strings.Repeat("n", 200)
	for _, step := range []error{
		os.Chmod(src, 0o755),
		os.MkdirAll(filepath.Join(src, "long"+long, long), 0o755),
		os.WriteFile(filepath.Join(src, "long"+long, long, long), []byte("deep"), 0o644),
		os.Symlink(long, filepath.Join(src, "longlink")),
		os.WriteFile(filepath.Join(src, "a"), []byte("content of a"), 0o640),
		os.Chown(filepath.Join(src, "a"), 1000, 1001),
		os.Link(filepath.Join(src, "a"), filepath.Join(src, "b")),
		os.Symlink("a", filepath.Join(src, "l")),
		os.Mkdir(filepath.Join(src, "d"), 0o755),
		unix.Setxattr(filepath.Join(src, "d"), "user.a", []byte("b"), 0),
		unix.Mknod(filepath.Join(src, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mkfifo(filepath.Join(src, "fifo"), 0o600),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	// Ten fragments, more than the four that the old GNU header has room for.
	f, err := os.Create(filepath.Join(src, "holes"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range 10 {
		if _, err := f.WriteAt([]byte(fmt.Sprint("fragment ", i)), int64(i)<<18); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(4 << 20); err != nil {
		t.Fatal(err)
	}
}

func wantHoles(t *testing.T, path string) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if used := st.Blocks * 512; used > 1<<20 {
		t.Errorf("the sparse file of %d bytes takes %d", st.Size, used)
	}
}

func cloneMap(m map[string]string) map[string]string {
	c := make(map[string]string, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

func deleteLong(m map[string]string) {
	for k := range m {
		if strings.HasPrefix(k, "long") {
			delete(m, k)
		}
	}
}

// The tree is the same on every file system that the store may lie on.
func TestFileSystems(t *testing.T) {
	all := []member{global("comment=x"), dir("./").date(5)}
	for _, c := range legitTars {
		for _, m := range c.members {
			tooMuchForXFS := len(m.link) >= 1024 || m.minor >= 1<<18
			if m.raw == nil && m.typ != 'g' && !tooMuchForXFS {
				m.name = c.name + "/" + m.name
				if m.typ == '1' {
					m.link = c.name + "/" + m.link
				}
				all = append(all, m)
			}
		}
	}
	blob := gzipped(t, archive(all...))
	var first map[string]string
	for _, kind := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(kind, func(t *testing.T) {
			needRoot(t)
			s := openStore(t, filepath.Join(mountNew(t, kind, "1G"), "store"), testLimits)
			info := addLayer(t, s, blob)
			wantClean(t, s, info.DiffID)
			got := look(t, s.Path(info.DiffID, Tree))
			if first == nil {
				first = got
			}
			wantTree(t, got, first)
			if swept, err := s.Sweep(context.Background(), keepNothing); err != nil || len(swept.Layers) != 1 {
				t.Errorf("sweep: %v, %v", swept, err)
			}
		})
	}
}
