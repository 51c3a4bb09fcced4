package aufs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"berth/container"
	"berth/internal/attributes"
	"berth/internal/mount/mounttest"
	"berth/internal/testrig"
	"berth/provisioner/backend"
	"berth/provisioner/backend/backendtest"
	"berth/provisioner/backend/copy"
)

// What aufs would show of the branches is what the copy backend makes of the layers.

func TestBranchesShowWhatTheLayersSay(t *testing.T) {
	root := mounttest.FileSystem(t, "ext4")
	for rule, trees := range backendtest.Stacks(filepath.Join(root, "outside")) {
		t.Run(rule, func(t *testing.T) {
			for _, d := range showsTheSame(t, filepath.Join(root, rule), trees) {
				t.Error(d)
			}
		})
	}
}

func TestBranchesOfRandomLayersShowWhatTheLayersSay(t *testing.T) {
	root := mounttest.FileSystem(t, "ext4")
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		for _, d := range showsTheSame(t, filepath.Join(root, fmt.Sprint(n)), backendtest.RandomLayers(rt)) {
			rt.Error(d)
		}
	})
}

// showsTheSame writes the layers below dir, which does not exist, and returns how what
// aufs shows of them differs from what copy makes of them.
func showsTheSame(t *testing.T, dir string, trees []backendtest.Tree) []string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "rootfses"), 0o700))
	defer os.RemoveAll(dir)
	var layers []backend.Layer
	for i, tree := range trees {
		layers = append(layers, tree.Write(t, filepath.Join(dir, fmt.Sprint("layer-", i))))
	}
	copied := filepath.Join(dir, "rootfses", "copied")
	err := copy.New().Provision(t.Context(), layers, copied, dir)
	must(err)

	seen, err := backend.Visible(layers)
	must(err)
	stack := backend.TopFirst(seen)
	hides, err := marksOf(stack)
	must(err)
	rootfs := filepath.Join(dir, "rootfses", "x")
	a := plan(stack, hides, rootfs, dir)
	must(makeDirectories(a, stack, hides, rootfs, dir))
	must(backend.RestoreRoot(layers, a.Writable))
	must(os.RemoveAll(rootfs))
	u := union{rootfs, make(map[inode]string)}
	must(u.show(append([]string{a.Writable}, a.Lowers...), "."))
	must(backend.RestoreImplied(layers, rootfs))

	want, err := testrig.Manifest(copied)
	must(err)
	got, err := testrig.Manifest(rootfs)
	must(err)
	return testrig.Compare(want, got)
}

// union is a model of aufs: it makes a tree of what aufs shows of branches.
type union struct {
	root  string
	links map[inode]string // names of nodes that have several
}

type inode struct{ dev, ino uint64 }

// show makes the directory name, which all of the branches have, the first of them on top.
// The rules are those of au_lkup_dentry and au_do_lookup: a whiteout ends the search; what
// is of another kind than the topmost is passed over; and of several opaque directories
// the lowest counts, so that there had better not be several.
func (u *union) show(branches []string, name string) error {
	if err := os.Mkdir(filepath.Join(u.root, name), 0o700); err != nil {
		return err
	}
	children := make(map[string]bool)
	for _, b := range branches {
		entries, err := os.ReadDir(filepath.Join(b, name))
		if err != nil {
			return err
		}
		for _, e := range entries {
			children[e.Name()] = true
		}
	}
	for child := range children {
		if strings.HasPrefix(child, ".wh.") {
			continue
		}
		if err := u.lookUp(branches, name, child); err != nil {
			return err
		}
	}
	return attributes.Copy(attributes.Path(filepath.Join(branches[0], name)), attributes.Path(filepath.Join(u.root, name)))
}

func (u *union) lookUp(branches []string, dir, child string) error {
	name := filepath.Join(dir, child)
	var having []string
	opaque := -1
	for _, b := range branches {
		if _, err := os.Lstat(filepath.Join(b, dir, ".wh."+child)); err == nil {
			break
		}
		info, err := os.Lstat(filepath.Join(b, name))
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return err
		case !info.IsDir() && len(having) > 0:
			continue
		case !info.IsDir():
			return u.take(filepath.Join(b, name), name)
		}
		if _, err := os.Lstat(filepath.Join(b, name, ".wh..wh..opq")); err == nil {
			opaque = len(having)
		}
		having = append(having, b)
	}
	if opaque >= 0 {
		having = having[:opaque+1]
	}
	if len(having) == 0 {
		return nil
	}
	return u.show(having, name)
}

