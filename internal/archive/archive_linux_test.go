package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
)

func open(t *testing.T, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestATreeComesOutAsItWentIn(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	when := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	must(t, os.MkdirAll(from+"/tree/sub", 0o755))
	must(t, os.WriteFile(from+"/tree/sub/file", []byte("content"), 0o640))
	must(t, os.Chmod(from+"/tree/sub/file", 0o640|fs.ModeSetuid))
	must(t, os.Chtimes(from+"/tree/sub/file", when, when))
	must(t, os.Symlink("/etc/passwd", from+"/tree/link"))
	must(t, unix.Mkfifo(from+"/tree/fifo", 0o644))
	must(t, os.Chmod(from+"/tree/sub", 0o700))
	must(t, os.Chtimes(from+"/tree/sub", when, when))

	var text bytes.Buffer
	must(t, Pack(t.Context(), &text, open(t, from), "tree", "tree"))
	must(t, Unpack(t.Context(), bytes.NewReader(text.Bytes()), open(t, to), ""))
	must(t, Unpack(t.Context(), bytes.NewReader(text.Bytes()), open(t, to), "other"))
	must(t, Unpack(t.Context(), bytes.NewReader(text.Bytes()), open(t, to), "other")) // over itself
	for _, tree := range []string{to + "/tree", to + "/other"} {
		data, err := os.ReadFile(tree + "/sub/file")
		info, statErr := os.Stat(tree + "/sub/file")
		if err != nil || statErr != nil || string(data) != "content" || info.Mode() != 0o640 || !info.ModTime().Equal(when) {
			t.Errorf("the file is %q, %v, %v, %v", data, info, err, statErr)
		}
		if info, err := os.Stat(tree + "/sub"); err != nil || info.Mode() != fs.ModeDir|0o700 || tree == to+"/tree" && !info.ModTime().Equal(when) {
			t.Errorf("the directory is %v, %v", info, err)
		}
		if target, err := os.Readlink(tree + "/link"); err != nil || target != "/etc/passwd" {
			t.Errorf("the link leads to %q, %v", target, err)
		}
		if _, err := os.Lstat(tree + "/fifo"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the FIFO: %v", err)
		}
	}
	if err := Pack(t.Context(), &text, open(t, from), "none", "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}

// What is read is what is there, not what a link in its place leads to (CVE-2018-15664).
func TestALinkInThePlaceOfAFileIsNotFollowed(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("hush"), 0o600))
	from := t.TempDir()
	must(t, os.Symlink(secret, from+"/file"))
	must(t, os.Symlink(filepath.Dir(secret), from+"/dir"))
	for _, name := range []string{"file", "dir", "dir/secret"} {
		var text bytes.Buffer
		err := Pack(t.Context(), &text, open(t, from), name, "x")
		if strings.Contains(text.String(), "hush") {
			t.Errorf("%s: read (%v)", name, err)
		}
	}
}

type entry struct {
	name, link string
	kind       byte
}

func tarOf(t *testing.T, entries ...entry) *bytes.Buffer {
	t.Helper()
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: 0o644}
		if e.kind == tar.TypeReg {
			h.Size = 4
		}
		must(t, w.WriteHeader(h))
		if e.kind == tar.TypeReg {
			_, err := w.Write([]byte("evil"))
			must(t, err)
		}
	}
	must(t, w.Close())
	return &text
}

