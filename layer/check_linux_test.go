package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/image"
)

// specimen has one of everything that Check looks at.
var specimen = []member{
	dir("./"),
	dir("d"),
	file("d/file", strings.Repeat("0123456789", 100)).xattr("user.a", "b"),
	hardLink("d/hard", "d/file"),
	symlink("d/soft", "file").xattr("trusted.a", "b"),
	file("d/empty", ""),
	device("d/null", '3', 1, 3),
	device("d/pipe", '6', 0, 0),
	sparse("d/sparse", 1<<20, "0,3,65536,3", "abcdef"),
	file("d/.wh.gone", ""),
	dir("o").xattr("user.a", "b"),
	file("o/.wh..wh..opq", ""),
	file(".wh.w", ""),
	file("w/x", ""),
	file("implied/x", ""),
}

func TestCheckFinds(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(d damage)
		path   string
		says   string
	}{
		{"a flipped byte", func(d damage) { d.flip("fs/d/file", 500) }, "d/file", "content has changed"},
		{"a truncated file", func(d damage) { d.must(os.Truncate(d.path("fs/d/file"), 999)) }, "d/file", "its size is 999, not 1000"},
		{"a longer file", func(d damage) { d.must(os.Truncate(d.path("fs/d/file"), 1001)) }, "d/file", "its size is 1001, not 1000"},
		{"an empty file that has content", func(d damage) { d.write("fs/d/empty", "x") }, "d/empty", "its size is 1, not 0"},
		{"a flipped byte in a sparse file", func(d damage) { d.flip("fs/d/sparse", 65537) }, "d/sparse", "content has changed"},
		{"a flipped byte in a hole", func(d damage) { d.flip("fs/d/sparse", 70000) }, "d/sparse", "content has changed"},
		{"a truncated sparse file", func(d damage) { d.must(os.Truncate(d.path("fs/d/sparse"), 70000)) }, "d/sparse", "size"},
		{"a missing file", func(d damage) { d.remove("fs/d/empty") }, "d/empty", "missing"},
		{"a missing directory", func(d damage) { d.remove("fs/o") }, "o", "missing"},
		{"a missing implied directory", func(d damage) { d.remove("fs/implied") }, "implied/x", "directory"},
		{"a missing hard link", func(d damage) { d.remove("fs/d/hard") }, "d/hard", "missing"},
		{"an extra file", func(d damage) { d.write("fs/d/extra", "") }, "d/extra", "the tar does not have it"},
		{"an extra directory", func(d damage) { d.must(os.Mkdir(d.path("fs/extra"), 0o755)) }, "extra", "the tar does not have it"},
		{"an extra whiteout", func(d damage) { d.mknod("fs/d/extra", 0) }, "d/extra", "the tar does not have it"},
		{"a renamed file", func(d damage) { d.must(os.Rename(d.path("fs/d/empty"), d.path("fs/d/renamed"))) }, "d/renamed", "the tar does not have it"},
		{"a mode", func(d damage) { d.must(os.Chmod(d.path("fs/d/empty"), 0o645)) }, "d/empty", "its mode is 0645, not 0644"},
		{"a setuid bit", func(d damage) { d.must(unix.Chmod(d.path("fs/d/empty"), 0o4644)) }, "d/empty", "its mode is 4644, not 0644"},
		{"the mode of a directory", func(d damage) { d.must(os.Chmod(d.path("fs/d"), 0o700)) }, "d", "its mode is 0700"},
		{"the mode of the root", func(d damage) { d.must(os.Chmod(d.path("fs"), 0o700)) }, "", "its mode is 0700"},
		{"the mode of an implied directory", func(d damage) { d.must(os.Chmod(d.path("fs/implied"), 0o700)) }, "implied", "its mode is 0700"},
		{"an owner", func(d damage) { d.must(os.Lchown(d.path("fs/d/soft"), 1, 0)) }, "d/soft", "its owner is 1:0, not 0:0"},
		{"a group", func(d damage) { d.must(os.Lchown(d.path("fs/d/null"), 0, 1)) }, "d/null", "its owner is 0:1, not 0:0"},
		{"a time", func(d damage) { d.must(os.Chtimes(d.path("fs/d/empty"), time.Time{}, time.Unix(1e9, 1))) }, "d/empty", "time of modification"},
		{"the time of a directory", func(d damage) { d.must(os.Chtimes(d.path("fs/o"), time.Time{}, time.Unix(1, 0))) }, "o", "time of modification"},
		{"a link's target", func(d damage) {
			d.replace("fs/d/soft", func(path string) error { return os.Symlink("elsewhere", path) })
		}, "d/soft", `it links to "elsewhere"`},
		{"a device number", func(d damage) {
			d.replace("fs/d/null", func(path string) error { return unix.Mknod(path, unix.S_IFCHR, int(unix.Mkdev(1, 5))) })
		}, "d/null", "1:5, not 1:3"},
		{"a type", func(d damage) {
			d.replace("fs/d/empty", func(path string) error { return unix.Mkfifo(path, 0o644) })
		}, "d/empty", "its type is"},
		{"a pipe in the place of a file with content", func(d damage) {
			d.replace("fs/d/file", func(path string) error { return unix.Mkfifo(path, 0o644) })
		}, "d/file", "not a regular file"},
		{"a directory in the place of a file", func(d damage) {
			d.replace("fs/d/file", func(path string) error { return os.Mkdir(path, 0o644) })
		}, "d/file", "its type is"},
		{"a link in the place of a directory", func(d damage) {
			d.must(os.Rename(d.path("fs/o"), d.path("elsewhere")))
			d.must(os.Symlink("../elsewhere", d.path("fs/o")))
		}, "o", "its type is"},
		{"a copy in the place of a hard link", func(d damage) {
			d.replace("fs/d/hard", func(path string) error {
				return os.WriteFile(path, []byte(strings.Repeat("0123456789", 100)), 0o644)
			})
		}, "d/hard", "no longer the same file"},
		{"an attribute that has changed", func(d damage) { d.setxattr("fs/d/file", "user.a", "c") }, "d/file", `attribute "user.a" has changed`},
		{"an attribute that is gone", func(d damage) { d.must(unix.Lremovexattr(d.path("fs/d/soft"), "trusted.a")) }, "d/soft", `attribute "trusted.a" has changed`},
		{"an attribute that is new", func(d damage) { d.setxattr("fs/d/empty", "user.new", "") }, "d/empty", `"user.new" of its own`},
		{"an attribute that steers overlayfs", func(d damage) { d.setxattr("fs/d/empty", "trusted.overlay.metacopy", "") }, "d/empty", "of its own"},
		{"a whiteout that is gone", func(d damage) { d.remove("fs/d/gone") }, "d/gone", "its whiteout is missing"},
		{"a whiteout that is a file", func(d damage) {
			d.replace("fs/d/gone", func(path string) error { return os.WriteFile(path, nil, 0o600) })
		}, "d/gone", "no longer a whiteout"},
		{"a whiteout that is another device", func(d damage) {
			d.replace("fs/d/gone", func(path string) error { return unix.Mknod(path, unix.S_IFCHR, int(unix.Mkdev(1, 3))) })
		}, "d/gone", "no longer a whiteout"},
		{"an opaque directory that is not", func(d damage) { d.must(unix.Lremovexattr(d.path("fs/o"), opaqueXattr)) }, "o", "no longer opaque"},
		{"an opaque directory, by a whiteout, that is not", func(d damage) { d.must(unix.Lremovexattr(d.path("fs/w"), opaqueXattr)) }, "w", "no longer opaque"},
		{"an opaque directory with another value", func(d damage) { d.setxattr("fs/o", opaqueXattr, "x") }, "o", "no longer opaque"},
		{"a directory that is opaque", func(d damage) { d.setxattr("fs/d", opaqueXattr, "y") }, "d", "it is opaque"},
		{"a root that is opaque", func(d damage) { d.setxattr("fs", opaqueXattr, "y") }, "", "it is opaque"},
		{"no tree", func(d damage) { d.remove("fs") }, "", "its tree is missing"},
		{"a tree that is a file", func(d damage) { d.remove("fs"); d.write("fs", "") }, "", "its tree is missing"},
		{"no split", func(d damage) { d.remove("split.zst") }, "", "its tar cannot be made again"},
		{"an empty split", func(d damage) { d.write("split.zst", "") }, "", "its tar has the digest"},
		{"a damaged split", func(d damage) { d.flip("split.zst", 100) }, "", "its tar cannot be made again"},
		{"a truncated split", func(d damage) { d.must(os.Truncate(d.path("split.zst"), 200)) }, "", "its tar cannot be made again"},
		{"a split of another layer", func(d damage) { d.splitOf(file("d/file", "x")) }, "", "its tar has the digest"},
		{"no record", func(d damage) { d.remove("info.json") }, "", "its record is damaged"},
		{"a torn record", func(d damage) { d.must(os.Truncate(d.path("info.json"), 20)) }, "", "its record is damaged"},
		{"a wrong record", func(d damage) { d.edit("info.json", `"nodes":`, `"nodes":1`) }, "", "its record is"},
		{"a record of another layer", func(d damage) { d.edit("info.json", `sha256:`, `sha256:`+strings.Repeat("0", 64)+`","x":"`) }, "", "its record is"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t, testLimits)
			info := addLayer(t, s, archive(specimen...))
			wantClean(t, s, info.DiffID)
			c.damage(damage{t, s, s.formDir(info.DiffID, Tree)})
			for _, p := range check(t, s, info.DiffID) {
				if p.Path == c.path && strings.Contains(p.String(), c.says) {
					return
				}
			}
			t.Errorf("found %v, want %q: %q", check(t, s, info.DiffID), c.path, c.says)
		})
	}
}

