package backendtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"berth/provisioner/backend"
)

// stacking: how layers make one tree.
var stacking = append(stackingChecks(),
	check{"random layers are stacked as the specification says", nil, checkRandomLayers},
	check{"layers may be many, and their paths long", nil, checkManyLayers},
	check{"a layer may occur several times", func(t Traits) bool { return t.MaxLayers != 1 }, checkRepeatedLayer},
	check{"layers may lie on another file system", nil, checkOtherFileSystem},
	check{"what replaces a link is never written through it", func(t Traits) bool { return t.MaxLayers != 1 }, checkNoLinkIsFollowed},
)

// stackings are layers, base first, and what they make.
var stackings = []struct {
	rule   string
	layers []Tree
	want   Tree
}{
	{"one layer is shown as it is",
		[]Tree{{File("a", "a"), Dir("d"), File("d/b", "b"), symlink("l", "d/b"), Dir("empty")}},
		Tree{File("a", "a"), Dir("d"), File("d/b", "b"), symlink("l", "d/b"), Dir("empty")}},
	{"an empty layer is an empty root filesystem", []Tree{{}}, Tree{}},
	{"layers are stacked base first",
		[]Tree{{File("a", "base"), File("b", "base"), File("c", "base")}, {File("b", "middle"), File("c", "middle")}, {File("c", "top")}},
		Tree{File("a", "base"), File("b", "middle"), File("c", "top")}},
	{"directories are merged",
		[]Tree{{Dir("d"), Dir("d/e"), File("d/e/a", "base")}, {Dir("d"), Dir("d/e"), File("d/e/b", "top")}},
		Tree{Dir("d"), Dir("d/e"), File("d/e/a", "base"), File("d/e/b", "top")}},
	{"an empty layer hides nothing", []Tree{{File("a", "a")}, {}}, Tree{File("a", "a")}},

	{"a whiteout hides a file, and only that",
		[]Tree{{File("a", "a"), File("ab", "ab"), Dir("d"), File("d/a", "a")}, {whiteout("a")}},
		Tree{File("ab", "ab"), Dir("d"), File("d/a", "a")}},
	{"a whiteout hides a directory with all in it",
		[]Tree{{Dir("d"), Dir("d/e"), File("d/e/a", "a"), File("de", "")}, {Dir("d"), File("d/b", "b")}, {whiteout("d")}},
		Tree{File("de", "")}},
	{"a whiteout hides a symbolic link, not its target",
		[]Tree{{Dir("d"), File("d/a", "a"), symlink("l", "d"), symlink("m", "d/a")}, {whiteout("l"), whiteout("m")}},
		Tree{Dir("d"), File("d/a", "a")}},
	{"a whiteout hides a device, a FIFO and a socket",
		[]Tree{{charDevice("c", 1, 3), blockDevice("b", 7, 0), fifo("f"), socket("s")}, {whiteout("c"), whiteout("b"), whiteout("f"), whiteout("s")}},
		Tree{}},
	{"a whiteout hides one of several names of a file",
		[]Tree{{File("a", "a"), hardLink("b", "a"), hardLink("c", "a")}, {whiteout("a")}},
		Tree{File("b", "a"), hardLink("c", "b")}},
	{"a whiteout of nothing is not seen", []Tree{{Dir("d")}, {whiteout("a"), Dir("d"), whiteout("d/a")}}, Tree{Dir("d")}},
	{"a whiteout in a directory that no other layer has is not seen",
		[]Tree{{}, {Dir("d"), whiteout("d/a"), File("d/b", "b")}}, Tree{Dir("d"), File("d/b", "b")}},
	{"a whiteout in the base layer is not seen",
		[]Tree{{whiteout("a"), Dir("d"), whiteout("d/a"), File("d/b", "b")}}, Tree{Dir("d"), File("d/b", "b")}},
	{"a whiteout in an opaque directory is not seen",
		[]Tree{{Dir("d"), File("d/a", "a")}, {opaque("d"), whiteout("d/a"), File("d/b", "b")}}, Tree{Dir("d"), File("d/b", "b")}},
	{"whiteouts of several layers add up",
		[]Tree{{File("a", ""), File("b", ""), File("c", "")}, {whiteout("a")}, {whiteout("a"), whiteout("b")}},
		Tree{File("c", "")}},
	{"whiteouts in a directory that comes back hide nothing more",
		[]Tree{{Dir("d"), File("d/a", "base"), File("d/b", "base"), Dir("d/e"), File("d/e/a", "base")}, {Dir("d"), whiteout("d/a")}, {whiteout("d")},
			{Dir("d"), whiteout("d/a"), File("d/c", "top"), Dir("d/e"), whiteout("d/e/a"), File("d/e/b", "top")}},
		Tree{Dir("d"), File("d/c", "top"), Dir("d/e"), File("d/e/b", "top")}},
	{"whiteouts hide what each layer below has in another way",
		[]Tree{{Dir("a"), File("a/x", ""), File("b", ""), symlink("c", "a"), fifo("d")}, {whiteout("a"), Dir("b"), Dir("c"), File("c/x", ""), symlink("d", "b")},
			{File("a", "file"), whiteout("b"), whiteout("c"), charDevice("d", 1, 3)}, {whiteout("a"), Dir("e"), whiteout("d")}},
		Tree{Dir("e")}},
	{"a file that was hidden can come back",
		[]Tree{{File("a", "base")}, {whiteout("a")}, {File("a", "top")}}, Tree{File("a", "top")}},
	{"a directory that was hidden comes back empty",
		[]Tree{{Dir("d"), File("d/a", "base")}, {whiteout("d")}, {Dir("d"), File("d/b", "top")}}, Tree{Dir("d"), File("d/b", "top")}},

	{"an opaque directory hides what lower layers have in it",
		[]Tree{{Dir("d"), File("d/a", "a"), Dir("d/e"), File("d/e/b", "b"), File("c", "c")}, {Dir("d"), File("d/f", "f")}, {opaque("d")}},
		Tree{Dir("d"), File("c", "c")}},
	{"an opaque directory hides nothing of its own layer, and of higher ones",
		[]Tree{{Dir("d"), File("d/a", "base"), File("d/b", "base")}, {opaque("d"), File("d/b", "middle"), Dir("d/e"), File("d/e/a", "middle")}, {Dir("d"), File("d/c", "top")}},
		Tree{Dir("d"), File("d/b", "middle"), Dir("d/e"), File("d/e/a", "middle"), File("d/c", "top")}},
	{"an opaque directory that no lower layer has is a directory",
		[]Tree{{}, {opaque("d"), File("d/a", "a")}}, Tree{Dir("d"), File("d/a", "a")}},
	{"an opaque directory replaces a file",
		[]Tree{{File("d", "")}, {opaque("d"), File("d/a", "a")}}, Tree{Dir("d"), File("d/a", "a")}},
	{"an opaque root hides all lower layers",
		[]Tree{{File("a", "a"), Dir("d"), File("d/b", "b")}, {opaque("."), File("c", "c")}}, Tree{File("c", "c")}},
	{"opaque roots may follow each other",
		[]Tree{{File("a", "a")}, {opaque("."), File("b", "b")}, {opaque("."), Dir("d"), File("d/c", "c")}, {opaque("."), File("e", "e")}},
		Tree{File("e", "e")}},
	{"an opaque root in the base layer hides nothing", []Tree{{opaque("."), File("a", "a")}}, Tree{File("a", "a")}},

	{"a file replaces a directory with all in it",
		[]Tree{{Dir("a"), Dir("a/d"), File("a/d/b", "b")}, {File("a", "file")}}, Tree{File("a", "file")}},
	{"a directory replaces a file", []Tree{{File("a", "file")}, {Dir("a"), File("a/b", "b")}}, Tree{Dir("a"), File("a/b", "b")}},
	{"a directory that replaces a file has nothing of the directory that the file replaced",
		[]Tree{{Dir("a"), File("a/x", "base"), Dir("a/d"), File("a/d/x", "base"), Dir("b"), File("b/x", "base"), Dir("c"), File("c/x", "")},
			{File("a", "file"), symlink("b", "a"), fifo("c")},
			{Dir("a"), File("a/y", "top"), Dir("a/d"), File("a/d/y", "top"), Dir("b"), File("b/y", "top"), implied("c"), File("c/y", "")}},
		Tree{Dir("a"), File("a/y", "top"), Dir("a/d"), File("a/d/y", "top"), Dir("b"), File("b/y", "top"), Dir("c").date(0, 0), File("c/y", "")}},
	{"opaque directories may lie on one another, and in one another",
		[]Tree{{Dir("d"), File("d/a", "0"), Dir("d/e"), File("d/e/a", "0")}, {opaque("d"), File("d/b", "1"), Dir("d/e"), File("d/e/b", "1")},
			{opaque("d"), File("d/c", "2"), Dir("d/e"), File("d/e/c", "2")}, {Dir("d"), opaque("d/e"), File("d/e/d", "3")}, {Dir("d"), opaque("d/e")}},
		Tree{Dir("d"), File("d/c", "2"), Dir("d/e")}},
	{"a directory replaces a link to a directory",
		[]Tree{{Dir("d"), File("d/b", "base"), symlink("a", "d")}, {Dir("a"), File("a/b", "top")}},
		Tree{Dir("d"), File("d/b", "base"), Dir("a"), File("a/b", "top")}},
	{"a directory replaces a link to nothing", []Tree{{symlink("a", "nothing")}, {Dir("a"), File("a/b", "b")}}, Tree{Dir("a"), File("a/b", "b")}},
	{"a link replaces a directory with all in it",
		[]Tree{{Dir("a"), File("a/b", "b"), Dir("d"), File("d/b", "d")}, {symlink("a", "d")}},
		Tree{Dir("d"), File("d/b", "d"), symlink("a", "d")}},
	{"a file replaces a link, not its target",
		[]Tree{{File("target", "base"), symlink("a", "target")}, {File("a", "top")}},
		Tree{File("target", "base"), File("a", "top")}},
	{"a link replaces a file and a link",
		[]Tree{{File("a", "a"), symlink("b", "a")}, {symlink("a", "x"), symlink("b", "y")}},
		Tree{symlink("a", "x"), symlink("b", "y")}},
	{"devices and FIFOs replace and are replaced",
		[]Tree{{File("a", ""), Dir("b"), File("b/x", ""), fifo("c"), charDevice("d", 1, 3)}, {charDevice("a", 1, 5), fifo("b"), File("c", "c"), Dir("d")}},
		Tree{charDevice("a", 1, 5), fifo("b"), File("c", "c"), Dir("d")}},
	{"a file replaces one name of a file, the others stay",
		[]Tree{{File("a", "base"), hardLink("b", "a")}, {File("a", "top")}}, Tree{File("a", "top"), File("b", "base")}},

	{"a merged directory has the attributes of the topmost layer",
		[]Tree{{Dir("d").perm(0o700).owner(1, 2).xattr("user.base", "1").xattr("user.both", "base"), File("d/a", "")},
			{Dir("d").perm(0o2751).owner(3, 4).date(1_500_000_000, 5).xattr("user.both", "top").xattr("user.top", "")}},
		Tree{Dir("d").perm(0o2751).owner(3, 4).date(1_500_000_000, 5).xattr("user.both", "top").xattr("user.top", ""), File("d/a", "")}},
	{"the root has the attributes of the topmost layer",
		[]Tree{{Dir(".").perm(0o700).owner(1, 2).xattr("user.base", "1")}, {Dir(".").perm(0o1751).owner(3, 4).date(1_500_000_000, 5).xattr("user.top", "1")}},
		Tree{Dir(".").perm(0o1751).owner(3, 4).date(1_500_000_000, 5).xattr("user.top", "1")}},
	{"a directory that is only implied keeps the attributes that lower layers give it",
		[]Tree{{Dir(".").perm(0o700).xattr("user.root", "1"), Dir("d").perm(0o2770).owner(1, 2).xattr("user.x", "1"), Dir("d/e").perm(0o1777).date(5, 5), Dir("f").perm(0o711)},
			{implied("."), implied("d"), implied("d/e"), File("d/e/a", "a")},
			{implied("."), implied("d"), Dir("d/e").perm(0o711), implied("f"), whiteout("f/b")},
			{implied("."), implied("d"), implied("d/e"), Dir("d/e/g")}},
		Tree{Dir(".").perm(0o700).xattr("user.root", "1"), Dir("d").perm(0o2770).owner(1, 2).xattr("user.x", "1"), Dir("d/e").perm(0o711),
			File("d/e/a", "a"), Dir("d/e/g"), Dir("f").perm(0o711)}},
	{"a directory that is only implied has attributes of its own where lower layers have none",
		[]Tree{{implied("."), implied("d"), File("d/a", "a"), Dir("gone").perm(0o700), File("file", ""), symlink("link", "d")},
			{implied("."), implied("new"), File("new/a", "a"), whiteout("gone"), implied("file"), File("file/a", ""), implied("link"), File("link/a", "")},
			{implied("."), implied("gone"), File("gone/a", "a")}},
		Tree{Dir(".").date(0, 0), Dir("d").date(0, 0), File("d/a", "a"), Dir("new").date(0, 0), File("new/a", "a"), Dir("gone").date(0, 0), File("gone/a", "a"),
			Dir("file").date(0, 0), File("file/a", ""), Dir("link").date(0, 0), File("link/a", "")}},
	{"an opaque directory that is only implied keeps its attributes, and nothing else",
		[]Tree{{Dir("d").perm(0o700).xattr("user.x", "1"), File("d/a", "a"), Dir("d/e").perm(0o700)}, {impliedOpaque("d"), File("d/b", "b"), implied("d/e"), File("d/e/c", "c")}},
		Tree{Dir("d").perm(0o700).xattr("user.x", "1"), File("d/b", "b"), Dir("d/e").date(0, 0), File("d/e/c", "c")}},
	{"a default access control list of a directory that is only implied is not inherited",
		[]Tree{{Dir("d").perm(0o2775).xattr(defaultACL, someACL)}, {implied("d"), File("d/a", "a"), Dir("d/e")}},
		Tree{Dir("d").perm(0o2775).xattr(defaultACL, someACL), File("d/a", "a"), Dir("d/e")}},
	{"a default access control list of a lower layer is not inherited by a higher one",
		[]Tree{{Dir("d").perm(0o2775).xattr(defaultACL, someACL)}, {Dir("d"), File("d/a", "a"), Dir("d/e"), symlink("d/l", "a"), fifo("d/f")}},
		Tree{Dir("d"), File("d/a", "a"), Dir("d/e"), symlink("d/l", "a"), fifo("d/f")}},
}

