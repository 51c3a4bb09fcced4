package docker

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store"
	"berth/provisioner/store/storetest"
)

type entries = []storetest.Entry

func symlink(name, target string) storetest.Entry {
	return storetest.Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

func hardlink(name, target string) storetest.Entry {
	return storetest.Entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}}
}

func directory(name string) storetest.Entry {
	return storetest.Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}

// archived is an image of an archive.
type archived struct {
	tags []string
	madeImage
}

func archivedImage(tag string, layers ...[]byte) archived {
	a := archived{}
	if tag != "" {
		a.tags = []string{tag}
	}
	for _, l := range layers {
		a.layers = append(a.layers, plain(l))
	}
	return a
}

// saved is what `docker save` of Docker 1.10 to 24 writes: manifest.json, a directory
// for each layer, in which the tar of a layer that occurred before is a link.
func saved(images ...archived) (all entries) {
	var manifest []savedImage
	written := make(map[image.Digest]string)
	for i, img := range images {
		config := img.configuration()
		m := savedImage{Config: image.DigestOf(config).Hex() + ".json", RepoTags: img.tags}
		all = append(all, storetest.File(m.Config, string(config)))
		for n, l := range img.layers {
			dir := fmt.Sprintf("%d-%d", i, n)
			name := dir + "/layer.tar"
			all = append(all, directory(dir+"/"), storetest.File(dir+"/VERSION", "1.0"), storetest.File(dir+"/json", "{}"))
			if first, ok := written[image.DigestOf(l.tar)]; ok {
				all = append(all, symlink(name, "../"+first))
			} else {
				written[image.DigestOf(l.tar)] = name
				all = append(all, storetest.File(name, string(l.blob)))
			}
			m.Layers = append(m.Layers, name)
		}
		manifest = append(manifest, m)
	}
	return append(all, storetest.File("manifest.json", string(toJSON(manifest))))
}