// damage changes the files of a layer.
type damage struct {
	t     *testing.T
	store *Store
	form  string
}

func (d damage) path(name string) string { return filepath.Join(d.form, name) }

func (d damage) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d damage) remove(name string) { d.must(os.RemoveAll(d.path(name))) }

func (d damage) write(name, data string) { d.must(os.WriteFile(d.path(name), []byte(data), 0o600)) }

func (d damage) mknod(name string, dev int) { d.must(unix.Mknod(d.path(name), unix.S_IFCHR, dev)) }

func (d damage) setxattr(name, attribute, value string) {
	d.must(unix.Lsetxattr(d.path(name), attribute, []byte(value), 0))
}

func (d damage) replace(name string, with func(path string) error) {
	d.remove(name)
	d.must(with(d.path(name)))
}

// flip changes one bit and keeps the times, as a failing disk does.
func (d damage) flip(name string, at int64) {
	stat, err := os.Stat(d.path(name))
	d.must(err)
	f, err := os.OpenFile(d.path(name), os.O_RDWR, 0)
	d.must(err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	d.must(err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], at)
	d.must(err)
	d.must(os.Chtimes(d.path(name), stat.ModTime(), stat.ModTime()))
}

func (d damage) edit(name, old, with string) {
	data, err := os.ReadFile(d.path(name))
	d.must(err)
	d.write(name, strings.Replace(string(data), old, with, 1))
}

