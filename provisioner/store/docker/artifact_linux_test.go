package docker

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/container"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store/storetest"
)

const (
	emptyType   = "application/vnd.oci.empty.v1+json"
	weightsType = "application/vnd.cncf.model.weight.v1.raw"
	titleKey    = "org.opencontainers.image.title"
)

// file is a layer of an artifact, a tar if it has no name.
type file struct{ name, mediaType, content string }

func weights(name, content string) file { return file{name, weightsType, content} }

// pushFiles pushes an artifact, as ORAS does.
func (r *testRegistry) pushFiles(t testing.TB, repository, tag string, files ...file) image.Descriptor {
	t.Helper()
	config := []byte("{}")
	r.putBlob(t, repository, config)
	manifest := &image.Manifest{Config: image.Descriptor{MediaType: emptyType, Digest: image.DigestOf(config), Size: 2}, MediaType: image.MediaTypeOCIManifest}
	for _, f := range files {
		blob := []byte(f.content)
		r.putBlob(t, repository, blob)
		l := image.Descriptor{MediaType: f.mediaType, Digest: image.DigestOf(blob), Size: int64(len(blob))}
		if f.name != "" {
			l.Annotations = map[string]string{titleKey: f.name}
		}
		manifest.Layers = append(manifest.Layers, l)
	}
	return r.put(t, repository, tag, image.MediaTypeOCIManifest, toJSON(manifest))
}

// wantFiles says what a layer has.
func (b *bench) wantFile(t testing.TB, id image.Digest, name, content string) {
	t.Helper()
	path := filepath.Join(b.layers.Path(id, layer.Tree), name)
	data, err := os.ReadFile(path)
	if err != nil || string(data) != content {
		t.Errorf("%s: %q, %v, want %q", name, data, err, content)
	}
	if info, err := os.Stat(path); err == nil && info.Mode() != 0o644 {
		t.Errorf("%s: %v", name, info.Mode())
	}
}

func TestTheFilesOfAnArtifactAreItsLayers(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	big := strings.Repeat("weights ", 1<<17)
	r.pushFiles(t, "model", "1", weights("w/model.gguf", big), weights("LICENSE", "free"), weights("empty", ""),
		file{"", "application/vnd.cncf.model.code.v1.tar", string(storetest.Tar(storetest.File("code/run.py", "print()")))})
	got := b.pull(t, r.ref("model:1"))
	if len(got.Layers) != 4 || !slices.Equal(got.Layers, got.Config.DiffIDs) {
		t.Fatalf("%+v", got)
	}
	b.wantFile(t, got.Layers[0], "w/model.gguf", big)
	b.wantFile(t, got.Layers[1], "LICENSE", "free")
	b.wantFile(t, got.Layers[2], "empty", "")
	b.wantFile(t, got.Layers[3], "code/run.py", "print()")
	if blobs := r.requests("/blobs/"); len(blobs) != 4 {
		t.Errorf("asked for %q", blobs)
	}
	// Again it is the same, and nothing is fetched.
	if again := b.pull(t, uncached(r.ref("model:1"))); again.ID != got.ID || !slices.Equal(again.Layers, got.Layers) {
		t.Errorf("again it is %+v", again)
	}
	if again := b.pull(t, r.ref("model:1")); again.ID != got.ID {
		t.Errorf("again it is %+v", again)
	}
}

func TestAFileOfAnotherArtifactIsNotFetchedAgain(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.pushFiles(t, "model", "1", weights("w", "weights"), weights("README", "one"))
	r.pushFiles(t, "model", "2", weights("w", "weights"), weights("README", "two"))
	r.pushFiles(t, "model", "3", weights("renamed", "weights"))
	one := b.pull(t, r.ref("model:1"))
	before := len(r.requests("/blobs/"))
	two := b.pull(t, r.ref("model:2"))
	if n := len(r.requests("/blobs/")) - before; n != 1 || two.Layers[0] != one.Layers[0] || two.Layers[1] == one.Layers[1] {
		t.Errorf("%d blobs were fetched for %v, beside %v", n, two.Layers, one.Layers)
	}
	b.wantFile(t, two.Layers[1], "README", "two")
	three := b.pull(t, r.ref("model:3"))
	b.wantFile(t, three.Layers[0], "renamed", "weights")
}

