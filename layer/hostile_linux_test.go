package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"berth/container"
	"berth/image"
	"berth/internal/testrig"
)

// outside is where attacks aim at: a directory beside the store.
const outside = "../../../../../outside"

// hostileTars are refused with an error of class ErrInvalid that says why. The name
// of a case is the attack.
var hostileTars = []struct {
	name    string
	members []member
	says    string
}{
	// names
	{"dot-dot leads out of the layer", []member{file(outside+"/x", "evil")}, `".."`},
	{"dot-dot after a directory of the layer", []member{dir("a"), file("a/../../x", "evil")}, `".."`},
	{"dot-dot that stays inside", []member{dir("a"), file("a/../x", "evil")}, `".."`},
	{"dot-dot alone", []member{dir("..")}, `".."`},
	{"absolute name", []member{file("/etc/passwd", "evil")}, "absolute"},
	{"absolute name of many slashes", []member{file("///x", "evil")}, "absolute"},
	{"dot-dot in an extended header's path", []member{file("x", "evil").with("path=" + outside + "/x")}, `".."`},
	{"10 000 directories deep", []member{dir(strings.Repeat("d/", 10000))}, "20000 bytes"},
	{"deeper than the limit", []member{dir(strings.Repeat("d/", testLimits.Depth+1))}, "directories deep"},
	{"name of 4096 bytes", []member{file(strings.Repeat("a/", 2047)+"xx", "")}, "4096 bytes"},
	{"component of 256 bytes", []member{file(strings.Repeat("x", 256), "")}, "256 bytes"},
	{"component of 256 bytes in a hard link", []member{file("a", ""), hardLink("b", strings.Repeat("x", 256))}, "256 bytes"},
	{"file without a name", []member{file("", "")}, "root of the layer"},

	// through links
	{"file through a relative link", []member{symlink("l", outside), file("l/x", "evil")}, "symbolic link"},
	{"file through an absolute link", []member{symlink("l", "/tmp"), file("l/x", "evil")}, "symbolic link"},
	{"file through a link to the root", []member{symlink("l", "/"), file("l/x", "evil")}, "symbolic link"},
	{"file through a link inside the layer", []member{dir("d"), symlink("l", "d"), file("l/x", "evil")}, "symbolic link"},
	{"file through a chain of links", []member{symlink("a", outside), symlink("b", "a"), symlink("c", "b"), file("c/x", "evil")}, "symbolic link"},
	{"file through a link in the middle of its name", []member{dir("d"), symlink("d/l", "../"+outside), file("d/l/e/x", "evil")}, "symbolic link"},
	{"directory through a link", []member{symlink("l", outside), dir("l/d")}, "symbolic link"},
	{"whiteout through a link", []member{symlink("l", outside), file("l/.wh.canary", "")}, "symbolic link"},
	{"opaque marker through a link", []member{symlink("l", outside), file("l/.wh..wh..opq", "")}, "symbolic link"},
	{"device through a link", []member{symlink("l", outside), device("l/null", '3', 1, 3)}, "symbolic link"},
	{"directory that replaces a link to a directory", []member{symlink("l", outside), dir("l")}, "same name"},
	{"file below a file", []member{file("f", ""), file("f/x", "")}, "no directory"},
	{"symbolic link to nothing", []member{symlink("l", "")}, "symbolic link to"},
	{"symbolic link of 4096 bytes", []member{symlink("l", strings.Repeat("x", 4096))}, "symbolic link to"},

	// hard links
	{"hard link to dot-dot", []member{hardLink("h", outside+"/canary")}, `".."`},
	{"hard link to an absolute name", []member{hardLink("h", "/etc/passwd")}, "absolute"},
	{"hard link through a link", []member{symlink("l", outside), hardLink("h", "l/canary")}, "does not have"},
	{"hard link to nothing", []member{hardLink("h", "missing")}, "does not have"},
	{"hard link to a later entry", []member{hardLink("h", "f"), file("f", "")}, "does not have"},
	{"hard link to a directory", []member{dir("d"), hardLink("h", "d")}, "hard link to"},
	{"hard link to the root", []member{hardLink("h", ".")}, "does not have"},
	{"hard link to a whiteout hides another name", []member{file(".wh.a", ""), hardLink("b", "a")}, "does not have"},
	{"hard link to a whiteout marker", []member{file(".wh.a", ""), hardLink("b", ".wh.a")}, "does not have"},
	{"hard link to itself", []member{file("f", ""), hardLink("f", "f")}, "same name"},
	{"hard link to itself over a whiteout", []member{file(".wh.f", ""), hardLink("f", "f")}, "does not have"},

	// duplicates
	{"file over a file", []member{file("a", "1"), file("a", "2")}, "same name"},
	{"file over a file, spelt otherwise", []member{file("a/b", "1"), file("./a//./b", "2")}, "same name"},
	{"file over a directory", []member{dir("a"), file("a", "")}, "same name"},
	{"directory over a file", []member{file("a", ""), dir("a")}, "same name"},
	{"file over a symbolic link", []member{symlink("a", outside+"/canary"), file("a", "evil")}, "same name"},
	{"symbolic link over a directory", []member{dir("a"), symlink("a", outside)}, "same name"},
	{"symbolic link over an implied directory", []member{file("a/b", ""), symlink("a", outside)}, "same name"},
	{"hard link over a file", []member{file("a", ""), file("b", ""), hardLink("a", "b")}, "same name"},
	{"file over a device", []member{device("a", '3', 1, 3), file("a", "evil")}, "same name"},

	// devices and types
	{"character device 0:0 makes a whiteout", []member{device("w", '3', 0, 0)}, "0:0"},
	{"block device 0:0", []member{device("w", '4', 0, 0)}, "0:0"},
	{"major number out of range", []member{device("d", '3', 1<<12, 0)}, "out of range"},
	{"minor number out of range", []member{device("d", '4', 8, 1<<20)}, "out of range"},
	{"device number that is 0:0 after truncation", []member{device("d", '3', 1<<32, 1<<32)}, "out of range"},
	{"negative device number", []member{device("d", '3', -1, 5)}, "out of range"},
	{"unknown type", []member{file("x", "").as('s')}, "not known"},
	{"volume label", []member{file("x", "").as('V')}, "not known"},
	{"root that is a file", []member{file("./", "")}, "root of the layer"},
	{"root that is a symbolic link", []member{symlink(".", outside)}, "root of the layer"},
	{"root that is a hard link", []member{hardLink(".", "a")}, "root of the layer"},

	// whiteouts
	{"whiteout of nothing", []member{file("a/.wh.", "")}, `whiteout of ""`},
	{"whiteout of dot", []member{file("a/.wh..", "")}, `whiteout of "."`},
	{"whiteout of dot-dot", []member{file("a/.wh...", "")}, `whiteout of ".."`},
	{"whiteout that is a directory", []member{dir(".wh.a")}, "not a file"},
	{"whiteout that is a symbolic link", []member{symlink(".wh.a", outside)}, "not a file"},
	{"whiteout that is a device", []member{device(".wh.a", '3', 1, 3)}, "not a file"},
	{"opaque marker that is a directory", []member{dir("a/.wh..wh..opq")}, "not a file"},
	{"entry below a whiteout", []member{file(".wh.a/b", "")}, "below a whiteout"},
	{"entry below a whiteout in the middle", []member{file("d/.wh.a/b/c", "")}, "below a whiteout"},
	{"entry below an opaque marker", []member{file(".wh..wh..opq/b", "")}, "below a whiteout"},

	// numbers
	{"negative user id", []member{file("x", "").with("uid=-1")}, "owner"},
	{"user id that means unchanged", []member{file("x", "").owner(math.MaxUint32, 0)}, "owner"},
	{"group id that means unchanged", []member{file("x", "").owner(0, math.MaxUint32)}, "owner"},
	{"user id that is root after truncation", []member{file("x", "").with("uid=4294967296")}, "owner"},
	{"user id beyond 64 bits", []member{file("x", "").with("uid=99999999999999999999")}, "not a tar"},
	{"negative size", []member{file("x", "").claiming(-1)}, "not a tar"},
	{"negative size in an extended header", []member{file("x", "").with("size=-1")}, "not a tar"},
	{"size of 8 EiB", []member{file("x", "").claiming(math.MaxInt64)}, "unexpected EOF"},
	{"time beyond 64 bits", []member{file("x", "").with("mtime=99999999999999999999")}, "not a tar"},

	// extended headers
	{"extended header of 1 GiB, claimed", []member{file("x", "").as('x').claiming(1 << 30), file("y", "")}, "not a tar"},
	{"extended header of 2 MiB", []member{file("x", "").with("comment=" + strings.Repeat("x", 2<<20))}, "too long"},
	{"GNU long name of 2 MiB", []member{file("././@LongLink", strings.Repeat("x", 2<<20)).as('L'), file("x", "")}, "too long"},
	{"NUL in an extended header's path", []member{file("x", "").with("path=a\x00b")}, "not a tar"},
	{"NUL in an extended header's link", []member{symlink("x", "").with("linkpath=a\x00b")}, "not a tar"},
	{"NUL in an attribute's name", []member{file("x", "").with(paxXattr + "user.a\x00b=c")}, "not a tar"},
	{"record without an end", []member{{name: "p", typ: 'x', body: "30 path=x"}, file("x", "")}, "not a tar"},

	// attributes
	{"user attribute on a symbolic link", []member{symlink("l", "x").xattr("user.a", "b")}, "set attribute"},
	{"attribute without a name", []member{file("x", "").xattr("user.", "b")}, "set attribute"},
	{"attribute's name too long", []member{file("x", "").xattr("user."+strings.Repeat("x", 300), "b")}, "set attribute"},
	{"attribute's value too long", []member{file("x", "").xattr("user.a", strings.Repeat("x", 65<<10))}, "set attribute"},
	{"capability that is none", []member{file("x", "").xattr("security.capability", "rubbish")}, "set attribute"},
	{"access control list that contradicts the mode", []member{file("x", "").perm(0o600).xattr("system.posix_acl_access", acl(0o7))}, "does not keep"},

	// sparse files
	{"sparse file of 8 EiB", []member{sparse("x", math.MaxInt64, "0,0", "")}, "bomb"},
	{"sparse file of 1 TiB", []member{sparse("x", 1<<40, "0,1", "x")}, "bomb"},
	{"many sparse files within the limit each", many(3, func(i int) member { return sparse(fmt.Sprint(i), 4<<20, "0,0", "") }), "bomb"},
	{"sparse file of negative size", []member{sparse("x", -1, "0,0", "")}, "not a tar"},
	{"sparse fragment beyond the file", []member{sparse("x", 10, "5,10", "0123456789")}, "not a tar"},
	{"sparse fragments out of order", []member{sparse("x", 100, "50,1,10,1", "xx")}, "not a tar"},
	{"sparse fragments with too little data", []member{sparse("x", 100, "0,10", "x")}, "sparse file"},
	{"sparse fragments with too much data", []member{sparse("x", 100, "0,1", "0123456789")}, "sparse file"},
	{"a million sparse fragments in an extended header", []member{sparse("x", 0, "0"+strings.Repeat(",0", 2<<20-1), "")}, "too long"},
	{"a million sparse fragments in the file", []member{file("x", "1048577\n"+strings.Repeat("0\n", 2<<20)).with(
		"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=x", "GNU.sparse.realsize=0")}, "too long"},
	{"a million sparse fragments in the old format", []member{{raw: oldSparse(50000)}}, "too long"},
	{"sparse symbolic link", []member{symlink("l", "x").with("GNU.sparse.map=0,0", "GNU.sparse.numblocks=1")}, "not a tar"},

	// the archive as a whole
	{"too many entries", many(testLimits.Entries+1, func(i int) member { return dir("d") }), "more than 20000 entries"},
	{"too long names of directories", many(8000, func(i int) member { return dir(fmt.Sprint(strings.Repeat("long/", 50), i)) }), "names of its directories"},
	{"header with a wrong checksum", []member{file("a", ""), {raw: spoilt(file("b", "").header(), 0)}}, "after entry 0"},
	{"one block of zeros and more", []member{file("a", ""), {raw: make([]byte, 512)}, file("b", "")}, "after entry 0"},
}