func TestNoEntryIsMadeOutsideOfTheDirectory(t *testing.T) {
	for attack, entries := range map[string][]entry{
		"dots":                            {{"../x", "", tar.TypeReg}},
		"dots inside":                     {{"a/../../x", "", tar.TypeReg}},
		"absolute":                        {{"/x", "", tar.TypeReg}},
		"a link out, then through it":     {{"l", "..", tar.TypeSymlink}, {"l/x", "", tar.TypeReg}},
		"an absolute link, then through":  {{"l", "OUTSIDE", tar.TypeSymlink}, {"l/x", "", tar.TypeReg}},
		"a link out, then a directory":    {{"l", "OUTSIDE", tar.TypeSymlink}, {"l", "", tar.TypeDir}},
		"a link that was there, through":  {{"there/x", "", tar.TypeReg}},
		"a hard link to the outside":      {{"h", "OUTSIDE/secret", tar.TypeLink}},
		"a device":                        {{"d", "", tar.TypeBlock}},
		"a FIFO":                          {{"f", "", tar.TypeFifo}},
		"a link out of the top, then it ": {{"top", "OUTSIDE", tar.TypeSymlink}, {"top/x", "", tar.TypeReg}},
	} {
		t.Run(attack, func(t *testing.T) {
			base := t.TempDir()
			outside := filepath.Join(base, "outside")
			must(t, os.MkdirAll(outside, 0o755))
			must(t, os.MkdirAll(base+"/in/side", 0o755))
			must(t, os.WriteFile(outside+"/secret", nil, 0o600))
			must(t, os.Symlink(outside, base+"/in/side/there"))
			for i := range entries {
				entries[i].link = strings.Replace(entries[i].link, "OUTSIDE", outside, 1)
			}
			err := Unpack(t.Context(), tarOf(t, entries...), open(t, base+"/in/side"), "")
			if !errors.Is(err, container.ErrInvalid) && !errors.Is(err, container.ErrFailedPrecondition) {
				t.Errorf("the error is %v", err)
			}
			for _, dir := range []string{outside, base, base + "/in"} {
				if _, err := os.Lstat(dir + "/x"); err == nil {
					t.Errorf("it is in %s", dir)
				}
			}
			if names, err := os.ReadDir(outside); err != nil || len(names) != 1 {
				t.Errorf("outside is %v, %v", names, err)
			}
		})
	}
}

// A link in the place of a file that comes is replaced, not written through.
func TestALinkIsReplaced(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(outside, []byte("good"), 0o600))
	must(t, os.Symlink(outside, dir+"/file"))
	must(t, Unpack(t.Context(), tarOf(t, entry{"file", "", tar.TypeReg}), open(t, dir), ""))
	good, err := os.ReadFile(outside)
	info, statErr := os.Lstat(dir + "/file")
	if err != nil || statErr != nil || string(good) != "good" || !info.Mode().IsRegular() {
		t.Errorf("%q, %v, %v, %v", good, info, err, statErr)
	}
}

// While it is read, a container swaps a directory and a link to the host's.
func TestWhoSwapsLinksAndDirectories(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(outside+"/file", []byte("hush"), 0o600))
	from := t.TempDir()
	must(t, os.MkdirAll(from+"/top/dir", 0o755))
	must(t, os.WriteFile(from+"/top/dir/file", []byte("mine"), 0o600))
	must(t, os.Symlink(outside, from+"/top/link"))
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	swapped := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			_ = unix.Renameat2(unix.AT_FDCWD, from+"/top/dir", unix.AT_FDCWD, from+"/top/link", unix.RENAME_EXCHANGE)
		}
		swapped <- n
	}()
	root := open(t, from)
	for reads := 0; ctx.Err() == nil; reads++ {
		var text bytes.Buffer
		_ = Pack(t.Context(), &text, root, "top", "top") // an error is as good as a link
		_ = Pack(t.Context(), &text, root, "top/dir/file", "file")
		if strings.Contains(text.String(), "hush") {
			t.Error("the host's file was read")
			break
		}
		_ = Unpack(t.Context(), tarOf(t, entry{"top/dir/new", "", tar.TypeReg}), root, "")
	}
	stop()
	if n := <-swapped; n < 10 {
		t.Errorf("it was swapped %d times", n)
	}
	if _, err := os.Lstat(outside + "/new"); err == nil {
		t.Error("the host has got a file")
	}
}
