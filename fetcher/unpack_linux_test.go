package fetcher

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"berth/container"
	"berth/internal/testrig"
)

func gzipped(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// by has a program compress.
func by(t *testing.T, program string, content []byte) []byte {
	t.Helper()
	cmd := exec.Command(program, "-c")
	cmd.Stdin = bytes.NewReader(content)
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

type zipEntry struct {
	name, content string
	mode          fs.FileMode
}

func zipOf(t testing.TB, entries ...zipEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		h.SetMode(e.mode)
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(e.content)); err != nil && !strings.HasSuffix(e.name, "/") {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArchivesAreUnpackedByTheirName(t *testing.T) {
	r := newRig(t)
	content := tarOf(t, tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o777}, tar.Header{Name: "./bin/tool", Mode: 0o6755, ModTime: time.Unix(1e9, 0)},
		tar.Header{Name: "bin/again", Typeflag: tar.TypeLink, Linkname: "bin/tool"},
		tar.Header{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "/usr/lib"}, tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o1755})
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, map[string][]byte{
		"/a.tar": content, "/a.tar.gz": gzipped(t, content), "/a.tgz": gzipped(t, content), "/a.tar.zst": z.EncodeAll(content, nil),
		"/a.tar.bz2": by(t, "bzip2", content), "/a.tbz2": by(t, "bzip2", content), "/a.tar.xz": by(t, "xz", content), "/a.txz": by(t, "xz", content),
		"/a.zip": zipOf(t, zipEntry{"d/", "", fs.ModeDir | 0o755}, zipEntry{"bin/tool", "content of ./bin/tool", 0o755 | fs.ModeSetuid},
			zipEntry{"bin/again", "content of ./bin/tool", 0o755}, zipEntry{"lib", "/usr/lib", fs.ModeSymlink | 0o777}),
	})
	tree := []string{"bin", "bin/again", "bin/tool", "d", "lib"}
	for path, content := range s.files {
		t.Run(path[1:], func(t *testing.T) {
			if content == nil {
				t.Skip("there is no program that compresses so")
			}
			check := func(sandbox string) {
				t.Helper()
				wantFile(t, filepath.Join(sandbox, "bin/tool"), []byte("content of ./bin/tool"), 0o755)
				wantFile(t, filepath.Join(sandbox, "bin/again"), []byte("content of ./bin/tool"), 0o755)
				if got, err := os.Readlink(filepath.Join(sandbox, "lib")); err != nil || got != "/usr/lib" {
					t.Errorf("link to %q, %v", got, err)
				}
				info, err := os.Lstat(filepath.Join(sandbox, "d"))
				if err != nil || info.Mode() != fs.ModeDir|0o755 || !ownedBy(filepath.Join(sandbox, "d"), nobody.uid) {
					t.Errorf("directory: %v, %v", info, err)
				}
			}
			direct, viaCache := r.fetched(uri(s.URL+path)), r.fetched(cached(s.URL+path))
			check(direct)
			check(viaCache)
			// As Mesos does it.
			if got := names(t, direct); !slices.Equal(got, slices.Sorted(slices.Values(append([]string{path[1:]}, tree...)))) {
				t.Errorf("the sandbox has %q", got)
			}
			if got := names(t, viaCache); !slices.Equal(got, tree) {
				t.Errorf("from the cache the sandbox has %q", got)
			}
		})
	}
	info, err := os.Stat(filepath.Join(r.fetched(uri(s.URL+"/a.tar")), "bin/tool"))
	if err != nil || !info.ModTime().Equal(time.Unix(1e9, 0)) {
		t.Errorf("time %v, %v", info.ModTime(), err)
	}
}

func TestOneCompressedFile(t *testing.T) {
	r := newRig(t)
	s := newSite(t, map[string][]byte{"/a.gz": gzipped(t, []byte("text")), "/b": gzipped(t, []byte("text"))})
	wantFile(t, filepath.Join(r.fetched(uri(s.URL+"/a.gz")), "a"), []byte("text"), 0o644)
	u := uri(s.URL + "/b")
	u.OutputFile = proto.String("d/c.gz")
	sandbox := r.fetched(u)
	wantFile(t, filepath.Join(sandbox, "d/c"), []byte("text"), 0o644)
	wantFile(t, filepath.Join(sandbox, "d/c.gz"), s.files["/b"], 0o644)
	if got := names(t, r.fetched(uri(s.URL+"/b"))); !slices.Equal(got, []string{"b"}) {
		t.Errorf("what has no such name became %q", got)
	}
}