// savedAsLayout is what `docker save` of Docker 25 and later writes: an OCI layout with
// a manifest.json.
func savedAsLayout(images ...archived) entries {
	all := entries{storetest.File("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), directory("blobs/"), directory("blobs/sha256/")}
	blob := func(content []byte) string {
		name := "blobs/sha256/" + image.DigestOf(content).Hex()
		if !slices.ContainsFunc(all, func(e storetest.Entry) bool { return e.Name == name }) {
			all = append(all, storetest.File(name, string(content)))
		}
		return name
	}
	var manifest []savedImage
	for _, img := range images {
		m := savedImage{Config: blob(img.configuration()), RepoTags: img.tags}
		for _, l := range img.layers {
			m.Layers = append(m.Layers, blob(l.blob))
		}
		manifest = append(manifest, m)
	}
	return append(all, storetest.File("index.json", "{}"), storetest.File("manifest.json", string(toJSON(manifest))))
}

// savedBefore110 is what `docker save` before 1.10 wrote: repositories, and a chain of
// layers in which each names its parent. There are no configurations of images.
func savedBefore110(images ...archived) (all entries) {
	repositories := make(map[string]map[string]string)
	for i, img := range images {
		parent := ""
		for n, l := range img.layers {
			id := strings.Repeat(fmt.Sprintf("%x", i), 60) + fmt.Sprintf("%04d", n)
			config := map[string]any{"id": id, "os": "linux", "architecture": image.HostPlatform().Architecture, "config": map[string]any{"Env": []string{"LAYER=" + id}}}
			if parent != "" {
				config["parent"] = parent
			}
			all = append(all, directory(id+"/"), storetest.File(id+"/VERSION", "1.0"),
				storetest.File(id+"/json", string(toJSON(config))), storetest.File(id+"/layer.tar", string(l.blob)))
			parent = id
		}
		for _, tag := range img.tags {
			repository, version, _ := strings.Cut(tag, ":")
			if repositories[repository] == nil {
				repositories[repository] = make(map[string]string)
			}
			repositories[repository][version] = parent
		}
	}
	return append(all, storetest.File("repositories", string(toJSON(repositories))))
}

var layouts = map[string]func(...archived) entries{
	"Docker 1.10": saved, "Docker 25": savedAsLayout, "before Docker 1.10": savedBefore110,
}

// writeFile puts a file in the place of another, as tools do that write well.
func writeFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func writeArchive(t testing.TB, path string, all entries) {
	t.Helper()
	writeFile(t, path, storetest.Tar(all...))
}

// opens counts how often files are opened.
type opens struct {
	t     testing.TB
	watch int
	seen  int
}

func newOpens(t testing.TB) *opens {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &opens{t: t, watch: fd}
}

func (o *opens) add(path string) {
	o.t.Helper()
	if _, err := unix.InotifyAddWatch(o.watch, path, unix.IN_OPEN); err != nil {
		o.t.Fatal(err)
	}
}

func (o *opens) count() int {
	o.t.Helper()
	buffer := make([]byte, 64<<10)
	n, err := unix.Read(o.watch, buffer)
	if err != nil && err != unix.EAGAIN {
		o.t.Fatal(err)
	}
	for at := 0; at < n; at += unix.SizeofInotifyEvent { // of a file, events have no name
		if event := buffer[at : at+unix.SizeofInotifyEvent]; event[4]&unix.IN_OPEN != 0 {
			o.seen++
		}
	}
	return o.seen
}

func TestArchiveConformance(t *testing.T) {
	for name, layout := range layouts {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(tb testing.TB, dir string) storetest.Source {
				opened := newOpens(tb)
				path := func(name string) string { return filepath.Join(dir, name+".tar") }
				return storetest.Source{
					Open: func(tb testing.TB, layers *layer.Store, progress store.Progress) store.Store {
						return openStore(tb, dir, layers, progress)
					},
					Publish: func(tb testing.TB, name string, img storetest.Image) {
						writeArchive(tb, path(name), layout(archivedImage("any:1", img...)))
						opened.add(path(name))
					},
					Image:    func(name string) *v1.Image { return named("docker-archive:" + path(name)) },
					Requests: opened.count,
				}
			})
		})
	}
}

func TestChoiceOfAnArchivedImage(t *testing.T) {
	one := archivedImage("one:1", layerA, layerB)
	one.tags = append(one.tags, "registry.example:5000/first:2")
	two := archivedImage("two:latest", layerA, layerC)
	for name, layout := range layouts {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			file := filepath.Join(b.dir, "both.tar")
			writeArchive(t, file, layout(one, two))
			for _, c := range []struct {
				name   string
				layers []image.Digest
			}{
				{"one:1", digestsOf(layerA, layerB)},
				{"docker.io/library/one:1", digestsOf(layerA, layerB)},
				{"registry.example:5000/first:2", digestsOf(layerA, layerB)},
				{"two", digestsOf(layerA, layerC)},
			} {
				got := b.pull(t, named("docker-archive:"+file+":"+c.name))
				if !slices.Equal(got.Record.Layers, c.layers) {
					t.Errorf("%s has the layers %v, want %v", c.name, got.Record.Layers, c.layers)
				}
			}
			storetest.WantError(t, b.fails(t, named("docker-archive:"+file+":one:2")), container.ErrNotFound,
				"pull docker-archive:"+file+":docker.io/library/one:2: ", "image docker.io/library/one:2", "in the archive",
				`it has ["one:1" "registry.example:5000/first:2" "two:latest"]`)
			storetest.WantError(t, b.fails(t, named("docker-archive:"+file)), container.ErrInvalid,
				"does not hold exactly one image", "docker-archive:FILE:NAME", `"two:latest"`)

			// Several names of one image are no choice.
			single := filepath.Join(b.dir, "single.tar")
			writeArchive(t, single, layout(one))
			if got := b.pull(t, named("docker-archive:"+single)); !slices.Equal(got.Record.Layers, digestsOf(layerA, layerB)) {
				t.Errorf("the only image has the layers %v", got.Record.Layers)
			}
		})
	}
}

