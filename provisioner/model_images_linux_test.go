package provisioner_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	v1 "berth/api/v1"
	"berth/image"
	"berth/internal/testrig"
	"berth/provisioner/store/storetest"
)

// The tiny layers: names that end in a slash are directories, and those of whiteouts
// are whiteouts. Each file has its layer and its name for content, so no two are alike.
// Every layer has the file marker-<layer> too.
var tinyLayers = map[string][]string{
	"base":  {"etc/", "etc/base", "shared/", "shared/a", "shared/b", "drop/", "drop/x", "kind/", "kind/dir/", "kind/dir/f", "kind/file"},
	"one":   {"etc/", "etc/one", "only/", "only/one"},
	"two":   {"shared/", "shared/.wh.a", "shared/c", "kind/", "kind/dir", "kind/file/", "kind/file/f"},
	"three": {"drop/", "drop/.wh..wh..opq", "drop/z", ".wh.kind"},
	"more":  {"etc/base", "implied/directory/of/more"},
	"four":  {"drop/", "drop/.wh..wh..opq", "etc/.wh.one", "etc/.wh.nothing"},
	"amd":   {"etc/", "etc/platform", ".wh.shared"},
	"arm":   {"etc/", "etc/platform", "shared/", "shared/a"},
	"m0":    {"version"},
	"m1":    {"version", "drop/", "drop/y"},
	"m2":    {"version", ".wh.marker-two"},
	"file":  {"from/", "from/file"},
}

// movingTag is an image whose tag moves: its versions.
const movingTag = "moving"

var movingVersions = [][]string{{"base", "m0"}, {"one", "m1"}, {"base", "two", "m2"}}

// otherPlatform is not that of this host.
var otherPlatform = map[bool]string{true: "linux/arm64", false: "linux/amd64"}[runtime.GOARCH == "amd64"]

var hostPlatform = "linux/" + runtime.GOARCH

// picture is what an image is known to be: its layers, base first, and what they show.
type picture struct {
	layers []string // of tinyLayers
	ids    []image.Digest
	tree   map[string]string // path to content, "/" for a directory
}

// tinyTar is the layer itself.
func tinyTar(layer string) []byte {
	entries := []storetest.Entry{storetest.File("marker-"+layer, contentOf(layer, "marker-"+layer))}
	for _, path := range tinyLayers[layer] {
		e := storetest.File(path, contentOf(layer, path))
		if strings.Contains(path, ".wh.") {
			e.Content = ""
		} else if strings.HasSuffix(path, "/") {
			e.Typeflag, e.Mode, e.Content = '5', 0o755, ""
		}
		entries = append(entries, e)
	}
	return storetest.Tar(entries...)
}

func contentOf(layer, path string) string { return layer + " has " + path }

func newPicture(layers ...string) *picture {
	p := &picture{layers: layers, tree: make(map[string]string)}
	for _, l := range layers {
		p.ids = append(p.ids, image.DigestOf(tinyTar(l)))
		p.apply(l)
	}
	return p
}

// apply puts a layer onto the tree by the rules of the OCI image specification. Its
// whiteouts concern what lies below it alone, so they come first.
func (p *picture) apply(layer string) {
	paths := append([]string{"marker-" + layer}, tinyLayers[layer]...)
	for _, path := range paths {
		dir, base := filepath.Split(path)
		switch hidden, isWhiteout := strings.CutPrefix(base, ".wh."); {
		case base == ".wh..wh..opq":
			removeBelow(p.tree, strings.TrimSuffix(dir, "/"))
		case isWhiteout:
			removeBelow(p.tree, dir+hidden)
			delete(p.tree, dir+hidden)
		}
	}
	for _, path := range paths {
		dir, isDir := strings.CutSuffix(path, "/")
		switch {
		case strings.Contains(path, ".wh."):
		case isDir:
			p.addDirectory(dir)
		default:
			p.addDirectory(filepath.Dir(path))
			removeBelow(p.tree, path)
			p.tree[path] = contentOf(layer, path)
		}
	}
}

func (p *picture) addDirectory(dir string) {
	for ; dir != "."; dir = filepath.Dir(dir) {
		p.tree[dir] = "/"
	}
}

func removeBelow(tree map[string]string, dir string) {
	maps.DeleteFunc(tree, func(path, _ string) bool { return strings.HasPrefix(path, dir+"/") })
}

// gallery is where the tiny images come from: a real registry, and a file as docker
// save writes it.
type gallery struct {
	registry *testrig.RegistryServer
	archive  string
	fixed    map[string]*picture // by NAME, or NAME,PLATFORM where there are several
	moving   []*picture
	pushed   []ggcr.Image // the versions of moving
	version  int          // which of them the tag names
}