func (d damage) splitOf(members ...member) {
	other := addLayer(d.t, d.store, archive(members...))
	d.must(os.Rename(filepath.Join(d.store.formDir(other.DiffID, Tree), "split.zst"), d.path("split.zst")))
}

func TestCheckChangesNothing(t *testing.T) {
	s := newStore(t, testLimits)
	info := addLayer(t, s, archive(specimen...))
	before := withTimes(t, s.Dir())
	wantClean(t, s, info.DiffID)
	wantTree(t, withTimes(t, s.Dir()), before)
	if info.Entries != len(specimen) || info.Whiteouts != 3 {
		t.Errorf("the record is %+v", info)
	}
}

// withTimes is look with the times of modification and change.
func withTimes(t *testing.T, dir string) map[string]string {
	t.Helper()
	seen := look(t, dir)
	for name := range seen {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Fatal(err)
		}
		seen[name] += fmt.Sprint(" ", st.Mtim, st.Ctim)
	}
	return seen
}

func TestCheckOfMuchDamageIsShort(t *testing.T) {
	s := newStore(t, testLimits)
	info := addLayer(t, s, archive(many(1000, func(i int) member { return file(fmt.Sprint(i), "x") })...))
	err := filepath.WalkDir(s.Path(info.DiffID, Tree), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if found := check(t, s, info.DiffID); len(found) != maxProblems {
		t.Errorf("%d problems are told", len(found))
	}
}

func TestCheckThatCannotBeDone(t *testing.T) {
	s := newStore(t, testLimits)
	info := addLayer(t, s, archive(specimen...))
	_, err := s.Check(context.Background(), image.DigestOf(nil), Tree)
	if !errors.Is(err, container.ErrNotFound) {
		t.Errorf("check of an absent layer: %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	enough := errors.New("enough")
	cancel(enough)
	if found, err := s.Check(ctx, info.DiffID, Tree); !errors.Is(err, enough) || found != nil {
		t.Errorf("check that was cancelled: %v, %v", found, err)
	}
	damage{t, s, s.formDir(info.DiffID, Tree)}.edit("info.json", `"version":1`, `"version":2`)
	if _, err := s.Check(context.Background(), info.DiffID, Tree); !errors.Is(err, container.ErrNotSupported) {
		t.Errorf("check of a layer of a newer version: %v", err)
	}
	if _, err := s.Info(info.DiffID, Tree); !errors.Is(err, container.ErrNotSupported) {
		t.Errorf("record of a newer version: %v", err)
	}
}
