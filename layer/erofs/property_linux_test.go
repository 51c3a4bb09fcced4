package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"berth/container"
	"berth/internal/mount/mounttest"
)

var (
	anyNameByte = rapid.SampledFrom([]byte("aab.-\x01\xff "))
	anyFileName = rapid.Custom(func(t *rapid.T) string {
		name := string(rapid.SliceOfN(anyNameByte, 1, 4).Draw(t, "name"))
		name = strings.Repeat(name, rapid.SampledFrom([]int{1, 1, 1, 10, 63}).Draw(t, "times"))
		if name == "." || name == ".." {
			return "dots"
		}
		return name
	})
	anyAttr = rapid.Custom(func(t *rapid.T) Attr {
		return Attr{
			Mode: rapid.Uint32Range(0, 0o7777).Draw(t, "mode"),
			UID:  rapid.Uint32Range(0, 1<<32-2).Draw(t, "uid"), GID: rapid.Uint32Range(0, 1<<32-2).Draw(t, "gid"),
			Sec: rapid.Int64Range(-1<<40, 1<<40).Draw(t, "sec"), Nsec: rapid.Uint32Range(0, 999999999).Draw(t, "nsec"),
			Rdev: unix.Mkdev(rapid.Uint32Range(0, 4095).Draw(t, "major"), rapid.Uint32Range(0, 1<<20-1).Draw(t, "minor")),
		}
	})
	anyXattrs = rapid.Custom(func(t *rapid.T) map[string]string {
		names := rapid.SampledFrom([]string{"user.a", "user.bb", "trusted.ccc", "security.dddd", "user." + strings.Repeat("e", 250)})
		value := rapid.Custom(func(t *rapid.T) string {
			return strings.Repeat("v", rapid.SampledFrom([]int{0, 1, 2, 3, 4, 20, 400, 512, 5000}).Draw(t, "size"))
		})
		return rapid.MapOfN(names, value, 0, 3).Draw(t, "xattrs")
	})
)

// step changes the tree in one way.
func (r *tree) step(t *rapid.T) {
	pick := func(kinds ...uint32) (string, bool) {
		var fit []string
		for _, name := range slices.Sorted(maps.Keys(r.nodes)) {
			if slices.Contains(kinds, r.b.Attr(r.nodes[name]).Mode&unix.S_IFMT) {
				fit = append(fit, name)
			}
		}
		if len(fit) == 0 {
			return "", false
		}
		return rapid.SampledFrom(fit).Draw(t, "of"), true
	}
	dir, _ := pick(unix.S_IFDIR)
	name := path.Join(dir, anyFileName.Draw(t, "file"))
	_, there := r.nodes[name]
	if n, ok := r.b.Lookup(r.nodes[dir], path.Base(name)); ok != there || ok && n != r.nodes[name] {
		t.Fatalf("look up %q: %d, %v", name, n, ok)
	}
	kind := rapid.SampledFrom([]uint32{unix.S_IFDIR, unix.S_IFDIR, unix.S_IFREG, unix.S_IFREG, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, 0, 1, 2}).Draw(t, "kind")
	switch kind {
	case 0:
		if there {
			r.remove(name)
		}
		return
	case 1:
		if target, ok := pick(unix.S_IFREG, unix.S_IFLNK, unix.S_IFIFO, unix.S_IFCHR); ok && !there {
			r.link(name, target)
		}
		return
	case 2:
		if any, ok := pick(unix.S_IFREG, unix.S_IFDIR, unix.S_IFCHR); ok {
			a := anyAttr.Draw(t, "attributes")
			a.Mode |= r.b.Attr(r.nodes[any]).Mode & unix.S_IFMT
			r.must(r.b.SetAttr(r.nodes[any], a))
		}
		return
	}
	a := anyAttr.Draw(t, "attributes")
	a.Mode |= kind
	if there {
		if _, err := r.b.Make(r.nodes[dir], path.Base(name), a); !errors.Is(err, container.ErrExists) {
			t.Fatalf("make %q, which is there: %v", name, err)
		}
		return
	}
	n := r.addAs(name, a)
	switch kind {
	case unix.S_IFREG:
		if rapid.Bool().Draw(t, "sparse") {
			r.scatter(n, rapid.SliceOfN(rapid.SampledFrom([]int{512, -512, 1024, -4096, 4096, -1 << 20}), 0, 6).Draw(t, "pieces")...)
		} else {
			r.put(n, random(uint64(n), rapid.SampledFrom([]int{0, 1, 511, 512, 513, 4096, 70000}).Draw(t, "size")))
		}
	case unix.S_IFLNK:
		target := strings.Repeat("t", rapid.SampledFrom([]int{1, 20, 400, 448, 449, 511, 512, 513, 4095}).Draw(t, "target"))
		r.must(r.b.SetTarget(n, target))
		r.target[n] = target
	}
	xattrs := anyXattrs.Draw(t, "attributes of its own")
	err := r.b.SetXattrs(n, xattrs)
	if errors.Is(err, container.ErrInvalid) && kind != unix.S_IFREG && kind != unix.S_IFDIR {
		maps.DeleteFunc(xattrs, func(name, _ string) bool { return strings.HasPrefix(name, "user.") })
		err = r.b.SetXattrs(n, xattrs)
	}
	r.must(err)
}

// anyTree is the property: whatever tree is built, the kernel and go-erofs show it, and
// how it was built does not matter.
func anyTree(dir string) func(t *rapid.T) {
	return func(t *rapid.T) {
		r := newTree(t)
		crowd := rapid.SampledFrom([]int{0, 0, 30, 300}).Draw(t, "crowd")
		for i := range crowd {
			r.add(fmt.Sprint("crowd", i), unix.S_IFREG)
		}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			r.step(t)
		}
		r.check(dir)
		if !bytes.Equal(r.index(), r.again().index()) {
			t.Errorf("the same tree, made without detours, has other bytes")
		}
	}
}

// again makes the tree anew, in the order of its paths and without detours.
func (r *tree) again() *tree {
	anew := newTree(r.t)
	anew.device = r.device
	anew.must(anew.b.SetAttr(Root, r.b.Attr(Root)))
	made := map[Node]string{}
	for _, name := range slices.Sorted(maps.Keys(r.nodes)) {
		old := r.nodes[name]
		if old == Root {
			continue
		}
		if first, ok := made[old]; ok {
			anew.link(name, first)
			continue
		}
		made[old] = name
		n := anew.addAs(name, r.b.Attr(old))
		anew.must(anew.b.SetXattrs(n, r.b.Xattrs(old)))
		if content, ok := r.content[old]; ok {
			anew.place(n, content, r.extents[old]...)
		}
		if target, ok := r.target[old]; ok {
			anew.must(anew.b.SetTarget(n, target))
		}
	}
	return anew
}

func TestAnyTreeMounts(t *testing.T) {
	silentKernel(t)
	rapid.Check(t, anyTree(mounttest.Dir(t)))
}

func FuzzAnyTreeMounts(f *testing.F) {
	silentKernel(f)
	for seed := range 8 {
		f.Add(random(uint64(seed), 4096))
	}
	f.Fuzz(rapid.MakeFuzz(anyTree(mounttest.Dir(f))))
}