// The last of several entries of one name wins, also where it is of another kind.
func TestOneNameTwice(t *testing.T) {
	r := newRig(t)
	victim := filepath.Join(r.dir, "victim")
	if err := os.WriteFile(victim, []byte("old"), 0o666); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, map[string][]byte{
		"/a.tar": tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeSymlink, Linkname: victim}, tar.Header{Name: "x"}),
		"/a.zip": zipOf(t, zipEntry{"x", victim, fs.ModeSymlink | 0o777}, zipEntry{"x", "content of x", 0o644}),
	})
	for path := range s.files {
		wantFile(t, filepath.Join(r.fetched(uri(s.URL+path)), "x"), []byte("content of x"), 0o644)
	}
	if got, err := os.ReadFile(victim); err != nil || string(got) != "old" {
		t.Errorf("the file of the host: %q, %v", got, err)
	}
}

func TestHostileArchives(t *testing.T) {
	r := newRig(t)
	r.limits.base, r.limits.entries, r.limits.directory = 1<<20, 1000, 64<<10
	host := filepath.Join(r.dir, "host")
	if err := os.MkdirAll(host, 0o777); err != nil {
		t.Fatal(err)
	}
	link := func(name, target string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}
	}
	many := make([]tar.Header, 1001)
	manyZip, listZip := make([]zipEntry, 1001), make([]zipEntry, 900)
	for i := range many {
		many[i] = tar.Header{Name: "same"}
	}
	for i := range manyZip {
		manyZip[i] = zipEntry{"s", "", 0o644}
	}
	for i := range listZip {
		listZip[i] = zipEntry{strings.Repeat("s", 100), "", 0o644}
	}
	good := tarOf(t, tar.Header{Name: "a"}, tar.Header{Name: "b"})
	files := map[string][]byte{
		"/climbs.tar":        tarOf(t, tar.Header{Name: "../host/x"}),
		"/climbs later.tar":  tarOf(t, tar.Header{Name: "a/../../host/x"}),
		"/absolute.tar":      tarOf(t, tar.Header{Name: host + "/x"}),
		"/through.tar":       tarOf(t, link("l", host), tar.Header{Name: "l/x"}),
		"/through up.tar":    tarOf(t, link("l", "../host"), tar.Header{Name: "l/x"}),
		"/through two.tar":   tarOf(t, link("a", "b"), link("b", ".."), tar.Header{Name: "a/host/x"}),
		"/directory.tar":     tarOf(t, link("l", host), tar.Header{Name: "l/", Typeflag: tar.TypeDir}),
		"/link in link.tar":  tarOf(t, link("l", host), link("l/x", "y")),
		"/hard link.tar":     tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "../host/x"}),
		"/hard through.tar":  tarOf(t, link("l", "/etc"), tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "l/passwd"}),
		"/hard absolute.tar": tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}),
		"/hard nothing.tar":  tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "y"}),
		"/hard dir.tar":      tarOf(t, tar.Header{Name: "d", Typeflag: tar.TypeDir}, tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "d"}),
		"/device.tar":        tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}),
		"/disk.tar":          tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeBlock, Devmajor: 8}),
		"/fifo.tar":          tarOf(t, tar.Header{Name: "x", Typeflag: tar.TypeFifo}),
		"/in a file.tar":     tarOf(t, tar.Header{Name: "x"}, tar.Header{Name: "x/y"}),
		"/over a dir.tar":    tarOf(t, tar.Header{Name: "x/y"}, tar.Header{Name: "x"}),
		"/deep.tar":          tarOf(t, tar.Header{Name: strings.Repeat("d/", 300) + "x"}),
		"/long.tar":          tarOf(t, tar.Header{Name: strings.Repeat("d", 300)}),
		"/many.tar":          tarOf(t, many...),
		"/bomb.gz":           gzipped(t, make([]byte, 4<<20)),
		"/bomb.tar.gz":       gzipped(t, make([]byte, 4<<20)),
		"/cut.tar":           good[:515],
		"/cut.tgz":           gzipped(t, good)[:60],
		"/no.tar":            bytes.Repeat([]byte("no tar"), 1000),
		"/no.gz":             []byte("no gzip"),
		"/no.zip":            []byte("no zip"),
		"/no.txz":            []byte("no xz"),
		"/no.tbz2":           []byte("no bzip2"),
		"/no.tar.zst":        []byte("no zstd"),
		"/climbs.zip":        zipOf(t, zipEntry{"../host/x", "", 0o644}),
		"/absolute.zip":      zipOf(t, zipEntry{host + "/x", "", 0o644}),
		"/through.zip":       zipOf(t, zipEntry{"l", host, fs.ModeSymlink | 0o777}, zipEntry{"l/x", "", 0o644}),
		"/device.zip":        zipOf(t, zipEntry{"x", "", fs.ModeDevice | fs.ModeCharDevice | 0o666}),
		"/fifo.zip":          zipOf(t, zipEntry{"x", "", fs.ModeNamedPipe | 0o666}),
		"/many.zip":          zipOf(t, manyZip...),
		"/list.zip":          zipOf(t, listZip...),
		"/bomb.zip":          zipOf(t, zipEntry{"x", strings.Repeat("\x00", 4<<20), 0o644}),
		"/cut.zip":           zipOf(t, zipEntry{"x", "text", 0o644})[:100],
	}
	r.limits.ratio = 2
	s := newSite(t, files)
	for path := range files {
		value := s.URL + strings.ReplaceAll(path, " ", "%20")
		if err := r.into(r.sandbox(), uri(value)); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%s: %v, want one of class ErrInvalid", path, err)
		}
		if got := names(t, host); len(got) > 0 {
			t.Fatalf("%s made %q outside of the sandbox", path, got)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add("a.tar", tarOf(f, tar.Header{Name: "a/b"}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}))
	f.Add("a.zip", zipOf(f, zipEntry{"a/b", "text", 0o644}, zipEntry{"l", "..", fs.ModeSymlink | 0o777}))
	f.Add("a.gz", gzipped(f, []byte("text")))
	f.Add("a.tar.bz2", []byte("BZh9"))
	f.Add("a.txz", []byte("\xfd7zXZ\x00"))
	f.Add("a.tar.zst", []byte("\x28\xb5\x2f\xfd"))
	testrig.RequireRoot(f)
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		name, err := cleanName(name)
		if err != nil || formatOf(name).kind == plain || len(name) > 100 {
			t.Skip("it is not the name of an archive")
		}
		dir := t.TempDir()
		sandbox, path := filepath.Join(dir, "sandbox"), filepath.Join(dir, "archive")
		if err := errors.Join(os.Mkdir(sandbox, 0o755), os.WriteFile(path, content, 0o600)); err != nil {
			t.Fatal(err)
		}
		tree, err := openTree(sandbox, nobody)
		if err != nil {
			t.Fatal(err)
		}
		defer tree.close()
		archive, err := openRegular(path)
		if err != nil {
			t.Fatal(err)
		}
		defer archive.Close()
		_ = tree.unpack(t.Context(), name, archive, limits{entries: 100, base: 1 << 20, ratio: 1, directory: 1 << 20})
		if got := names(t, dir); len(got) < 2 || got[0] != "archive" || got[1] != "sandbox" {
			t.Errorf("%q beside the sandbox", got)
		}
		err = filepath.WalkDir(sandbox, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == sandbox {
				return err
			}
			info, err := d.Info()
			if err == nil && (info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky|fs.ModeDevice|fs.ModeNamedPipe) != 0 || !ownedOrLink(path)) {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func ownedOrLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && (info.Mode().Type() == fs.ModeSymlink || ownedBy(path, nobody.uid))
}