// take makes a node that is no directory: a copy, or another name of one that is there.
func (u *union) take(from, name string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	to := filepath.Join(u.root, name)
	if first, ok := u.links[inode{st.Dev, st.Ino}]; ok {
		return os.Link(first, to)
	}
	u.links[inode{st.Dev, st.Ino}] = to
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		var content []byte
		if content, err = os.ReadFile(from); err == nil {
			err = os.WriteFile(to, content, 0o600)
		}
	case unix.S_IFLNK:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = os.Symlink(target, to)
		}
	default:
		err = unix.Mknod(to, st.Mode, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	return attributes.Copy(attributes.Path(from), attributes.Path(to))
}

func TestNamesThatAufsCannotHideAreInvalid(t *testing.T) {
	mounttest.RequireRoot(t)
	dir := t.TempDir()
	for length, valid := range map[int]bool{251: true, 252: false, 255: false} {
		layer := filepath.Join(dir, fmt.Sprint(length))
		name := strings.Repeat("n", length)
		if err := errors.Join(os.Mkdir(layer, 0o755), unix.Mknod(filepath.Join(layer, name), unix.S_IFCHR, 0)); err != nil {
			t.Fatal(err)
		}
		hides, err := marksOf([]backend.Layer{{Path: layer, Whiteouts: true}})
		switch {
		case valid && (err != nil || !slices.Equal(hides[0].whiteouts, []string{".wh." + name})):
			t.Errorf("%d bytes: %v, %v", length, hides, err)
		case !valid && !errors.Is(err, container.ErrInvalid):
			t.Errorf("%d bytes: the error is %v", length, err)
		}
	}
}

// Directories of the branch of whiteouts stand in front of those of the layer.
func TestMarksDoNotChangeHowDirectoriesLook(t *testing.T) {
	root := mounttest.FileSystem(t, "ext4")
	scratch := filepath.Join(root, "backend")
	// A default access control list, which what is made below inherits: u::rwx,g::r-x,o::r-x.
	acl := "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x04\x00\x05\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff"
	if err := errors.Join(os.Mkdir(scratch, 0o700), unix.Setxattr(scratch, "system.posix_acl_default", []byte(acl), 0)); err != nil {
		t.Fatal(err)
	}
	rootfs := filepath.Join(scratch, "rootfses", "x")
	for rule, trees := range backendtest.Stacks(root) {
		for _, tree := range trees {
			dir := filepath.Join(root, "one")
			layer := tree.Write(t, dir)
			hides, err := marksOf([]backend.Layer{layer})
			if err != nil {
				t.Fatal(err)
			}
			branch := whiteoutsOf(scratch, rootfs, 0)
			if err := writeBranch(branch, layer.Path, hides[0].whiteouts); err != nil {
				t.Fatal(err)
			}
			if len(hides[0].whiteouts) > 0 {
				onlyMarks(t, rule, layer.Path, branch)
			}
			if err := errors.Join(os.RemoveAll(dir), os.RemoveAll(filepath.Dir(branch))); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// onlyMarks checks that all that a branch has are marks, and directories like those of the
// layer.
func onlyMarks(t *testing.T, rule, layer, branch string) {
	t.Helper()
	of := func(dir string, keep func(testrig.Entry) bool) []testrig.Entry {
		entries, err := testrig.Manifest(dir)
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(entries, func(e testrig.Entry) bool { return !keep(e) })
	}
	in := make(map[string]bool)
	got := of(branch, func(e testrig.Entry) bool {
		mark := strings.HasPrefix(filepath.Base(e.Path), ".wh.") && e.Type == unix.S_IFREG && e.Size == 0
		in[e.Path] = !mark
		return !mark
	})
	want := of(layer, func(e testrig.Entry) bool { return in[e.Path] })
	for _, d := range testrig.Compare(want, got) {
		t.Errorf("%s: %s", rule, d)
	}
}