func stackingChecks() (checks []check) {
	for _, s := range stackings {
		checks = append(checks, check{s.rule, func(t Traits) bool { return t.stacks(s.layers) }, func(t *testing.T, suite *suite) {
			want := stacked(s.want)
			if diff := cmp.Diff(want, stacked(s.layers...)); diff != "" {
				t.Fatalf("the suite contradicts itself (-want +model):\n%s", diff)
			}
			p := suite.place(t)
			layers := p.layers(s.layers...)
			unchanged := p.unchanged()
			p.shows(p.provision(layers...), want)
			unchanged()
		}})
	}
	return checks
}

func checkRandomLayers(t *testing.T, s *suite) {
	rapid.Check(t, func(rt *rapid.T) {
		count := 1
		if s.MaxLayers != 1 {
			count = rapid.IntRange(1, 4).Draw(rt, "layers")
		}
		trees := randomLayers(rt, count)
		p := s.place(t)
		rootfs := p.provision(p.layers(trees...)...)
		if diff := cmp.Diff(stacked(trees...), read(t, rootfs)); diff != "" {
			rt.Errorf("the root filesystem differs (-want +got):\n%s", diff)
		}
		p.destroy(rootfs, true)
		p.nothingLeft()
		if err := os.RemoveAll(p.dir); err != nil {
			t.Fatal(err)
		}
	})
}