func TestConfigurationOfAnArchivedImage(t *testing.T) {
	b := newBench(t)
	img := archivedImage("a:1", layerA)
	img.platform = "linux/s390x"
	file := filepath.Join(b.dir, "a.tar")
	for _, name := range []string{"Docker 1.10", "Docker 25"} {
		writeArchive(t, file, layouts[name](img))
		got := b.pull(t, forPlatform(named("docker-archive:"+file), "linux/s390x"))
		if got.ID != image.DigestOf(img.configuration()) || !slices.Equal(got.Run.Env, []string{"FOR=linux/s390x"}) {
			t.Errorf("%s: id %s, environment %q", name, got.ID, got.Run.Env)
		}
		storetest.WantError(t, b.fails(t, named("docker-archive:"+file)), container.ErrNotFound, "it is for linux/s390x")
	}
	// Its topmost layer speaks for the image.
	writeArchive(t, file, savedBefore110(archivedImage("a:1", layerA, layerB)))
	got := b.pull(t, named("docker-archive:"+file))
	if len(got.Run.Env) != 1 || !strings.HasSuffix(got.Run.Env[0], "0001") || !slices.Equal(got.DiffIDs, digestsOf(layerA, layerB)) {
		t.Errorf("environment %q, diffIDs %v", got.Run.Env, got.DiffIDs)
	}
	if again := b.pull(t, uncached(named("docker-archive:"+file))); again.ID != got.ID {
		t.Error("the same archive gives another id")
	}
}

// Layers may be links to others, and compressed: what counts are their diffIDs.
func TestOddButGoodArchives(t *testing.T) {
	ab := archivedImage("a:1", layerA, layerB)
	manifest := func(layers ...string) storetest.Entry {
		return storetest.File("manifest.json", string(toJSON([]savedImage{{Config: "c.json", RepoTags: []string{"a:1"}, Layers: layers}})))
	}
	config := storetest.File("c.json", string(ab.configuration()))
	pax := storetest.File(strings.Repeat("long/", 60)+"a.tar", string(layerA))
	for _, c := range []struct {
		name string
		all  entries
	}{
		{"symbolic links", entries{config, storetest.File("x/a.tar", string(layerA)), storetest.File("b.tar", string(layerB)),
			symlink("y/layer.tar", "../x/a.tar"), symlink("z/layer.tar", "../y/../b.tar"), symlink("w", "y/layer.tar"), manifest("w", "z/layer.tar")}},
		{"hard links", entries{config, storetest.File("./x/a.tar", string(layerA)), storetest.File("b.tar", string(layerB)),
			hardlink("y/layer.tar", "./x/a.tar"), manifest("y/layer.tar", "b.tar")}},
		{"compressed layers", entries{config, storetest.File("a", string(gzipped(layerA).blob)), storetest.File("b", string(zstandard(layerB).blob)), manifest("a", "b")}},
		{"names with ./", entries{directory("./"), storetest.File("./c.json", config.Content), storetest.File("./a", string(layerA)), storetest.File("b", string(layerB)),
			{Header: tar.Header{Typeflag: tar.TypeReg, Name: "./manifest.json"}, Content: manifest("a", "./b").Content}}},
		{"a link to manifest.json", entries{config, storetest.File("a", string(layerA)), storetest.File("b", string(layerB)),
			storetest.File("m", manifest("a", "b").Content), symlink("manifest.json", "m")}},
		{"long names", entries{config, pax, storetest.File("b", string(layerB)), manifest(pax.Name, "b")}},
		{"a member that is there twice", entries{config, storetest.File("a", "old"), storetest.File("b", string(layerB)), storetest.File("a", string(layerA)), manifest("a", "b")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			file := filepath.Join(b.dir, "odd.tar")
			writeArchive(t, file, c.all)
			if got := b.pull(t, named("docker-archive:"+file)); !slices.Equal(got.Record.Layers, digestsOf(layerA, layerB)) {
				t.Errorf("layers are %v", got.Record.Layers)
			}
		})
	}
}

