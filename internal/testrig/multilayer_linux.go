package testrig

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The longest name that a file can have, and a path that fits no tar header
// without extensions.
var (
	longName = strings.Repeat("n", unix.NAME_MAX)
	deepPath = strings.Repeat("deep/"+strings.Repeat("d", 50)+"/", 8) + "leaf"
)

// oddNames are legal names that a careless program trips over.
var oddNames = []string{
	longName, "with space", "new\nline", "tab\there", "ünïcödé-日本語", "-rf", "back\\slash", `"quotes'`, "...", "wh.not", " ",
}

const bigDirectory = 3000 // entries of many/

// fileCapability is the value of security.capability that
// "setcap cap_net_raw+ep" writes (struct vfs_cap_data, revision 2).
const fileCapability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// mtimeNS is a time that only tar's extended headers can say whole.
var mtimeNS = time.Unix(1_600_000_000, 123_456_789)

// MultiLayerImage pushes an image of seven small layers that together hold what
// layers can hold. It is also a working busybox: it runs "sh" as root.
//
// Where the temporary directory is on an overlay, buildah writes no opaque
// directory and repeats no old name of a file for a new hard link; the rest is
// the same.
//
//	1  buildah   busybox; every kind of file; what the next layers change
//	2  buildah   whiteouts, an opaque directory, every change of an entry's kind
//	3  buildah   removed files come back; removed directories; more hard links
//	4  GNU tar   names with "./"; times in ns, sparse files, xattrs, nodes
//	5  umoci     an opaque directory whose whiteout was written by umoci
//	6  umoci     a whiteout alone
//	7  GNU tar   no entries at all
func MultiLayerImage(tb testing.TB, reg *RegistryServer, name string) (ref string) {
	tb.Helper()
	RequireRoot(tb)
	RequireTools(tb, "buildah", "skopeo", "umoci", "tar", "busybox")
	version := multiLayerRecipe + "-" + storageDriver(tb, TempDir(tb)) + "-" + busyboxVersion(tb)
	layout := cached(tb, "multilayer", version, func(dir string) { packMultiLayer(tb, dir) })
	return reg.Push(tb, "oci:"+layout+":multi", name)
}

// multiLayerRecipe changes whenever packMultiLayer does.
const multiLayerRecipe = "1"

func packMultiLayer(tb testing.TB, layout string) {
	tb.Helper()
	b := newBuildah(tb)
	b.layer(func(root string) { everyKind(writer{tb, root}) }, "--env="+imagePath, "--cmd=sh")
	b.layer(func(root string) { changeKinds(writer{tb, root}) })
	b.layer(func(root string) { bringBack(writer{tb, root}) })
	b.save(layout, "multi")

	image, t := layout+":multi", imageTool(tb)
	addTar := func(fill func(writer)) {
		w := writer{tb, TempDir(tb)}
		fill(w)
		archive := filepath.Join(TempDir(tb), "layer.tar")
		t.run(tb, "tar", "--create", "--file", archive, "--directory", w.root, "--numeric-owner",
			"--format=posix", "--sparse", "--xattrs", "--xattrs-include=*", "--no-selinux", ".")
		t.run(tb, "umoci", "raw", "add-layer", "--image", image, archive)
	}
	addTar(preciseFiles)

	w := writer{tb, TempDir(tb)}
	w.dir("replacement/inner", 0o755)
	w.file("replacement/inner/new", 0o644, "new\n")
	t.run(tb, "umoci", "insert", "--image", image, "--opaque", w.path("replacement"), "/umoci/opaque")
	t.run(tb, "umoci", "insert", "--image", image, "--whiteout", "/umoci/gone")

	empty := filepath.Join(TempDir(tb), "empty.tar")
	t.run(tb, "tar", "--create", "--file", empty, "--files-from", "/dev/null")
	t.run(tb, "umoci", "raw", "add-layer", "--image", image, empty)
}