// RandomLayers draws the trees of a few layers, base first.
func RandomLayers(rt *rapid.T) []Tree {
	return randomLayers(rt, rapid.IntRange(1, 4).Draw(rt, "layers"))
}

func randomLayers(rt *rapid.T, count int) (trees []Tree) {
	for i := range count {
		trees = append(trees, randomTree(rt, fmt.Sprint("layer ", i), count > 1))
	}
	return trees
}

// Stacks are the layers, base first, of all rules on how layers make one tree, and layers
// whose links lead out of the root filesystem to the directory outside.
func Stacks(outside string) map[string][]Tree {
	stacks := map[string][]Tree{"what replaces a link is never written through it": linkedLayers(outside)}
	for _, s := range stackings {
		stacks[s.rule] = s.layers
	}
	return stacks
}

// randomTree draws a tree of few names, so that layers meet.
func randomTree(rt *rapid.T, label string, whiteouts bool) Tree {
	kinds := []string{"nothing", "nothing", "file", "directory", "directory", "link", "fifo", "hard link"}
	if whiteouts {
		kinds = append(kinds, "whiteout", "opaque directory")
	}
	var tree Tree
	var file string // that hard links may be made to
	var fill func(dir string, depth int)
	fill = func(dir string, depth int) {
		for _, name := range []string{"a", "b", "c"} {
			path := filepath.Join(dir, name)
			kind := rapid.SampledFrom(kinds).Draw(rt, label+" "+path)
			switch {
			case kind == "file":
				tree = append(tree, randomAttributes(rt, label, File(path, label+" "+path)))
				file = path
			case kind == "link":
				tree = append(tree, symlink(path, rapid.SampledFrom([]string{"a", "..", "../b", "/", "c/a"}).Draw(rt, "target")))
			case kind == "fifo":
				tree = append(tree, randomAttributes(rt, label, fifo(path)))
			case kind == "hard link" && file != "":
				tree = append(tree, hardLink(path, file))
			case kind == "whiteout":
				tree = append(tree, whiteout(path))
			case strings.HasSuffix(kind, "directory") && depth < 3:
				d := randomDirectory(rt, label, path)
				d.opaque = kind == "opaque directory"
				tree = append(tree, d)
				fill(path, depth+1)
			}
		}
	}
	root := randomDirectory(rt, label, ".")
	root.opaque = whiteouts && rapid.IntRange(0, 9).Draw(rt, label+" root is opaque") == 0
	tree = append(tree, root)
	fill("", 0)
	return tree
}