func newGallery(t testing.TB) *gallery {
	t.Helper()
	g := &gallery{registry: testrig.Registry(t), archive: filepath.Join(testrig.TempDir(t), "file.tar")}
	g.fixed = map[string]*picture{
		"one":                    newPicture("one"),
		"two":                    newPicture("base", "two"),
		"three":                  newPicture("base", "three", "more"),
		"four":                   newPicture("one", "base", "four"),
		"multi," + hostPlatform:  newPicture("base", "amd"),
		"multi," + otherPlatform: newPicture("base", "arm", "one"),
		"file":                   newPicture("base", "file"),
	}
	var index ggcr.ImageIndex = empty.Index
	for title, p := range g.fixed {
		name, platform, several := strings.Cut(title, ",")
		switch {
		case name == "file":
			writeArchive(t, g.archive, p)
		case several:
			made := p.image(t, platform)
			want, err := ggcr.ParsePlatform(platform)
			if err != nil {
				t.Fatal(err)
			}
			index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: made, Descriptor: ggcr.Descriptor{Platform: want}})
		default:
			g.push(t, name, func(r pushed) error { return remote.Write(r, p.image(t, hostPlatform)) })
		}
	}
	g.push(t, "multi", func(r pushed) error { return remote.WriteIndex(r, index) })
	for n, layers := range movingVersions {
		p := newPicture(layers...)
		made := p.image(t, hostPlatform)
		g.moving, g.pushed = append(g.moving, p), append(g.pushed, made)
		g.push(t, fmt.Sprintf("%s:v%d", movingTag, n), func(r pushed) error { return remote.Write(r, made) })
	}
	g.move(t, 0)
	return g
}

type pushed = name.Reference

func (g *gallery) push(t reporter, to string, write func(pushed) error) {
	t.Helper()
	ref, err := name.ParseReference(g.registry.Direct()+"/"+to, name.Insecure)
	if err == nil {
		err = write(ref)
	}
	if err != nil {
		t.Fatalf("push %s: %v", to, err)
	}
}

// image is the picture as a registry takes it.
func (p *picture) image(t testing.TB, platform string) ggcr.Image {
	t.Helper()
	var layers []ggcr.Layer
	for _, l := range p.layers {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(tinyTar(l))), nil })
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, layer)
	}
	made, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := made.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture, _ = strings.Cut(platform, "/")
	if made, err = mutate.ConfigFile(made, config); err != nil {
		t.Fatal(err)
	}
	return made
}

// writeArchive writes the picture as docker save does.
func writeArchive(t testing.TB, path string, p *picture) {
	t.Helper()
	config, err := json.Marshal(map[string]any{
		"os": "linux", "architecture": runtime.GOARCH,
		"rootfs": map[string]any{"type": "layers", "diff_ids": p.ids},
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	entries := []storetest.Entry{storetest.File("config.json", string(config))}
	for _, l := range p.layers {
		names = append(names, l+"/layer.tar")
		entries = append(entries, storetest.File(l+"/layer.tar", string(tinyTar(l))))
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{"file:latest"}, "Layers": names}})
	if err != nil {
		t.Fatal(err)
	}
	entries = append(entries, storetest.File("manifest.json", string(manifest)))
	if err := os.WriteFile(path, storetest.Tar(entries...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// move has the moving tag name a version.
func (g *gallery) move(t reporter, version int) {
	t.Helper()
	g.push(t, movingTag+":latest", func(r pushed) error { return remote.Tag(r.Context().Tag("latest"), g.pushed[version]) })
	g.version = version
}

// wish is an image as somebody asks for it.
type wish struct {
	name     string
	platform string // "" is the host's
	cached   bool
}

// wishes are all that there is to ask for, but for cached.
func wishes() []wish {
	var all []wish
	for _, name := range []string{"one", "two", "three", "four", "multi", movingTag} {
		all = append(all, wish{name: name}, wish{name: name, platform: hostPlatform})
	}
	return append(all, wish{name: "multi", platform: otherPlatform}, wish{name: "file"})
}

// image is the wish as a request.
func (g *gallery) image(w wish) *v1.Image {
	reference := g.registry.Host() + "/" + w.name
	if w.name == "file" {
		reference = "docker-archive:" + g.archive
	}
	img := &v1.Image{Type: v1.Image_DOCKER.Enum(), Docker: &v1.Image_Docker{Name: &reference}, Cached: &w.cached}
	if w.platform != "" {
		img.Platform = &w.platform
	}
	return img
}

// picture is what the source has for a wish now.
func (g *gallery) picture(w wish) *picture {
	switch w.name {
	case movingTag:
		return g.moving[g.version]
	case "multi":
		if w.platform == otherPlatform {
			return g.fixed["multi,"+otherPlatform]
		}
		return g.fixed["multi,"+hostPlatform]
	}
	return g.fixed[w.name]
}

// layerNames maps the digests back to names that a person can read.
var layerNames = func() map[image.Digest]string {
	names := make(map[image.Digest]string)
	for _, name := range slices.Sorted(maps.Keys(tinyLayers)) {
		names[image.DigestOf(tinyTar(name))] = name
	}
	return names
}()
