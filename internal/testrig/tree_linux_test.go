package testrig

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sampleTree has one entry of each kind, always with the same times.
func sampleTree(t *testing.T) writer {
	t.Helper()
	w := writer{t, TempDir(t)}
	w.mode(".", 0o755)
	w.dir("dir/sub", 0o755)
	w.file("file", 0o644, "content")
	w.file("setuid", 0o4755, "setuid")
	w.file("other", 0o644, "other")
	w.file("one", 0o644, "linked")
	w.link("one", "two")
	w.file("three", 0o644, "linked")
	w.link("three", "four")
	w.symlink("file", "symlink")
	w.node("device", unix.S_IFCHR|0o600, 1, 3)
	w.node("fifo", unix.S_IFIFO|0o600, 0, 0)
	w.file("xattr", 0o644, "")
	w.xattr("xattr", "user.a", "1")
	w.file("capable", 0o755, "")
	w.xattr("capable", "security.capability", fileCapability)
	settle(w)
	return w
}

// settle gives every entry the same time again.
func settle(w writer) {
	w.tb.Helper()
	entries, err := Manifest(w.root)
	w.check("read", w.root, err)
	for _, e := range entries {
		w.time(e.Path, mtimeNS)
	}
}

func TestCompareTreesSeesEachKindOfDifference(t *testing.T) {
	RequireRoot(t)
	replace := func(name string, make func(w writer)) func(writer) {
		return func(w writer) { w.remove(name); make(w) }
	}
	cases := []struct {
		name   string
		change func(w writer)
		time   bool     // leave the times that the change made
		want   []string // each `"path": field`; no other difference may be seen
	}{
		{name: "nothing", change: func(writer) {}},
		{name: "missing", change: func(w writer) { w.remove("file") }, want: []string{`"file": presence: want a regular file, got nothing`}},
		{name: "missing directory", change: func(w writer) { w.remove("dir") },
			want: []string{`"dir": presence`, `"dir/sub": presence`}},
		{name: "extra", change: func(w writer) { w.file("new", 0o644, "") }, want: []string{`"new": presence: want nothing, got a regular file`}},
		{name: "type", change: replace("file", func(w writer) { w.dir("file", 0o644) }),
			want: []string{`"file": type: want a regular file, got a directory`}},
		{name: "symlink to its target's copy", change: replace("symlink", func(w writer) { w.file("symlink", 0o777, "content") }),
			want: []string{`"symlink": type`}},
		{name: "block for character device", change: replace("device", func(w writer) { w.node("device", unix.S_IFBLK|0o600, 1, 3) }),
			want: []string{`"device": type`}},
		{name: "socket for FIFO", change: replace("fifo", func(w writer) { w.node("fifo", unix.S_IFSOCK|0o600, 0, 0) }),
			want: []string{`"fifo": type`}},
		{name: "mode", change: func(w writer) { w.mode("file", 0o600) }, want: []string{`"file": mode: want 0644, got 0600`}},
		{name: "mode of the root", change: func(w writer) { w.mode(".", 0o700) }, want: []string{`".": mode`}},
		{name: "setuid lost", change: func(w writer) { w.mode("setuid", 0o755) }, want: []string{`"setuid": mode: want 4755, got 0755`}},
		{name: "setgid", change: func(w writer) { w.mode("setuid", 0o6755) }, want: []string{`"setuid": mode`}},
		{name: "sticky", change: func(w writer) { w.mode("dir", 0o1755) }, want: []string{`"dir": mode`}},
		{name: "owner", change: func(w writer) { w.own("file", 1, 0) }, want: []string{`"file": owner: want 0:0, got 1:0`}},
		{name: "group", change: func(w writer) { w.own("file", 0, 1) }, want: []string{`"file": owner: want 0:0, got 0:1`}},
		{name: "owner of a symlink", change: func(w writer) { w.own("symlink", 1, 1) }, want: []string{`"symlink": owner`}},
		{name: "size", change: func(w writer) { w.file("file", 0o644, "content!") },
			want: []string{`"file": size: want 7, got 8`, `"file": content`}},
		{name: "content of the same size", change: func(w writer) { w.file("file", 0o644, "CONTENT") }, want: []string{`"file": content`}},
		{name: "one nanosecond", time: true, change: func(w writer) { w.time("file", mtimeNS.Add(1)) }, want: []string{`"file": mtime`}},
		{name: "time of a directory", time: true, change: func(w writer) { w.time("dir", mtimeNS.Add(time.Second)) }, want: []string{`"dir": mtime`}},
		{name: "time of a symlink", time: true, change: func(w writer) { w.time("symlink", mtimeNS.Add(time.Second)) },
			want: []string{`"symlink": mtime`}},
		{name: "a name more", change: func(w writer) { w.link("file", "dir/more") },
			want: []string{`"dir/more": presence`, `"file": links: want 1, got 2`, `"file": hard link`}},
		{name: "a link outside the tree", change: func(w writer) {
			outside := writer{w.tb, TempDir(w.tb)}
			w.check("link", "file", os.Link(w.path("file"), outside.path("file")))
		}, want: []string{`"file": links`}},
		{name: "a copy in place of a hard link", change: replace("two", func(w writer) { w.file("two", 0o644, "linked") }),
			want: []string{`"one": links: want 2, got 1`, `"two": links`, `"two": hard link: want one, got two`}},
		{name: "other hard links of the same counts", change: func(w writer) {
			w.remove("two")
			w.remove("four")
			w.link("three", "two")
			w.link("one", "four")
		}, want: []string{`"one": hard link: want one, got four`, `"three": hard link`, `"two": hard link`}},
		{name: "target", change: replace("symlink", func(w writer) { w.symlink("/file", "symlink") }), want: []string{`"symlink": target`}},
		{name: "minor", change: replace("device", func(w writer) { w.node("device", unix.S_IFCHR|0o600, 1, 5) }),
			want: []string{`"device": device: want 1:3, got 1:5`}},
		{name: "major", change: replace("device", func(w writer) { w.node("device", unix.S_IFCHR|0o600, 5, 3) }), want: []string{`"device": device`}},
		{name: "xattr's value", change: func(w writer) { w.xattr("xattr", "user.a", "2") }, want: []string{`"xattr": xattrs`}},
		{name: "xattr more", change: func(w writer) { w.xattr("file", "user.a", "") }, want: []string{`"file": xattrs`}},
		{name: "xattr of a directory", change: func(w writer) { w.xattr("dir", "user.a", "") }, want: []string{`"dir": xattrs`}},
		{name: "xattr less", change: func(w writer) { w.check("remove", "xattr", unix.Lremovexattr(w.path("xattr"), "user.a")) },
			want: []string{`"xattr": xattrs`}},
		{name: "trusted xattr", change: func(w writer) { w.xattr("symlink", "trusted.a", "") }, want: []string{`"symlink": xattrs`}},
		{name: "capability lost", change: func(w writer) {
			w.check("remove", "capable", unix.Lremovexattr(w.path("capable"), "security.capability"))
		}, want: []string{`"capable": xattrs`}},
		{name: "overlayfs's own xattrs", change: func(w writer) {
			w.xattr("dir", "trusted.overlay.opaque", "y")
			w.xattr("file", "user.overlay.redirect", "y")
			w.xattr("file", "user.rootlesscontainers", "y")
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			want, got := sampleTree(t), sampleTree(t)
			c.change(got)
			if !c.time {
				settle(got)
			}
			r := record(t, func(tb testing.TB) { CompareTrees(tb, want.root, got.root) })
			if len(r.errors) != len(c.want) {
				t.Fatalf("found\n%s\nwant\n%s", strings.Join(r.errors, "\n"), strings.Join(c.want, "\n"))
			}
			for i, prefix := range c.want {
				if !strings.HasPrefix(r.errors[i], prefix) {
					t.Errorf("found %s, want %s...", r.errors[i], prefix)
				}
			}
		})
	}
}