func randomDirectory(rt *rapid.T, label, path string) Node {
	if rapid.IntRange(0, 3).Draw(rt, label+" implied") == 0 {
		return implied(path)
	}
	return randomAttributes(rt, label, Dir(path))
}

func randomAttributes(rt *rapid.T, label string, n Node) Node {
	n = n.perm(rapid.SampledFrom([]uint32{0o644, 0o755, 0, 0o4711, 0o2775, 0o1777}).Draw(rt, "mode"))
	n = n.owner(rapid.IntRange(0, 3).Draw(rt, "uid"), rapid.IntRange(0, 3).Draw(rt, "gid"))
	n = n.date(rapid.Int64Range(-1<<31+1, 1<<33).Draw(rt, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(rt, "nanoseconds"))
	if rapid.Bool().Draw(rt, "attribute") {
		n = n.xattr("trusted."+rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "name"), label)
	}
	return n
}

// checkManyLayers: overlayfs takes 500, but their paths do not fit into the page that
// mount(2) takes options in, and a path of more than 255 bytes not into a parameter
// of fsconfig(2).
func checkManyLayers(t *testing.T, s *suite) {
	most := 501
	if s.MaxLayers > 0 {
		most = s.MaxLayers + 1
	}
	for _, length := range []int{250, 300} {
		p := s.place(t)
		var layers []backend.Layer
		for i := range most {
			dir := filepath.Join(p.dir, "layers", fmt.Sprintf("%03d-", i))
			dir += strings.Repeat("x", length-len(dir))
			tree := Tree{File("top", fmt.Sprint(i)), File(fmt.Sprint("of ", i), "")}
			layers = append(layers, tree.WriteAs(t, p.backend.Form(), dir))
		}
		for _, count := range []int{1, 64, 128, 450, 500, most} {
			if s.MaxLayers > 0 && count > s.MaxLayers {
				continue
			}
			id := fmt.Sprint(count, " layers")
			t.Run(fmt.Sprintf("%d with paths of %d bytes", count, length), func(t *testing.T) {
				p := &place{t: t, backend: p.backend, dir: p.dir, shared: p.shared}
				rootfs, _ := p.provisionAs(id, layers[:count]...)
				names, err := readNames(rootfs)
				if err != nil || len(names) != count+1 {
					t.Errorf("there are %d names, %v; want %d", len(names), err, count+1)
				}
				if top, err := readFile(rootfs + "/top"); top != fmt.Sprint(count-1) {
					t.Errorf("on top is %q, %v; want layer %d", top, err, count-1)
				}
			})
		}
		if s.MaxLayers > 0 {
			t.Run(fmt.Sprintf("%d are too many", most), func(t *testing.T) {
				p := &place{t: t, backend: p.backend, dir: p.dir, shared: p.shared}
				p.refuses(layers...)
			})
		}
	}
}