// everyKind is layer 1.
func everyKind(w writer) {
	w.tb.Helper()
	populateBusybox(w.tb, w.root)

	w.dir("kinds", 0o755)
	w.file("kinds/empty", 0o644, "")
	w.dir("kinds/emptydir", 0o711)
	w.file("kinds/setuid", 0o4755, "setuid")
	w.file("kinds/setgid", 0o2755, "setgid")
	w.file("kinds/unreadable", 0o000, "unreadable")
	w.dir("kinds/setgiddir", 0o2775)
	w.dir("kinds/sticky", 0o1777)
	w.file("kinds/owned", 0o640, "owned")
	w.own("kinds/owned", 1000, 1001)
	w.file("kinds/bigid", 0o644, "an owner beyond tar's seven octal digits")
	w.own("kinds/bigid", 3_000_000, 4_000_000)
	w.node("kinds/fifo", unix.S_IFIFO|0o622, 0, 0)
	w.node("kinds/null", unix.S_IFCHR|0o666, 1, 3)
	w.node("kinds/block", unix.S_IFBLK|0o660, 7, 200)
	w.symlink("nowhere", "kinds/dangling")
	w.symlink("/etc/passwd", "kinds/absolute")
	w.symlink("loop", "kinds/loop")
	w.symlink(strings.Repeat("long/", 50)+"target", "kinds/longlink")
	w.file("kinds/capable", 0o755, "capable")
	w.xattr("kinds/capable", "security.capability", fileCapability)
	w.file("kinds/xattr", 0o644, "xattr")
	w.xattr("kinds/xattr", "user.berth", "a value\x00with \xff bytes")
	// No empty value: a PAX record without a value means that there is none.
	w.dir("kinds/xattrdir", 0o755)
	w.xattr("kinds/xattrdir", "user.berth", "on a directory")
	w.file("kinds/hole", 0o644, "")
	w.check("truncate", "kinds/hole", unix.Truncate(w.path("kinds/hole"), 8<<20))
	w.file("kinds/old", 0o644, "old")
	w.time("kinds/old", time.Unix(86400, 0))

	w.dir("links", 0o755)
	w.file("links/a", 0o4711, "three names")
	w.link("links/a", "links/b")
	w.dir("links/sub", 0o755)
	w.link("links/a", "links/sub/c")
	w.file("links/pair1", 0o644, "two names, one of which goes")
	w.link("links/pair1", "links/pair2")
	w.file("links/single", 0o644, "gets a second name in layer 3")

	w.dir("names", 0o755)
	for _, n := range oddNames {
		w.file("names/"+n, 0o644, n)
	}
	w.dir("names/"+strings.Replace(longName, "n", "d", 1), 0o755)
	w.dir(filepath.Dir("names/"+deepPath), 0o755)
	w.file("names/"+deepPath, 0o644, "leaf")
	w.dir("many", 0o755)
	for i := range bigDirectory {
		w.file(fmt.Sprintf("many/%04d", i), 0o644, "")
	}

	// For layer 2.
	w.dir("change/tree/sub", 0o755)
	w.file("change/tree/sub/file", 0o644, "below a directory that goes")
	w.file("change/gone", 0o644, "gone")
	w.file("change/content", 0o644, "before")
	w.file("change/metadata", 0o644, "same")
	w.dir("change/opaque/sub", 0o700)
	w.file("change/opaque/old", 0o644, "old")
	w.file("change/opaque/sub/old", 0o644, "old")
	w.file("change/file-dir", 0o644, "a file")
	w.dir("change/dir-file/sub", 0o755)
	w.file("change/dir-file/sub/file", 0o644, "")
	w.dir("change/target", 0o755)
	w.file("change/target/kept", 0o644, "must not be reached through link-dir")
	w.symlink("target", "change/link-dir")
	w.dir("change/dir-link", 0o755)
	w.file("change/dir-link/file", 0o644, "")
	w.symlink("target/kept", "change/link-file")
	w.file("change/file-link", 0o644, "")
	w.file("change/file-fifo", 0o644, "")

	// For layers 5 and 6.
	w.dir("umoci/opaque/sub", 0o755)
	w.file("umoci/opaque/sub/old", 0o644, "old")
	w.dir("umoci/gone", 0o755)
	w.file("umoci/gone/file", 0o644, "")
}

// changeKinds is layer 2.
func changeKinds(w writer) {
	w.tb.Helper()
	w.remove("change/tree")
	w.remove("change/gone")
	w.file("change/content", 0o600, "after, and longer")
	w.mode("change/metadata", 0o755)
	w.own("change/metadata", 7, 8)
	w.remove("change/opaque")
	w.dir("change/opaque", 0o750)
	w.file("change/opaque/new", 0o644, "new")
	w.remove("change/file-dir")
	w.dir("change/file-dir", 0o755)
	w.file("change/file-dir/inside", 0o644, "inside")
	w.remove("change/dir-file")
	w.file("change/dir-file", 0o644, "a file now")
	w.remove("change/link-dir")
	w.dir("change/link-dir", 0o755)
	w.file("change/link-dir/own", 0o644, "in a directory of its own")
	w.remove("change/dir-link")
	w.symlink("target", "change/dir-link")
	w.remove("change/link-file")
	w.file("change/link-file", 0o644, "must not be written through the link")
	w.remove("change/file-link")
	w.symlink("target/kept", "change/file-link")
	w.remove("change/file-fifo")
	w.node("change/file-fifo", unix.S_IFIFO|0o600, 0, 0)
	w.remove("links/pair1")
	w.remove("many/0042")
}

// bringBack is layer 3.
func bringBack(w writer) {
	w.tb.Helper()
	w.file("change/gone", 0o600, "back")
	w.dir("change/tree", 0o700)
	w.file("change/tree/new", 0o644, "in a directory that came back")
	w.remove("change/file-dir")
	w.file("change/file-dir", 0o644, "a file again")
	w.link("links/single", "links/second")
	w.file("many/0042", 0o600, "back")
}

// preciseFiles is layer 4.
func preciseFiles(w writer) {
	w.tb.Helper()
	w.mode(".", 0o755)
	w.dir("precise/dir", 0o755)
	w.file("precise/file", 0o644, "ns")
	w.link("precise/file", "precise/hardlink")
	w.symlink("file", "precise/symlink")
	w.node("precise/fifo", unix.S_IFIFO|0o644, 0, 0)
	w.node("precise/zero", unix.S_IFCHR|0o666, 1, 5)
	w.file("precise/sparse", 0o644, strings.Repeat("start", 1000))
	w.check("truncate", "precise/sparse", unix.Truncate(w.path("precise/sparse"), 32<<20))
	w.file("precise/hole", 0o644, "")
	w.check("truncate", "precise/hole", unix.Truncate(w.path("precise/hole"), 16<<20))
	w.file("precise/capable", 0o755, "capable")
	w.xattr("precise/capable", "security.capability", fileCapability)
	w.xattr("precise/capable", "user.berth", "beside a capability")
	w.file("precise/not-utf8-\xff", 0o644, "")
	for i, n := range []string{"dir", "file", "symlink", "fifo", "zero", "sparse", "hole", "capable"} {
		w.time("precise/"+n, mtimeNS.Add(time.Duration(i)))
	}
	w.time("precise", mtimeNS)
	w.time(".", mtimeNS)
}
