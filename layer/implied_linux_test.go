package layer

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Directories without an entry are recorded: backends give them what lower layers say.
func TestImpliedDirectories(t *testing.T) {
	for name, c := range map[string]struct {
		tar  []byte
		want string
	}{
		"none":                       {archive(dir("./"), dir("a/"), file("a/b", "x")), "[]"},
		"the root":                   {archive(dir("a/"), file("a/b", "x")), "[.]"},
		"parents":                    {archive(file("a/b/c", "x")), "[. a a/b]"},
		"an entry comes later":       {archive(file("a/b/c", "x"), dir("a/b/"), dir("./")), "[a]"},
		"of a whiteout":              {archive(file("a/.wh.b", "")), "[. a]"},
		"in the place of a whiteout": {archive(dir("./"), file(".wh.a", ""), file("a/b", "x")), "[a]"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLease(t, newStore(t, testLimits))
			info, err := l.Unpack(context.Background(), Tree, "", bytes.NewReader(c.tar))
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%s", info.Implied); got != c.want {
				t.Errorf("implied %s, want %s", got, c.want)
			}
			if err := l.Commit(context.Background()); err != nil {
				t.Fatal(err)
			}
			if problems, err := l.store.Check(context.Background(), info.DiffID, Tree); err != nil || len(problems) > 0 {
				t.Errorf("check: %v, %v", problems, err)
			}
		})
	}
}

// overlayfs hides the whiteouts of a directory that no other layer has only if it is
// told that there may be some.
func TestDirectoriesWithWhiteoutsAreMarked(t *testing.T) {
	l := newLease(t, newStore(t, testLimits))
	// The entry of the directory comes after the whiteout, and must not undo the mark.
	info, err := l.Unpack(context.Background(), Tree, "", bytes.NewReader(archive(file("with/.wh.gone", ""), dir("with/"), dir("without/"))))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	for name, marked := range map[string]bool{"with": true, "without": false} {
		_, err := unix.Lgetxattr(filepath.Join(l.store.Path(info.DiffID, Tree), name), originXattr, nil)
		if got := err == nil; got != marked {
			t.Errorf("%s is marked: %v (%v), want %v", name, got, err, marked)
		}
	}
}