// checkRepeatedLayer: an image often has its empty layer several times, and overlayfs
// refuses a directory that it has already.
func checkRepeatedLayer(t *testing.T, s *suite) {
	a := Tree{File("x", "a"), Dir("d"), File("d/a", "a"), whiteout("y")}
	b := Tree{File("x", "b"), whiteout("d"), File("y", "b"), File("z", "b")}
	p := s.place(t)
	layers := p.layers(a, b, Tree{})
	of := func(numbers ...int) (chosen []backend.Layer) {
		for _, n := range numbers {
			chosen = append(chosen, layers[n])
		}
		return chosen
	}
	for i, c := range []struct {
		layers []backend.Layer
		want   listing
	}{
		{of(0, 0), stacked(a, a)},
		{of(0, 1, 0), stacked(a, b, a)},
		{of(1, 0, 1), stacked(b, a, b)},
		{of(2, 0, 2, 1, 2), stacked(Tree{}, a, Tree{}, b, Tree{})},
	} {
		rootfs, _ := p.provisionAs(fmt.Sprint(i), c.layers...)
		p.shows(rootfs, c.want)
	}
}

func checkOtherFileSystem(t *testing.T, s *suite) {
	p, other := s.place(t), s.place(t)
	if err := unix.Mount("tmpfs", other.dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		other.nothingLeft()
		if err := unix.Unmount(other.dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mkdir(other.backendDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	tree := Tree{File("a", pattern(100_000)).perm(0o4755), Dir("d"), File("d/b", "b").xattr("trusted.x", "1"), hardLink("d/c", "d/b"), sparse("s", 1<<20, [2]int{1 << 19, 10})}
	other.shows(other.provision(p.layers(tree)...), stacked(tree))
}

// checkNoLinkIsFollowed: a lower layer's links lead out of the root filesystem, or to
// other places in it.
func checkNoLinkIsFollowed(t *testing.T, s *suite) {
	p := s.place(t)
	canary := filepath.Join(p.dir, "canary")
	canaryTree := Tree{Dir("d"), File("d/file", "canary"), File("file", "canary")}
	canaryTree.Write(t, canary)
	for _, to := range []string{canary, "../../../canary"} {
		trees := linkedLayers(to)
		rootfs, _ := p.provisionAs(fmt.Sprintf("%d", len(to)), p.layers(trees...)...)
		p.shows(rootfs, stacked(trees...))
	}
	if diff := cmp.Diff(stacked(canaryTree), read(t, canary)); diff != "" {
		t.Errorf("what the links lead to has changed (-want +got):\n%s", diff)
	}
}

// linkedLayers are layers of which the upper one replaces links to and into a directory.
func linkedLayers(to string) []Tree {
	return []Tree{
		{symlink("directory", to), symlink("file", to+"/file"), symlink("new", to+"/new"), symlink("hidden", to+"/file"),
			symlink("opaque", to), symlink("fifo", to+"/file"), symlink("link", to), Dir("d"), symlink("d/directory", to)},
		{Dir("directory").perm(0o700), Dir("directory/d"), File("directory/d/file", "layer"), File("directory/file", "layer"),
			File("file", "layer").perm(0o600), File("new", "layer"), hardLink("new2", "new"), whiteout("hidden"),
			opaque("opaque"), File("opaque/file", "layer"), fifo("fifo"), symlink("link", "elsewhere"),
			Dir("d"), Dir("d/directory"), whiteout("d/directory/file"), whiteout("d/directory/d")},
	}
}