func TestAnExceptionExcusesItsFieldAlone(t *testing.T) {
	want := []Entry{{Path: "a", Mode: 1, UID: 1}, {Path: "b", Mode: 1}}
	got := []Entry{{Path: "a", Mode: 2, UID: 2}, {Path: "b", Mode: 2}}
	onlyA := func(p string) bool { return p == "a" }
	for _, c := range []struct {
		except Exception
		left   int
	}{
		{Exception{Field: Mode}, 1},
		{Exception{Field: Mode, Path: onlyA}, 2},
		{Exception{Field: Owner, Path: onlyA}, 2},
		{Exception{Field: MTime}, 3},
		{Exception{Field: Presence}, 3},
	} {
		if diffs := Compare(want, got, c.except); len(diffs) != c.left {
			t.Errorf("with %s excused there are %d differences, want %d: %q", c.except.Field, len(diffs), c.left, diffs)
		}
	}
}

func TestCompareTreesReportsAFew(t *testing.T) {
	want, got := writer{t, TempDir(t)}, writer{t, TempDir(t)}
	for i := range 100 {
		got.file(fmt.Sprintf("%03d", i), 0o644, "")
	}
	for _, w := range []writer{want, got} {
		w.time(".", mtimeNS)
	}
	r := record(t, func(tb testing.TB) { CompareTrees(tb, want.root, got.root) })
	if len(r.errors) != mostReported+1 {
		t.Errorf("%d errors, want %d", len(r.errors), mostReported+1)
	}
	if last := r.errors[len(r.errors)-1]; !strings.Contains(last, "and 70 more") {
		t.Errorf("the last error is %q", last)
	}
}

func TestCompareTreesFailsOnATreeThatIsNotThere(t *testing.T) {
	dir := TempDir(t)
	for _, pair := range [][2]string{{dir, dir + "/none"}, {dir + "/none", dir}} {
		if r := record(t, func(tb testing.TB) { CompareTrees(tb, pair[0], pair[1]) }); !r.failed {
			t.Errorf("comparing %q does not fail", pair)
		}
	}
}