func TestBadArchives(t *testing.T) {
	good := saved(archivedImage("a:1", layerA, layerB))
	without := func(suffix string) []byte {
		return storetest.Tar(slices.DeleteFunc(slices.Clone(good), func(e storetest.Entry) bool { return strings.HasSuffix(e.Name, suffix) })...)
	}
	with := func(more ...storetest.Entry) []byte { return storetest.Tar(append(slices.Clone(good), more...)...) }
	manifest := func(config string, layers ...string) storetest.Entry {
		return storetest.File("manifest.json", string(toJSON([]savedImage{{Config: config, Layers: layers}})))
	}
	config := good[0].Name
	old := savedBefore110(archivedImage("a:1", layerA, layerB))
	chain := func(links int) entries {
		all := entries{symlink("l0", "0-0/layer.tar")}
		for i := range links - 1 {
			all = append(all, symlink(fmt.Sprintf("l%d", i+1), fmt.Sprintf("l%d", i)))
		}
		return append(all, manifest(config, fmt.Sprintf("l%d", links-1), "0-1/layer.tar"))
	}
	for _, c := range []struct {
		name    string
		content []byte
		class   error
		says    []string
	}{
		{"empty", nil, container.ErrInvalid, []string{"read archive", "not a tar archive"}},
		{"text", []byte(strings.Repeat("no tar ", 1000)), container.ErrInvalid, []string{"read archive", "not a tar archive"}},
		{"only zeros", make([]byte, 10240), container.ErrInvalid, []string{"not a tar archive"}},
		{"xz", []byte("\xfd7zXZ\x00rest"), container.ErrInvalid, []string{"read archive", "xz"}},
		{"bzip2", []byte("BZh91AY&SY"), container.ErrInvalid, []string{"read archive", "bzip2"}},
		{"another tar", storetest.Tar(storetest.File("etc/passwd", "root")), container.ErrNotFound, []string{`archive member "repositories"`, "no manifest.json"}},
		{"garbage between members", slices.Concat(withoutEnd(good), bytes.Repeat([]byte("x"), 512), storetest.Tar(good...)), container.ErrInvalid, []string{"the file is damaged: no member begins after byte"}},
		{"no configuration", without(config), container.ErrNotFound, []string{"archive member " + fmt.Sprintf("%.100q", config)}},
		{"no layer", without("0-1/layer.tar"), container.ErrNotFound, []string{`archive member "0-1/layer.tar"`}},
		{"fewer layers than diffIDs", with(manifest(config, "0-0/layer.tar")), container.ErrInvalid, []string{"the manifest has 1 layers, the configuration names 2"}},
		{"layers in another order", with(manifest(config, "0-1/layer.tar", "0-0/layer.tar")), container.ErrInvalid, []string{"layer sha256:", "the image's configuration says"}},
		{"a layer that is a directory", with(manifest(config, "0-0", "0-1/layer.tar")), container.ErrNotFound, []string{`archive member "0-0"`}},
		{"a link that leads nowhere", with(symlink("l", "nowhere"), manifest(config, "l", "l")), container.ErrNotFound, []string{`archive member "l"`, `a link to "nowhere"`}},
		{"a link to itself", with(symlink("l", "l"), manifest(config, "l", "l")), container.ErrInvalid, []string{`archive member "l"`, "more than 8 links"}},
		{"links in a circle", with(symlink("l", "m"), hardlink("m", "l"), manifest(config, "l", "l")), container.ErrInvalid, []string{`archive member "l"`, "more than 8 links"}},
		{"nine links", with(chain(9)...), container.ErrInvalid, []string{"more than 8 links"}},
		{"a layer outside of the archive", with(manifest(config, "../../etc/passwd", "/etc/passwd")), container.ErrNotFound, []string{`archive member "../../etc/passwd"`}},
		{"a link to outside of the archive", with(symlink("l", "../../../../etc/passwd"), manifest(config, "l", "l")), container.ErrNotFound, []string{`archive member "l"`, `a link to "../../../../etc/passwd"`}},
		{"a link to an absolute name", with(symlink("l", "/etc/passwd"), manifest(config, "l", "l")), container.ErrNotFound, []string{`a link to "etc/passwd"`}},
		{"a configuration outside of the archive", with(manifest("../etc/passwd", "0-0/layer.tar")), container.ErrNotFound, []string{`archive member "../etc/passwd"`}},
		{"a huge manifest.json", with(storetest.File("manifest.json", strings.Repeat(" ", image.MaxConfigSize+1))), container.ErrInvalid, []string{`archive member "manifest.json"`, "4194305 bytes"}},
		{"a huge configuration", with(storetest.File("c", strings.Repeat(" ", image.MaxConfigSize+1)), manifest("c")), container.ErrInvalid, []string{`archive member "c"`, "4194305 bytes"}},
		{"manifest.json is no JSON", with(storetest.File("manifest.json", "[{")), container.ErrInvalid, []string{`archive member "manifest.json"`, "JSON"}},
		{"manifest.json is no list", with(storetest.File("manifest.json", "{}")), container.ErrInvalid, []string{`archive member "manifest.json"`}},
		{"no image", with(storetest.File("manifest.json", "[]")), container.ErrInvalid, []string{"does not hold exactly one image"}},
		{"a layer that is its own ancestor", storetest.Tar(append(slices.Clone(old), storetest.File(layerIDs(old)[0]+"/json", `{"parent":"`+layerIDs(old)[1]+`"}`))...), container.ErrInvalid, []string{layerIDs(old)[1], "is its own ancestor"}},
		{"a parent that is not there", storetest.Tar(append(slices.Clone(old), storetest.File(layerIDs(old)[0]+"/json", `{"parent":"../x"}`))...), container.ErrNotFound, []string{`archive member "../x/json"`}},
		{"a parent that is a number", storetest.Tar(append(slices.Clone(old), storetest.File(layerIDs(old)[0]+"/json", `{"parent":7}`))...), container.ErrInvalid, []string{"/json", "parent"}},
		{"repositories of another form", storetest.Tar(append(slices.Clone(old), storetest.File("repositories", `{"a":"1"}`))...), container.ErrInvalid, []string{`archive member "repositories"`}},
		{"an older layer without its tar", storetest.Tar(slices.DeleteFunc(slices.Clone(old), func(e storetest.Entry) bool { return e.Name == layerIDs(old)[1]+"/layer.tar" })...), container.ErrNotFound, []string{"archive member", "/layer.tar"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			file := filepath.Join(b.dir, "bad.tar")
			writeFile(t, file, c.content)
			err := b.fails(t, named("docker-archive:"+file))
			storetest.WantError(t, err, c.class, append(c.says, "pull docker-archive:"+file+": ")...)
			b.wantNothing(t)
		})
	}
	t.Run("eight links are fine", func(t *testing.T) {
		b := newBench(t)
		file := filepath.Join(b.dir, "links.tar")
		writeFile(t, file, with(chain(8)...))
		b.pull(t, named("docker-archive:"+file))
	})
}

// withoutEnd is an archive without the zeros at its end.
func withoutEnd(all entries) []byte {
	content := storetest.Tar(all...)
	return content[:len(content)-1024]
}

// layerIDs returns the layers of an archive from before Docker 1.10.
func layerIDs(all entries) (ids []string) {
	for _, e := range all {
		if id, ok := strings.CutSuffix(e.Name, "/layer.tar"); ok {
			ids = append(ids, id)
		}
	}
	return ids
}