// many returns n members.
func many(n int, make func(i int) member) []member {
	all := []member{}
	for i := range n {
		all = append(all, make(i))
	}
	return all
}

func spoilt(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

// sparse is a file of the format PAX 0.1.
func sparse(name string, size int64, fragments, data string) member {
	return file(name, data).with("GNU.sparse.name="+name, fmt.Sprintf("GNU.sparse.size=%d", size), "GNU.sparse.map="+fragments,
		fmt.Sprintf("GNU.sparse.numblocks=%d", (strings.Count(fragments, ",")+1)/2))
}

// oldSparse is a file of the old GNU format with n blocks of 21 empty fragments.
func oldSparse(n int) []byte {
	h := file("x", "").as('S').header()
	copy(h[257:265], "ustar  \x00")
	h[482] = 1 // more follow
	setChecksum(h)
	block := make([]byte, 512)
	for i := range 21 {
		copy(block[24*i:], "00000000000\x0000000000000\x00")
	}
	block[504] = 1
	return append(h, bytes.Repeat(block, n)...)
}

// acl is an access control list in the kernel's form that gives the user 1000 and
// the mask the permissions.
func acl(perm byte) string {
	entry := func(tag, perm byte, id uint32) string {
		return string([]byte{tag, 0, perm, 0, byte(id), byte(id >> 8), byte(id >> 16), byte(id >> 24)})
	}
	const nobody = math.MaxUint32
	return "\x02\x00\x00\x00" + entry(1, 6, nobody) + entry(2, perm, 1000) + entry(4, 4, nobody) + entry(16, perm, nobody) + entry(32, 4, nobody)
}

func TestHostileTarsAreRefused(t *testing.T) {
	for _, c := range hostileTars {
		t.Run(c.name, func(t *testing.T) {
			err := attack(t, "", bytes.NewReader(archive(c.members...)))
			wantInvalid(t, err, c.says)
		})
	}
}

func wantInvalid(t *testing.T, err error, says string) {
	t.Helper()
	if !errors.Is(err, container.ErrInvalid) {
		t.Errorf("error is %v, want one of class ErrInvalid", err)
	} else if !strings.Contains(err.Error(), says) {
		t.Errorf("error is %q, want it to say %q", err, says)
	}
}

// attack unpacks a hostile blob and returns the error, after it has looked for
// anything written outside, anything left behind and for memory taken.
func attack(t *testing.T, want image.Digest, blob io.Reader) error {
	t.Helper()
	s := newStore(t, testLimits)
	around := filepath.Dir(s.Dir())
	canary := filepath.Join(around, "outside", "canary")
	if err := os.Mkdir(filepath.Dir(canary), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(canary, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := look(t, filepath.Dir(canary))

	l := newLease(t, s)
	var mem, memAfter runtime.MemStats
	runtime.ReadMemStats(&mem)
	_, err := l.Unpack(context.Background(), Tree, want, blob)
	runtime.ReadMemStats(&memAfter)
	if err == nil {
		t.Error("it was accepted")
	}
	if took := memAfter.TotalAlloc - mem.TotalAlloc; took > 128<<20 {
		t.Errorf("it made us allocate %d MiB", took>>20)
	}
	wantNothingIn(t, l.stagingDir())
	if err := l.Commit(context.Background()); err != nil {
		t.Errorf("commit of nothing: %v", err)
	}
	release(t, l)
	wantEmpty(t, s)
	wantTree(t, look(t, filepath.Dir(canary)), before)
	if entries, err := os.ReadDir(around); err != nil || len(entries) != 2 {
		t.Errorf("beside the store and the canary there are now %v (%v)", entries, err)
	}
	return err
}

func TestHostileBlobsAreRefused(t *testing.T) {
	tarball := archive(file("x", strings.Repeat("0123456789", 1000)))
	packed := gzipped(t, tarball)
	zpacked := zstded(t, tarball)
	bpacked, xpacked := testrig.Compress(t, "bzip2", tarball), testrig.Compress(t, "xz", tarball)
	bomb := archive(file("x", string(make([]byte, 24<<20))))
	for _, c := range []struct {
		name string
		blob []byte
		says string
	}{
		{"empty", nil, "empty"},
		{"gzip of nothing", gzipped(t, nil), "empty"},
		{"zstd of nothing", []byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0}, "empty"},
		{"text", []byte(strings.Repeat("This is not an archive.\n", 100)), "not a tar"},
		{"short text", []byte("404 page not found\n"), "not a tar"},
		{"gzip of text", gzipped(t, []byte(strings.Repeat("This is not an archive.\n", 100))), "not a tar"},
		{"tar cut in a header", tarball[:300], "unexpected EOF"},
		{"tar cut in a file", tarball[:5000], "unexpected EOF"},
		{"gzip cut in its header", packed[:5], "unexpected EOF"},
		{"gzip cut in a file", packed[:len(packed)/2], "unexpected EOF"},
		{"gzip cut in its checksum", packed[:len(packed)-3], "unexpected EOF"},
		{"gzip with a wrong checksum", spoilt(packed, len(packed)-8), "checksum"},
		{"gzip with rubbish after its end", append(bytes.Clone(packed), "rubbish"...), "gzip"},
		{"gzip of an unknown method", []byte{0x1f, 0x8b, 9, 0, 0, 0, 0, 0, 0, 0}, "gzip"},
		{"zstd cut in a file", zpacked[:len(zpacked)/2], "unexpected EOF"},
		{"zstd cut in its checksum", zpacked[:len(zpacked)-2], "unexpected EOF"},
		{"zstd with a wrong checksum", spoilt(zpacked, len(zpacked)-1), "zstd"},
		{"zstd with a window of 3.75 TiB", append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0xff}, make([]byte, 100)...), "window"},
		{"zstd with a window of 64 MiB", append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 16 << 3}, make([]byte, 100)...), "window"},
		{"bzip2 of nothing", testrig.Compress(t, "bzip2", nil), "empty"},
		{"bzip2 cut in a file", bpacked[:len(bpacked)/2], "unexpected EOF"},
		{"bzip2 with a wrong checksum", spoilt(bpacked, 12), "bzip2"},
		{"xz of nothing", testrig.Compress(t, "xz", nil), "empty"},
		{"xz cut in a file", xpacked[:len(xpacked)/2], "unexpected EOF"},
		{"xz with a wrong checksum", spoilt(xpacked, len(xpacked)-40), "xz"},
		{"bzip2 bomb", testrig.Compress(t, "bzip2", bomb), "bomb"},
		{"xz bomb", testrig.Compress(t, "xz", bomb), "bomb"},
		{"gzip bomb", gzipped(t, bomb), "bomb"},
		{"zstd bomb", zstded(t, bomb, zstd.WithWindowSize(1<<20)), "bomb"},
		{"gzip bomb after the end of the archive", gzipped(t, append(archive(), make([]byte, 24<<20)...)), "bomb"},
		{"gzip bomb in a whiteout", gzipped(t, archive(file(".wh.x", string(make([]byte, 24<<20))))), "bomb"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := attack(t, "", bytes.NewReader(c.blob))
			wantInvalid(t, err, c.says)
		})
	}
}

