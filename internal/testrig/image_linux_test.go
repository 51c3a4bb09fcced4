package testrig

import (
	"archive/tar"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// byPath finds the entries of a manifest; one that is not there is an error.
type byPath struct {
	t       *testing.T
	entries map[string]Entry
}

func index(t *testing.T, entries []Entry) byPath {
	b := byPath{t, map[string]Entry{}}
	for _, e := range entries {
		b.entries[e.Path] = e
	}
	return b
}

func (b byPath) get(path string) Entry {
	b.t.Helper()
	e, ok := b.entries[path]
	if !ok {
		b.t.Errorf("the image has no %q", path)
	}
	return e
}

// unpack runs the oracle, proves that it made what the layers say, and returns
// its manifest.
func unpack(t *testing.T, image pulledImage, ref string, except ...Exception) (rootfs string, entries []Entry) {
	t.Helper()
	rootfs = SkopeoUmoci(t, ref, TempDir(t))
	entries, err := Manifest(rootfs)
	if err != nil {
		t.Fatal(err)
	}
	want := applyImage(t, image)
	if want[0].Path != "." {
		root := entries[0]
		want = append([]Entry{{Path: ".", Type: unix.S_IFDIR, Mode: 0o755, MTime: root.MTime.Add(1), First: "."}}, want...)
	}
	diffs := Compare(want, entries, except...)
	for _, d := range diffs[:min(len(diffs), mostReported)] {
		t.Errorf("umoci and the layers: %s", d)
	}
	return rootfs, entries
}

func TestBusyboxImage(t *testing.T) {
	reg := Registry(t)
	ref := BusyboxImage(t, reg, "busybox", "--config.user=app", "--config.workingdir=/tmp")
	image := pullImage(t, reg, ref)
	if len(image.layers) != 1 {
		t.Errorf("%d layers", len(image.layers))
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := config.Config; c.User != "app" || c.WorkingDir != "/tmp" || !slices.Equal(c.Cmd, []string{"sh"}) || !slices.Equal(c.Env, []string{imagePath}) {
		t.Errorf("the configuration is %+v", c)
	}
	rootfs, entries := unpack(t, image, ref)
	found := index(t, entries)
	busybox, sh := found.get("bin/busybox"), found.get("bin/sh")
	if busybox.Links < 100 || sh.First != busybox.First {
		t.Errorf("busybox has %d names and sh is %s", busybox.Links, sh.First)
	}
	if e := found.get("tmp"); e.Mode != 0o1777 {
		t.Errorf("the mode of /tmp is %04o", e.Mode)
	}
	if e := found.get("home/app"); e.UID != 1000 || e.GID != 1000 {
		t.Errorf("/home/app belongs to %d:%d", e.UID, e.GID)
	}
	out := tool{}.run(t, "chroot", "--userspec=app:app", rootfs, "/bin/sh", "-c", "cd /home/app && pwd; id -un; env true && echo fine")
	if out != "/home/app\napp\nfine\n" {
		t.Errorf("it runs wrongly: %q", out)
	}
}

func TestMultiLayerImage(t *testing.T) {
	reg := Registry(t)
	ref := MultiLayerImage(t, reg, "multi")
	image := pullImage(t, reg, ref)
	names, types := headers(t, image.layers)
	if len(names) != 7 {
		t.Fatalf("%d layers", len(names))
	}
	second := []string{"change/.wh.tree", "change/.wh.gone", "many/.wh.0042", "links/.wh.pair1"}
	hardLinks := [][]string{{"links/a", "links/b", "links/sub/c"}, {"precise/file", "precise/hardlink"}}
	if storageDriver(t, TempDir(t)) == "overlay" {
		second = append(second, "change/opaque/.wh..wh..opq")
		hardLinks = append(hardLinks, []string{"links/second", "links/single"})
	}
	for layer, want := range map[int][]string{
		1: second,
		3: {"./", "./precise/file"},
		4: {"umoci/opaque/.wh..wh..opq"},
		5: {"umoci/.wh.gone"},
	} {
		for _, name := range want {
			if !slices.Contains(names[layer], name) {
				t.Errorf("layer %d has no %s", layer+1, name)
			}
		}
	}
	if len(names[6]) != 0 {
		t.Errorf("the last layer is not empty: %q", names[6])
	}
	for _, flag := range []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeChar, tar.TypeBlock} {
		if !types[flag] {
			t.Errorf("no entry has the tar type %q", flag)
		}
	}

	rootfs, entries := unpack(t, image, ref)
	checkMultiLayer(t, index(t, entries), hardLinks)
	if out := (tool{}).run(t, "chroot", rootfs, "/bin/sh", "-c", "id -u"); out != "0\n" {
		t.Errorf("it runs wrongly: %q", out)
	}
}

func headers(t *testing.T, layers []pulledLayer) (names [][]string, types map[byte]bool) {
	t.Helper()
	types = map[byte]bool{}
	for _, l := range layers {
		members, err := l.members()
		if err != nil {
			t.Fatal(err)
		}
		var in []string
		for _, h := range members {
			in = append(in, h.Name)
			types[h.Typeflag] = true
		}
		names = append(names, in)
	}
	return names, types
}

// checkMultiLayer proves that what the builder says is in the image arrives: it
// would be no use if buildah or tar had dropped it on the way.
func checkMultiLayer(t *testing.T, found byPath, hardLinks [][]string) {
	t.Helper()
	kind := func(path string, want uint32) {
		t.Helper()
		if e := found.get(path); e.Type != want {
			t.Errorf("%s is %s", path, e.describe())
		}
	}
	mode := func(path string, want uint32) {
		t.Helper()
		if e := found.get(path); e.Mode != want {
			t.Errorf("the mode of %s is %04o, want %04o", path, e.Mode, want)
		}
	}
	mode("kinds/setuid", 0o4755)
	mode("kinds/setgid", 0o2755)
	mode("kinds/setgiddir", 0o2775)
	mode("kinds/sticky", 0o1777)
	mode("kinds/unreadable", 0)
	mode("change/metadata", 0o755)
	mode("change/opaque", 0o750)
	mode("change/tree", 0o700)
	kind("kinds/fifo", unix.S_IFIFO)
	kind("change/file-fifo", unix.S_IFIFO)
	kind("change/dir-file", unix.S_IFREG)
	kind("change/file-dir", unix.S_IFREG)
	kind("change/link-dir", unix.S_IFDIR)
	kind("change/dir-link", unix.S_IFLNK)
	kind("change/link-file", unix.S_IFREG)
	kind("change/file-link", unix.S_IFLNK)
	if e := found.get("kinds/block"); e.Type != unix.S_IFBLK || e.Rdev != "7:200" {
		t.Errorf("kinds/block is %s %s", e.describe(), e.Rdev)
	}
	if e := found.get("kinds/bigid"); e.UID != 3_000_000 || e.GID != 4_000_000 {
		t.Errorf("kinds/bigid belongs to %d:%d", e.UID, e.GID)
	}
	for _, path := range []string{"kinds/capable", "precise/capable"} {
		if found.get(path).Xattrs["security.capability"] != fileCapability {
			t.Errorf("%s has lost its capability", path)
		}
	}
	for _, path := range []string{"kinds/xattr", "kinds/xattrdir", "precise/capable"} {
		if found.get(path).Xattrs["user.berth"] == "" {
			t.Errorf("%s has lost its attribute", path)
		}
	}
	for _, path := range []string{"precise/symlink", "precise/file", "precise/fifo", "precise/dir", "precise", "."} {
		if found.get(path).MTime.Nanosecond() == 0 {
			t.Errorf("the time of %s has no nanoseconds", path)
		}
	}
	for _, names := range hardLinks {
		for _, n := range names {
			if e := found.get(n); e.First != names[0] || e.Links != uint64(len(names)) {
				t.Errorf("%s is %s with %d names", n, e.First, e.Links)
			}
		}
	}
	for _, n := range append([]string{deepPath, "d" + longName[1:]}, oddNames...) {
		found.get("names/" + n)
	}
	found.get("precise/not-utf8-\xff")
	many := 0
	for p := range found.entries {
		if path.Dir(p) == "many" {
			many++
		}
	}
	if many != bigDirectory {
		t.Errorf("the big directory has %d entries", many)
	}
	for _, gone := range []string{"change/opaque/old", "change/opaque/sub", "change/tree/sub", "change/target/own",
		"links/pair1", "umoci/opaque/sub", "umoci/gone", "change/dir-link/file"} {
		if _, ok := found.entries[gone]; ok {
			t.Errorf("%s is still there", gone)
		}
	}
}

func TestDebianImage(t *testing.T) {
	if testing.Short() {
		t.Skip("the first run on a machine takes a minute")
	}
	reg := Registry(t)
	ref := DebianImage(t, reg, "debian")
	image := pullImage(t, reg, ref)
	if len(image.layers) < 6 {
		t.Errorf("%d layers", len(image.layers))
	}
	for _, l := range image.layers {
		if kind, err := l.MediaType(); err != nil || kind != types.OCILayer {
			t.Errorf("a layer is %s (%v), want gzip", kind, err)
		}
	}
	names, _ := headers(t, image.layers)
	last := names[len(names)-1]
	if !slices.Contains(last, "usr/share/.wh.lintian") || !slices.Contains(last, "usr/share/doc/.wh..wh..opq") {
		t.Errorf("the last layer has no whiteouts: %q", last)
	}

	rootfs, entries := unpack(t, image, ref, UnnamedRoot)
	files := 0
	for _, e := range entries {
		if e.Type == unix.S_IFREG {
			files++
		}
		if strings.HasPrefix(e.Path, "tmp/") || strings.HasSuffix(e.Path, ".deb") {
			t.Errorf("%s should not be in the image", e.Path)
		}
	}
	if files < 15_000 {
		t.Errorf("%d regular files", files)
	}
	t.Logf("%d entries, %d regular files", len(entries), files)
	for _, args := range [][]string{
		{"python3", "-c", "import ssl, sqlite3, json; print(6*7)"},
		{"perl", "-MPOSIX", "-e", "print 6*7, qq(\n)"},
	} {
		if out := (tool{}).run(t, "chroot", append([]string{rootfs}, args...)...); out != "42\n" {
			t.Errorf("%s says %q", args[0], out)
		}
	}
}

func TestBigLayerImage(t *testing.T) {
	reg := Registry(t)
	const size = 40 << 20
	image := pullImage(t, reg, BigLayerImage(t, reg, "big", size))
	if len(image.layers) != 1 {
		t.Fatalf("%d layers", len(image.layers))
	}
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	layer := manifest.Layers[0]
	if layer.MediaType != types.OCILayer || layer.Size < size/2 || layer.Size > size/2+size/10 {
		t.Errorf("the layer is %s of %d bytes", layer.MediaType, layer.Size)
	}
	// Reading checks the blob's digest; the diffID is ours to check.
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	stream, err := image.layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	diff, n, err := v1.SHA256(stream)
	if err != nil {
		t.Fatal(err)
	}
	if diff != config.RootFS.DiffIDs[0] || n < size || n > size+1<<20 {
		t.Errorf("%d bytes of %s, want about %d of %s", n, diff, size, config.RootFS.DiffIDs[0])
	}
}

func TestTheOracleFailsWithoutImage(t *testing.T) {
	reg := Registry(t)
	RequireRoot(t)
	r := record(t, func(tb testing.TB) { SkopeoUmoci(tb, reg.Host()+"/none:latest", TempDir(tb)) })
	if !r.failed || !strings.Contains(strings.Join(r.errors, ""), "none") {
		t.Errorf("errors: %q", r.errors)
	}
}

func TestBuildersLeaveNothing(t *testing.T) {
	RequireRoot(t)
	tmp := TempDir(t)
	t.Setenv("TMPDIR", tmp)
	NoLeaks(t, Scope{Processes: []string{tmp}, Files: []string{tmp}, Only: []string{tmp}})
	r := record(t, func(tb testing.TB) {
		b := newBuildah(tb)
		b.layer(func(root string) {
			if !strings.HasPrefix(root, tmp) {
				t.Errorf("buildah works in %s", filepath.Dir(root))
			}
			tb.Fatal("the build fails with its layer mounted")
		})
	})
	if len(r.errors) != 1 {
		t.Errorf("errors: %q", r.errors)
	}
}