func TestALostFileIsFetchedAgain(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.pushFiles(t, "model", "1", weights("w", "weights"), weights("README", "one"))
	got := b.pull(t, r.ref("model:1"))
	lose := func() {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(b.layers.Dir(), "layers", got.Layers[0].String())); err != nil {
			t.Fatal(err)
		}
	}
	for name, img := range map[string]func() storetest.Pulled{
		"known":       func() storetest.Pulled { return b.pull(t, r.ref("model:1")) },
		"asked again": func() storetest.Pulled { return b.pull(t, uncached(r.ref("model:1"))) },
		"by another name": func() storetest.Pulled {
			r.pushFiles(t, "model", "2", weights("w", "weights"))
			return b.pull(t, r.ref("model:2"))
		},
	} {
		lose()
		if again := img(); again.Layers[0] != got.Layers[0] {
			t.Errorf("%s: %v, was %v", name, again.Layers, got.Layers)
		}
		b.wantFile(t, got.Layers[0], "w", "weights")
	}
	lose()
	lease, err := b.layers.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fetched, err := b.Refetch(t.Context(), layer.Tree, got.Layers[:1], lease)
	if err != nil || !slices.Equal(fetched, got.Layers[:1]) {
		t.Errorf("fetched again: %v, %v", fetched, err)
	}
	if err := lease.Release(); err != nil {
		t.Error(err)
	}
}

func TestAFileWithWrongBytesIsRefused(t *testing.T) {
	content := strings.Repeat("weights ", 1000)
	for name, wrong := range map[string][]byte{
		"others": bytes.ToUpper([]byte(content)), "fewer": []byte(content[1:]), "more": []byte(content + "x"), "none": {},
	} {
		t.Run(name, func(t *testing.T) {
			r, b := newTestRegistry(t), newBench(t)
			r.pushFiles(t, "model", "1", weights("LICENSE", "free"), weights("w", content))
			digest := image.DigestOf([]byte(content))
			r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
				if !strings.HasSuffix(req.URL.Path, digest.String()) {
					return false
				}
				_, _ = w.Write(wrong)
				return true
			})
			storetest.WantError(t, b.fails(t, r.ref("model:1")), nil, "layer "+digest.String())
			b.wantNothing(t)
		})
	}
}

func TestArtifactsThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		files []file
		class error
		says  string
	}{
		"a name that climbs":    {[]file{weights("../x", "x")}, container.ErrInvalid, "../x"},
		"a whiteout":            {[]file{weights(".wh..wh..opq", "x")}, container.ErrInvalid, ".wh."},
		"a file without a name": {[]file{weights("", "x")}, container.ErrNotSupported, titleKey},
		"a tar that is none":    {[]file{{"", "application/x.tar", strings.Repeat("no tar ", 1000)}}, container.ErrInvalid, "layer sha256:"},
		"a tar that leaves":     {[]file{{"", "application/x.tar", string(storetest.Tar(storetest.File("../evil", "x")))}}, container.ErrInvalid, "../evil"},
		"two files of one name": {[]file{weights("a", "x"), weights("a", "y")}, container.ErrInvalid, "another file"},
	} {
		t.Run(name, func(t *testing.T) {
			r, b := newTestRegistry(t), newBench(t)
			r.pushFiles(t, "bad", "1", c.files...)
			storetest.WantError(t, b.fails(t, r.ref("bad:1")), c.class, c.says, "pull "+r.host+"/bad:1: ")
			b.wantNothing(t)
		})
	}
}

// The report tells of the layers of an artifact as of those of an image.
func TestTheReportOfAnArtifact(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.pushFiles(t, "model", "1", weights("a", "weights"), weights("b", "more weights"))
	found, err := b.Get(t.Context(), r.ref("model:1"), layer.Tree)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := found.Release(); err != nil {
			t.Error(err)
		}
	}()
	for i, l := range found.Pull.Layers {
		if l.Layer != found.Layers[i] || !l.Fetched || l.Unpacked == 0 || len(l.Stages) == 0 {
			t.Errorf("layer %d: %+v", i, l)
		}
	}
}
