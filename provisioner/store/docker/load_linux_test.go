package docker

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/container"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store"
	"berth/provisioner/store/layout"
	"berth/provisioner/store/storetest"
)

func references(records []store.Record) (names []string) {
	for _, rec := range records {
		names = append(names, strings.TrimSpace(rec.Reference+" "+rec.Platform))
	}
	return names
}

// Several images, several names of one, and one for another platform.
func TestLoadRecordsEveryName(t *testing.T) {
	one := archivedImage("one:1", layerA, layerB)
	one.tags = append(one.tags, "registry.example:5000/first:2")
	two := archivedImage("two:latest", layerA, layerC)
	two.platform = "linux/s390x"
	for _, name := range []string{"Docker 1.10", "before Docker 1.10"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			file := filepath.Join(b.dir, "both.tar")
			writeArchive(t, file, layouts[name](one, two))
			loaded, err := b.Load(t.Context(), file, layer.Tree)
			if err != nil {
				t.Fatal(err)
			}
			want := []string{"docker.io/library/one:1", "registry.example:5000/first:2", "docker.io/library/two:latest linux/s390x"}
			if strings.HasPrefix(name, "before") { // whose images are this host's
				want[2] = "docker.io/library/two:latest"
			}
			if got := references(loaded); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
				t.Errorf("loaded %q, want %q", got, want)
			}
			storetest.WantNoTrace(t, b.layers)
			must(os.Remove(file)) // nobody needs it any more
			if got := b.pull(t, named("registry.example:5000/first:2")); !slices.Equal(got.Record.Layers, digestsOf(layerA, layerB)) {
				t.Errorf("layers are %v", got.Record.Layers)
			}
		})
	}
}

func TestLoadOfBadArchives(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(b.dir, "bad.tar")
	for _, c := range []struct {
		name  string
		all   entries
		class error
		says  string
	}{
		{"nothing in it", entries{storetest.File("x", "")}, container.ErrNotFound, `"repositories"`},
		{"no image", entries{storetest.File("manifest.json", "[]")}, container.ErrInvalid, "it has no image"},
		{"an image without a name", saved(archivedImage("", layerA)), container.ErrInvalid, "no name to be recorded under"},
		{"a layer with other bytes", func() entries {
			all := saved(archivedImage("a:1", layerA))
			for i := range all {
				if strings.HasSuffix(all[i].Name, "layer.tar") {
					all[i].Content = string(layerB)
				}
			}
			return all
		}(), container.ErrInvalid, "load docker.io/library/a:1: layer sha256:"},
		{"a layout with an index that is none", savedAsLayout(archivedImage("a:1", layerA)), container.ErrInvalid, "index.json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			writeArchive(t, file, c.all)
			loaded, err := b.Load(t.Context(), file, layer.Tree)
			storetest.WantError(t, err, c.class, "load "+file+": ", c.says)
			if len(loaded) > 0 {
				t.Errorf("loaded %v", loaded)
			}
			storetest.WantNoTrace(t, b.layers)
			b.wantNothing(t)
		})
	}
}

// What a newer berth has recorded is not replaced.
func TestLoadSparesRecordsOfANewerBerth(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(b.dir, "a.tar")
	writeArchive(t, file, saved(archivedImage("a:1", layerA)))
	if _, err := b.Load(t.Context(), file, layer.Tree); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(b.recordsDir(), "*.json"))
	must(err)
	writeFile(t, paths[0], []byte(`{"version": 2}`))
	_, err = b.Load(t.Context(), file, layer.Tree)
	storetest.WantError(t, err, container.ErrNotSupported, "of version 2")
}

