package testrig

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// SmallVariants are the variants of a SmallImage.
var SmallVariants = []string{"one", "two", "three"}

// SmallImage pushes one of several images that are quickly pulled, and yet have what
// makes unpacking and stacking more than writing files: three layers, of which the
// lowest is common to all variants, with whiteouts, an opaque directory, directories
// that no entry names, hard links, a file capability and other attributes, a fifo. The
// file "variant" has the name of the variant. Nothing in it can be executed.
func SmallImage(tb testing.TB, reg *RegistryServer, name, variant string) (ref string) {
	tb.Helper()
	RequireRoot(tb)
	RequireTools(tb, "umoci", "skopeo", "tar")
	layout := cached(tb, "small", smallRecipe, func(dir string) { packSmall(tb, dir) })
	return reg.Push(tb, "oci:"+layout+":"+variant, name)
}

// smallRecipe changes whenever packSmall does.
const smallRecipe = "2"

func packSmall(tb testing.TB, layout string) {
	tb.Helper()
	if err := os.Remove(layout); err != nil { // umoci makes it itself
		tb.Fatal(err)
	}
	t := imageTool(tb)
	t.run(tb, "umoci", "init", "--layout", layout)
	t.run(tb, "umoci", "new", "--image", layout+":base")
	addLayer(tb, layout+":base", smallBase, "--recursion")
	for _, variant := range SmallVariants {
		image := layout + ":" + variant
		t.run(tb, "umoci", "tag", "--image", layout+":base", variant)
		addLayer(tb, image, func(w writer) { smallChanges(w, variant) }, "--recursion")
		addLayer(tb, image, func(w writer) { smallTop(w, variant) }, "--no-recursion")
	}
}

// addLayer adds what fill makes; without recursion only the files and links of it.
func addLayer(tb testing.TB, image string, fill func(writer), recursion string) {
	tb.Helper()
	w := writer{tb, TempDir(tb)}
	fill(w)
	members := []string{"."}
	if recursion == "--no-recursion" {
		members = strings.Fields(tool{dir: w.root}.run(tb, "find", ".", "!", "-type", "d"))
	}
	archive := filepath.Join(TempDir(tb), "layer.tar")
	t := imageTool(tb)
	t.run(tb, "tar", append([]string{"--create", "--file", archive, "--directory", w.root, "--numeric-owner", "--sort=name",
		"--mtime=@1000000000", "--format=posix", "--xattrs", "--xattrs-include=*", "--no-selinux", recursion}, members...)...)
	t.run(tb, "umoci", "raw", "add-layer", "--image", image, archive)
}

func smallBase(w writer) {
	w.tb.Helper()
	w.mode(".", 0o755)
	w.dir("bin", 0o755)
	w.file("bin/tool", 0o4755, randomText("tool", 5_000))
	w.link("bin/tool", "bin/same")
	w.file("bin/capable", 0o755, "capable")
	w.xattr("bin/capable", "security.capability", fileCapability)
	w.symlink("bin/tool", "tool")
	w.dir("etc/hidden", 0o755)
	w.file("etc/hidden/old", 0o644, "old")
	w.file("etc/gone", 0o644, "gone")
	w.node("fifo", unix.S_IFIFO|0o622, 0, 0)
}

func smallChanges(w writer, variant string) {
	w.tb.Helper()
	w.mode(".", 0o755)
	w.file("variant", 0o640, variant)
	w.own("variant", 1000, 1001)
	w.file("data", 0o644, randomText(variant, 15_000))
	w.xattr("data", "user.berth", variant)
	w.dir("etc/hidden", 0o700)
	w.file("etc/.wh.gone", 0o644, "")
	w.file("etc/hidden/.wh..wh..opq", 0o644, "")
	w.file("etc/hidden/new", 0o644, "new")
}

// smallTop has no entries for its directories.
func smallTop(w writer, variant string) {
	w.tb.Helper()
	w.dir("usr/share", 0o755)
	w.file("usr/share/pair", 0o644, "two names in "+variant)
	w.link("usr/share/pair", "usr/share/other")
	w.dir("etc", 0o755)
	w.file("etc/top", 0o600, variant)
	w.time("etc/top", time.Unix(1, 0))
}

// randomText is always the same for one seed, and does not compress well.
func randomText(seed string, size int) string {
	var key [32]byte
	copy(key[:], seed)
	source := rand.NewChaCha8(key)
	var text strings.Builder
	for text.Len() < size {
		fmt.Fprintf(&text, "%x\n", source.Uint64())
	}
	return text.String()
}
