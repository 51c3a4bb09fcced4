package docker

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/container"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store/storetest"
)

// pushSchema1 pushes an image in the format before 2016, base first. A layer of nil is one
// that was thrown away.
func (r *testRegistry) pushSchema1(t testing.TB, repository, tag, name string, layers ...[]byte) (manifest []byte) {
	t.Helper()
	var blobs, history []any
	for i, content := range layers {
		compat := map[string]any{"id": fmt.Sprintf("%064d", i), "os": "linux", "architecture": image.HostPlatform().Architecture}
		if i > 0 {
			compat["parent"] = fmt.Sprintf("%064d", i-1)
		}
		if content == nil {
			compat["throwaway"] = true
		}
		blob := gzipped(content).blob
		r.putBlob(t, repository, blob)
		blobs = append(blobs, map[string]any{"blobSum": image.DigestOf(blob)})
		history = append(history, map[string]any{"v1Compatibility": string(toJSON(compat))})
	}
	slices.Reverse(blobs)
	slices.Reverse(history)
	manifest = toJSON(map[string]any{"schemaVersion": 1, "name": name, "tag": tag, "fsLayers": blobs, "history": history})
	r.put(t, repository, tag, image.MediaTypeSchema1, manifest)
	return manifest
}

func TestSchema1Images(t *testing.T) {
	for name, c := range map[string]struct {
		layers [][]byte
		want   []image.Digest
	}{
		"base first":         {[][]byte{layerA, layerB}, digestsOf(layerA, layerB)},
		"thrown away":        {[][]byte{layerA, nil, layerB, nil}, digestsOf(layerA, layerB)},
		"one twice":          {[][]byte{layerA, layerB, layerA}, digestsOf(layerB, layerA)},
		"one without a file": {[][]byte{storetest.Tar(), layerA}, digestsOf(storetest.Tar(), layerA)},
	} {
		t.Run(name, func(t *testing.T) {
			r, b := newTestRegistry(t), newBench(t)
			manifest := r.pushSchema1(t, "old", "1", "old", c.layers...)
			found, err := b.Get(t.Context(), r.ref("old:1"), layer.Tree)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(found.Layers, c.want) || !strings.Contains(found.Pull.Warning, "schema 1") {
				t.Errorf("%s, %q", found.Layers, found.Pull.Warning)
			}
			if found.ID != image.DigestOf([]byte(found.Documents.Config)) || found.Documents.Manifest != string(manifest) {
				t.Errorf("recorded are %+v", found.Documents)
			}
			storetest.WantWholeReport(t, found.Pull)
			if err := found.Release(); err != nil {
				t.Error(err)
			}
			// From its record, by its digest, and with a layer fetched again, it is the same.
			if again := b.pull(t, r.ref("old:1")); again.ID != found.ID {
				t.Errorf("then it is %s, not %s", again.ID, found.ID)
			}
			before := len(r.requests("/blobs/"))
			if again := b.pull(t, r.ref("old@%s", image.DigestOf(manifest))); again.ID != found.ID {
				t.Errorf("by its digest it is %s, not %s", again.ID, found.ID)
			}
			b.lose(t, layerA)
			if again := b.pull(t, r.ref("old:1")); again.ID != found.ID {
				t.Errorf("fetched again it is %s, not %s", again.ID, found.ID)
			}
			wanted := 1 + len(slices.Compact(slices.Sorted(slices.Values(c.want)))) // sizes for the pull by digest
			if asked := r.requests("/blobs/")[before:]; len(asked) != wanted {
				t.Errorf("asked for %q", asked)
			}
		})
	}
}

func TestSchema1OfAnotherName(t *testing.T) {
	r := newTestRegistry(t)
	for _, c := range []struct {
		repository, says string
		good             bool
	}{
		{"a/b", "a/b", true}, {"a/b", "", true}, {"a/b", "b", true}, {"b", "library/b", true},
		{"a/b", "c/b", false}, {"a/b", "a", false}, {"ab", "b", false},
	} {
		b := newBench(t)
		manifest := r.pushSchema1(t, c.repository, "1", c.says, layerA)
		img := r.ref("%s:1", c.repository)
		if c.good {
			b.pull(t, img)
		} else {
			digest := image.DigestOf(manifest)
			storetest.WantError(t, b.fails(t, img), container.ErrInvalid, c.says+":1", r.host+"/"+c.repository+"@"+digest.String())
			b.wantNothing(t)
			b.pull(t, r.ref("%s@%s", c.repository, digest))
		}
	}
	r.put(t, "b", "2", image.MediaTypeSchema1, r.pushSchema1(t, "b", "1", "b", layerA))
	b := newBench(t)
	storetest.WantError(t, b.fails(t, r.ref("b:2")), container.ErrInvalid, "b:1")
}

// What another image says of a blob is not believed: its maker may have put any two side by
// side.
func TestSchema1BelievesNobody(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.push(t, "one", "1", madeImage{layers: []madeLayer{gzipped(layerB)}})
	b.pull(t, r.ref("one:1"))
	// layerB is there, so the blob of A, which is said to be of it, is never unpacked.
	lies := madeImage{layers: []madeLayer{gzipped(layerA)}, diffIDs: digestsOf(layerB)}
	r.push(t, "lies", "1", lies)
	b.pull(t, r.ref("lies:1"))
	r.pushSchema1(t, "old", "1", "old", layerA)
	if got := b.pull(t, r.ref("old:1")); !slices.Equal(got.Layers, digestsOf(layerA)) {
		t.Errorf("its layers are %s", got.Layers)
	}
}

func TestBadSchema1Images(t *testing.T) {
	r := newTestRegistry(t)
	push := func(tag string, edit func(map[string]any)) {
		var m map[string]any
		must(json.Unmarshal(r.pushSchema1(t, "bad", tag, "bad", layerA, layerB), &m))
		edit(m)
		r.put(t, "bad", tag, image.MediaTypeSchema1, toJSON(m))
	}
	absent := map[string]any{"blobSum": image.DigestOf([]byte("absent"))}
	push("absent", func(m map[string]any) { m["fsLayers"].([]any)[1] = absent })
	push("short", func(m map[string]any) { m["fsLayers"] = m["fsLayers"].([]any)[1:] })
	foreign := `{"id":"` + strings.Repeat("0", 64) + `","os":"plan9","architecture":"amd64"}`
	push("foreign", func(m map[string]any) {
		m["history"] = []any{map[string]any{"v1Compatibility": foreign}}
		m["fsLayers"] = m["fsLayers"].([]any)[1:]
	})
	r.putBlob(t, "bad", []byte("no tar"))
	push("no-tar", func(m map[string]any) {
		m["fsLayers"].([]any)[0] = map[string]any{"blobSum": image.DigestOf([]byte("no tar"))}
	})
	for tag, c := range map[string]struct {
		class error
		says  string
	}{
		"absent":  {container.ErrNotFound, "push it again"},
		"short":   {container.ErrInvalid, "1 fsLayers, and 2"},
		"foreign": {container.ErrNotFound, "plan9"},
		"no-tar":  {container.ErrInvalid, "layer " + image.DigestOf([]byte("no tar")).String()},
	} {
		b := newBench(t)
		storetest.WantError(t, b.fails(t, r.ref("bad:%s", tag)), c.class, c.says)
		b.wantNothing(t)
		if left, _ := filepath.Glob(filepath.Join(b.dir, "docker/images/*")); len(left) > 0 {
			t.Errorf("left behind: %s", left)
		}
	}
}
