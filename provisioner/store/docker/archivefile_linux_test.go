package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/image"
	"berth/internal/testrig"
	"berth/provisioner/store/fetch"
	"berth/provisioner/store/storetest"
)

// findIn resolves a reference in an archive that is in memory.
func findIn(ctx context.Context, content []byte, name image.Name) (*fetch.Resolved, error) {
	members, err := fetch.IndexMembers(ctx, bytes.NewReader(content), int64(len(content)))
	if err != nil {
		return nil, err
	}
	a := archive{reference: image.Reference{Transport: image.DockerArchive, Path: "x", Name: name}, want: image.HostPlatform(), members: members}
	return a.find(ctx)
}

// However an archive is cut, that is seen before anything of it is used.
func TestArchiveCutAnywhere(t *testing.T) {
	for name, layout := range layouts {
		t.Run(name, func(t *testing.T) {
			all := layout(archivedImage("a:1", layerA, layerC))
			whole := storetest.Tar(all...)
			end := len(withoutEnd(all)) // two blocks of zeros follow, and one is enough
			for at := range whole {
				if onBlock := at%512 <= 1 || at%512 == 511; !onBlock && at%97 != 0 {
					continue
				}
				_, err := findIn(t.Context(), whole[:at], image.Name{})
				switch {
				case at == end+512:
					if err != nil {
						t.Errorf("with one block of zeros: %v", err)
					}
				case at == 0:
					storetest.WantError(t, err, container.ErrInvalid, "not a tar archive")
				default:
					if !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), fmt.Sprintf("the file is cut off: it ends after %d bytes", at)) {
						t.Errorf("cut at %d of %d: %v", at, len(whole), err)
					}
				}
			}
		})
	}
}

func TestMemberThatSaysToBeLargerThanTheFile(t *testing.T) {
	for _, size := range []int64{9000, 1 << 40, math.MaxInt64 - 600, math.MaxInt64} {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		must(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "manifest.json", Size: size, Format: tar.FormatGNU}))
		out.Write(make([]byte, 8192))
		_, err := findIn(t.Context(), out.Bytes(), image.Name{})
		storetest.WantError(t, err, container.ErrInvalid, "the file is cut off")
	}
}

func TestArchiveCutInHalf(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(b.dir, "half.tar")
	whole := storetest.Tar(saved(archivedImage("a:1", layerA, layerB))...)
	writeFile(t, file, whole[:len(whole)/2])
	storetest.WantError(t, b.fails(t, named("docker-archive:"+file)), container.ErrInvalid,
		"pull docker-archive:"+file+": read archive: ", "the file is cut off")
	b.wantNothing(t)
	writeFile(t, file, whole)
	b.pull(t, named("docker-archive:"+file))
}

func TestWhatIsNoArchiveFile(t *testing.T) {
	b := newBench(t)
	fifo := filepath.Join(b.dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path  string
		class error
		says  string
	}{
		{filepath.Join(b.dir, "none.tar"), container.ErrNotFound, "no such file or directory"},
		{fifo, container.ErrInvalid, "read archive " + fifo + ": invalid: it is not a regular file"},
		{b.dir, container.ErrInvalid, "it is not a regular file"},
		{"/dev/zero", container.ErrInvalid, "it is not a regular file"},
	} {
		storetest.WantError(t, b.fails(t, named("docker-archive:"+c.path)), c.class, "pull docker-archive:"+c.path+": ", c.says)
	}
	b.wantNothing(t)
}

func TestAChangedArchiveIsReadAgain(t *testing.T) {
	long := time.Unix(1e9, 0)
	for _, c := range []struct {
		name   string
		change func(t *testing.T, file string, content []byte)
	}{
		{"another file in its place", func(t *testing.T, file string, content []byte) { writeFile(t, file, content) }},
		{"written over, with the old size and modification time", func(t *testing.T, file string, content []byte) {
			if err := os.WriteFile(file, content, 0o600); err != nil { // the inode stays
				t.Fatal(err)
			}
			if err := os.Chtimes(file, long, long); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			file := filepath.Join(b.dir, "a.tar")
			old := storetest.Tar(saved(archivedImage("a:1", layerA))...)
			changed := storetest.Tar(saved(archivedImage("a:1", storetest.Layer("x", 5000)))...)
			if len(old) != len(changed) {
				t.Fatalf("the archives have %d and %d bytes", len(old), len(changed))
			}
			writeFile(t, file, old)
			if err := os.Chtimes(file, long, long); err != nil {
				t.Fatal(err)
			}
			first := b.pull(t, named("docker-archive:"+file))
			opened := newOpens(t)
			opened.add(file)
			if again := b.pull(t, named("docker-archive:"+file)); again.ID != first.ID || opened.count() != 0 {
				t.Errorf("the unchanged file was opened %d times", opened.count())
			}
			c.change(t, file, changed)
			if again := b.pull(t, named("docker-archive:"+file)); again.ID == first.ID {
				t.Error("got the image that the file had before")
			}
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			storetest.WantError(t, b.fails(t, named("docker-archive:"+file)), container.ErrNotFound, file)
		})
	}
}