func TestWrongDiffIDIsRefused(t *testing.T) {
	err := attack(t, image.DigestOf([]byte("another layer")), bytes.NewReader(archive(file("x", "y"))))
	wantInvalid(t, err, "digest")
}

// A download that breaks is not the image's fault, so it may be tried again; and its
// io.ErrUnexpectedEOF is not the end of the layer.
func TestErrorsOfTheBlobAreReturnedAsTheyAre(t *testing.T) {
	tarball := archive(file("x", strings.Repeat("0123456789", 100000)))
	for _, format := range []struct {
		name string
		blob []byte
	}{{"plain", tarball}, {"gzip", gzipped(t, tarball)}, {"zstd", zstded(t, tarball, zstd.WithEncoderCRC(true))},
		{"bzip2", testrig.Compress(t, "bzip2", tarball)}, {"xz", testrig.Compress(t, "xz", tarball)}} {
		for _, at := range []int{0, 2, 20, len(format.blob) / 2, len(format.blob) - 1, len(format.blob)} {
			for _, broken := range []error{errors.New("connection reset"), io.ErrUnexpectedEOF} {
				t.Run(fmt.Sprintf("%s after %d bytes: %v", format.name, at, broken), func(t *testing.T) {
					blob := io.MultiReader(bytes.NewReader(format.blob[:at]), iotest.ErrReader(broken))
					err := attack(t, "", blob)
					if !errors.Is(err, broken) || errors.Is(err, container.ErrInvalid) {
						t.Errorf("error is %v, want %v and no class", err, broken)
					}
				})
			}
		}
	}
}

// Attributes that overlayfs would take for its own must not reach the disk, in
// whatever way the image names them.
func TestOverlayfsAttributesAreDropped(t *testing.T) {
	s := newStore(t, testLimits)
	info := addLayer(t, s, archive(
		dir("d").xattr("trusted.overlay.opaque", "y").xattr("trusted.overlay.redirect", "/etc").xattr("user.overlay.opaque", "y"),
		file("f", "").xattr("trusted.overlay.metacopy", "").xattr("user.overlay.whiteout", "y").xattr("trusted.overlay.overlay.opaque", "y").
			xattr("trusted.mine", "kept").xattr("user.overlayer", "kept"),
	))
	wantTree(t, look(t, s.Path(info.DiffID, Tree)), map[string]string{
		"d": "dir 0755 0:0",
		"f": `file "" 0644 0:0 trusted.mine="kept" user.overlayer="kept"`,
	})
	wantClean(t, s, info.DiffID)
}