// An image that was pulled through an index by its digest is proven by the index.
func TestSavedAndLoadedByTheDigestOfAnIndex(t *testing.T) {
	r, from := newTestRegistry(t), newBench(t)
	host := image.HostPlatform().String()
	d := r.push(t, "pinned", "", madeImage{layers: []madeLayer{gzipped(layerA), zstandard(layerB), gzipped(layerA)}})
	index := r.pushIndex(t, "pinned", "", image.MediaTypeOCIIndex, entry(d, host))
	name := r.host + "/pinned@" + index.Digest.String()
	img, err := from.Get(t.Context(), named(name), layer.Tree)
	must(err)
	defer func() { must(img.Release()) }()
	file := filepath.Join(from.dir, "saved.tar")
	write := func(images ...*store.Image) {
		t.Helper()
		var out strings.Builder
		must(layout.Write(t.Context(), &out, from.layers, layout.OCIArchive, images...))
		writeFile(t, file, []byte(out.String()))
	}
	write(img)
	to := newBench(t)
	loaded, err := to.Load(t.Context(), file, layer.Tree)
	if err != nil || len(loaded) != 1 || loaded[0].Reference != name || loaded[0].ID != img.ID {
		t.Fatalf("loaded %v, %v", loaded, err)
	}
	again := to.pull(t, named(name))
	if !slices.Equal(again.DiffIDs, img.Config.DiffIDs) {
		t.Errorf("diffIDs are %v, want %v", again.DiffIDs, img.Config.DiffIDs)
	}
	to.lose(t, layerB)
	if fetched, err := to.refetch(t, layerB); err != nil || len(fetched) != 1 {
		t.Errorf("refetched from the registry: %v, %v", fetched, err)
	}

	for what, c := range map[string]struct {
		change func(d *store.Documents)
		says   string
	}{
		"no index":            {func(d *store.Documents) { d.Indexes = nil }, "nothing here has the digest in its name"},
		"no documents":        {func(d *store.Documents) { d.Indexes, d.Manifest = nil, "" }, "nothing here has the digest in its name"},
		"another's index":     {func(d *store.Documents) { d.Indexes = []string{`{"schemaVersion":2,"manifests":[]}`} }, "does not lead to the image"},
		"an index at the end": {func(d *store.Documents) { d.Manifest = d.Indexes[0] }, "does not lead to the image"},
		"a manifest in front": {func(d *store.Documents) { d.Indexes = []string{d.Manifest} }, "is not that of the configuration"},
		"another's manifest": {func(d *store.Documents) {
			d.Indexes, d.Manifest = nil, string(toJSON(&image.Manifest{MediaType: image.MediaTypeOCIManifest,
				Config: image.Descriptor{MediaType: image.MediaTypeOCIConfig, Digest: digestsOf(layerC)[0], Size: 1}}))
		}, "is not that of the configuration"},
		"no manifest at all": {func(d *store.Documents) { d.Indexes, d.Manifest = nil, "{}" }, "schemaVersion"},
	} {
		t.Run(what, func(t *testing.T) {
			forged := *img
			forged.Documents.Indexes = slices.Clone(img.Documents.Indexes)
			c.change(&forged.Documents)
			write(&forged)
			b := newBench(t)
			_, err := b.Load(t.Context(), file, layer.Tree)
			storetest.WantError(t, err, container.ErrInvalid, c.says)
			b.wantNothing(t)
		})
	}
}

// Nothing in such an archive proves a digest, so it cannot have the name of an image that
// somebody has pinned.
func TestAnArchiveDoesNotGiveNamesWithADigest(t *testing.T) {
	pinned := "pinned@" + digestsOf(layerC)[0].String()
	for _, format := range []string{"Docker 1.10", "before Docker 1.10"} {
		t.Run(format, func(t *testing.T) {
			b := newBench(t)
			file := filepath.Join(b.dir, "pinned.tar")
			writeArchive(t, file, layouts[format](archivedImage(pinned, layerA)))
			loaded, err := b.Load(t.Context(), file, layer.Tree)
			storetest.WantError(t, err, container.ErrInvalid, pinned, "digest")
			if len(loaded) > 0 {
				t.Errorf("loaded %v", references(loaded))
			}
			b.wantNothing(t)
		})
	}
}