// A file that takes the place of the one that is being read is not the recorded one.
func TestArchiveReplacedWhileItIsRead(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(b.dir, "a.tar")
	writeArchive(t, file, saved(archivedImage("a:1", layerA)))
	src, err := openArchive(mustParse(t, "docker-archive:"+file), image.HostPlatform(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	writeArchive(t, file, saved(archivedImage("a:1", layerB)))
	found, err := src.Resolve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(found.Parsed.DiffIDs, digestsOf(layerA)) {
		t.Errorf("read %v, opened was %v", found.Parsed.DiffIDs, digestsOf(layerA))
	}
	if found.File.Unchanged() {
		t.Error("the new file passes for the one that was read")
	}
}

func TestRelativePathOfAnArchive(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(b.dir, "a.tar")
	writeArchive(t, file, saved(archivedImage("a:1", layerA)))
	opened := newOpens(t)
	opened.add(file)
	t.Chdir(b.dir)
	got := b.pull(t, named("docker-archive:a.tar"))
	if want := "docker-archive:" + file; got.Reference != want {
		t.Errorf("recorded as %s, want %s", got.Reference, want)
	}
	before := opened.count()
	t.Chdir("/")
	b.pull(t, named("docker-archive:"+file))
	if n := opened.count() - before; n != 0 {
		t.Errorf("by its other name, the file was opened %d times", n)
	}
	storetest.WantError(t, b.fails(t, named("docker-archive:a.tar")), container.ErrNotFound, "/a.tar")
	t.Chdir(b.dir)
	if err := b.Remove(t.Context(), named("docker-archive:./a.tar")); err != nil {
		t.Error(err)
	}
}

func TestRelativePathBelowAnOddDirectory(t *testing.T) {
	for _, name := range []string{"a:b", "a\nb", "a\xff"} {
		b := newBench(t)
		dir := filepath.Join(b.dir, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		t.Chdir(dir)
		writeArchive(t, "a.tar", saved(archivedImage("a:1", layerA)))
		storetest.WantError(t, b.fails(t, named("docker-archive:a.tar")), container.ErrInvalid, "its path from the root", "move or link the file")
		b.wantNothing(t)
	}
}

// GNU tar stores files with holes in forms of its own.
func TestSparseMembers(t *testing.T) {
	testrig.RequireTools(t, "tar")
	b := newBench(t)
	holes, err := os.Create(filepath.Join(b.dir, "holes"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(holes.Truncate(8<<20), holes.Close()); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "posix"} {
		file := filepath.Join(b.dir, format+".tar")
		if out, err := exec.CommandContext(t.Context(), "tar", "--sparse", "--format="+format, "-C", b.dir, "-cf", file, "holes").CombinedOutput(); err != nil {
			t.Fatalf("tar: %v: %s", err, out)
		}
		storetest.WantError(t, b.fails(t, named("docker-archive:"+file)), container.ErrNotSupported, `member "holes"`, "sparse", "pack the archive without --sparse")
	}
}

func TestReadingAnArchiveCanBeCancelled(t *testing.T) {
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	_, err := findIn(ctx, storetest.Tar(saved(archivedImage("a:1", layerA))...), image.Name{})
	storetest.WantError(t, err, enough)

	content := storetest.Tar(savedBefore110(archivedImage("a:1", layerA))...)
	members, err := fetch.IndexMembers(t.Context(), bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	a := archive{want: image.HostPlatform(), members: members}
	_, err = a.find(ctx) // digests the layers
	storetest.WantError(t, err, enough, "layer.tar")
}

// What skopeo makes of an image in a registry is the same image, in one file.
func TestArchivesOfSkopeo(t *testing.T) {
	testrig.RequireTools(t, "skopeo")
	r, b := newTestRegistry(t), newBench(t)
	r.push(t, "orig", "1", madeImage{docker: true, layers: []madeLayer{gzipped(layerA), gzipped(layerB), gzipped(layerA), gzipped(layerC)}})
	want := b.pull(t, r.ref("orig:1"))
	for _, c := range []struct{ name, target, ask string }{
		{"named", "docker-archive:%s:skopeo.example/copy:3", "docker-archive:%s:skopeo.example/copy:3"},
		{"the only one", "docker-archive:%s:skopeo.example/copy:3", "docker-archive:%s"},
		{"nameless", "docker-archive:%s", "docker-archive:%s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(testrig.TempDir(t), "skopeo.tar")
			testrig.Skopeo(t, "copy", "--src-tls-verify=false", "docker://"+r.host+"/orig:1", fmt.Sprintf(c.target, file))
			before := len(b.events)
			got := b.pull(t, named(fmt.Sprintf(c.ask, file)))
			if !slices.Equal(got.Record.Layers, want.Record.Layers) || !slices.Equal(got.Run.Env, want.Run.Env) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			for _, e := range b.events[before:] {
				if e.Done > 0 {
					t.Errorf("read the layer %s, which is there", e.Layer)
				}
			}

			fresh := newBench(t) // now all layers come from the file
			if got := fresh.pull(t, named(fmt.Sprintf(c.ask, file))); !slices.Equal(got.Record.Layers, want.Record.Layers) {
				t.Errorf("layers are %v, want %v", got.Record.Layers, want.Record.Layers)
			}
		})
	}
}

func FuzzFindInArchive(f *testing.F) {
	img := archivedImage("a:1", layerC)
	config := string(img.configuration())
	f.Add(`[{"Config":"c","RepoTags":["a:1"],"Layers":["x/layer.tar"]}]`, "", config, "", "a:1")
	f.Add(`[{"Config":"c","RepoTags":null,"Layers":["l"]}]`, "", config, "x/layer.tar", "")
	f.Add(`[{"Config":"../c","Layers":["/etc/passwd"]}, {"Config":"l"}]`, "", "{}", "l", "b")
	f.Add("", `{"a":{"1":"x"},"b":{"2":"y","3":"y"}}`, `{"parent":"y","os":"linux","config":{"Env":["A=b"]}}`, "../x", "b:2")
	f.Add("", `{"a":{"1":"x"}}`, `{"parent":"x"}`, "", "")
	f.Fuzz(func(t *testing.T, manifest, repositories, config, link, name string) {
		all := entries{storetest.File("c", config), storetest.File("x/json", config), storetest.File("y/json", "{}"),
			storetest.File("x/layer.tar", string(layerC)), storetest.File("y/layer.tar", string(layerA)), symlink("l", link)}
		if manifest != "" {
			all = append(all, storetest.File("manifest.json", manifest))
		}
		if repositories != "" {
			all = append(all, storetest.File("repositories", repositories))
		}
		if strings.ContainsRune(link, 0) {
			return // no tar can have it
		}
		parsed, _ := image.ParseName(name)
		content := storetest.Tar(all...)
		members, err := fetch.IndexMembers(t.Context(), bytes.NewReader(content), int64(len(content)))
		if err != nil {
			t.Fatal(err)
		}
		a := archive{reference: image.Reference{Name: parsed}, want: image.HostPlatform(), members: members}
		found, err := a.find(t.Context())
		if err != nil {
			return
		}
		for i, l := range found.Layers {
			at := a.at[l.DiffID]
			if n, err := io.Copy(io.Discard, members.Open(at)); l.DiffID != found.Parsed.DiffIDs[i] || n != l.Size || err != nil {
				t.Errorf("layer %d is %+v, at %+v with %d bytes: %v", i, l, at, n, err)
			}
		}
		if _, err := image.ParseConfig(found.Config); err != nil {
			t.Errorf("configuration: %v", err)
		}
		if again, err := a.find(t.Context()); err != nil || !bytes.Equal(again.Config, found.Config) {
			t.Errorf("found another time: %v", err)
		}
	})
}

// A compressed archive is the same image, and what it needs on disk meanwhile is gone
// before the image is there.
func TestCompressedArchives(t *testing.T) {
	whole := storetest.Tar(saved(archivedImage("a:1", layerA, layerB))...)
	for name, content := range map[string][]byte{"gzip": gzipped(whole).blob, "zstd": zstandard(whole).blob,
		"bzip2": testrig.Compress(t, "bzip2", whole), "xz": testrig.Compress(t, "xz", whole)} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			file := filepath.Join(b.dir, "a.tar."+name)
			writeFile(t, file, content)
			if got := b.pull(t, named("docker-archive:"+file)); !slices.Equal(got.Record.Layers, digestsOf(layerA, layerB)) {
				t.Errorf("layers are %v", got.Record.Layers)
			}
			b.lose(t, layerB)
			if fetched, err := b.refetch(t, layerB); err != nil || len(fetched) != 1 {
				t.Errorf("refetch: %v, %v", fetched, err)
			}
			writeFile(t, file, content[:len(content)-100])
			storetest.WantError(t, b.fails(t, named("docker-archive:"+file)), container.ErrInvalid, "read archive: ", name)
		})
	}
}
