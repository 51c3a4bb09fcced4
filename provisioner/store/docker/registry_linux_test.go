package docker

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store"
	"berth/provisioner/store/fetch"
	"berth/provisioner/store/storetest"
)

var (
	layerA = storetest.Layer("a", 5000)
	layerB = storetest.Layer("b", 300_000)
	layerC = storetest.Layer("c", 700)
)

func digestsOf(layers ...[]byte) []image.Digest { return storetest.Image(layers).DiffIDs() }

func TestFormatsAndCompressions(t *testing.T) {
	r := newTestRegistry(t)
	for _, c := range []struct {
		name string
		madeImage
	}{
		{"OCI", madeImage{layers: []madeLayer{gzipped(layerA), zstandard(layerB), plain(layerC)}}},
		{"Docker", madeImage{docker: true, layers: []madeLayer{gzipped(layerA), zstandard(layerB), plain(layerC)}}},
		{"under the wrong media types", madeImage{layers: []madeLayer{
			{layerA, gzipped(layerA).blob, plain(nil).mediaType},
			{layerB, layerB, zstandard(nil).mediaType},
			{layerC, zstandard(layerC).blob, gzipped(nil).mediaType}}}},
		{"a layer of two gzip streams", madeImage{layers: []madeLayer{
			gzipped(layerA), {layerB, append(gzipped(layerB[:1000]).blob, gzipped(layerB[1000:]).blob...), gzipped(nil).mediaType}, gzipped(layerC)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			pushed := r.push(t, "formats", "1", c.madeImage)
			got := b.pull(t, r.ref("formats:1"))
			if want := digestsOf(layerA, layerB, layerC); !slices.Equal(got.Record.Layers, want) {
				t.Errorf("layers are %v, want %v", got.Record.Layers, want)
			}
			if got.Reference != r.host+"/formats:1" || got.ID != image.DigestOf(c.configuration()) {
				t.Errorf("recorded as %s with the id %s", got.Reference, got.ID)
			}
			rec := readRecord(t, b.recordPath(t, fetch.Key{Reference: mustParse(t, r.host+"/formats:1")}))
			if rec.ManifestDigest != pushed.Digest || image.DigestOf([]byte(rec.Manifest)) != pushed.Digest {
				t.Errorf("the manifest %s is recorded as %s", pushed.Digest, rec.ManifestDigest)
			}
		})
	}
}

func mustParse(t testing.TB, s string) image.Reference {
	t.Helper()
	reference, err := image.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return reference
}

// Other people's images: these state no platform in their configuration.
func TestImagesOfGoContainerRegistry(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	plainImage, err := random.Image(20_000, 5)
	must(err)
	configured, err := mutate.Config(plainImage, ggcr.Config{Entrypoint: []string{"/bin/x"}})
	must(err)
	asOCI := mutate.ConfigMediaType(mutate.MediaType(configured, types.OCIManifestSchema1), types.OCIConfigJSON)
	index, err := random.Index(1000, 2, 1)
	must(err)
	for what, pushed := range map[string]remote.Taggable{"docker": plainImage, "configured": configured, "oci": asOCI, "index": index} {
		t.Run(what, func(t *testing.T) {
			ref, err := name.ParseReference(r.direct+"/ggcr:"+what, name.Insecure)
			must(err)
			must(remote.Push(ref, pushed))
			got := b.pull(t, r.ref("ggcr:%s", what))
			img, ok := pushed.(ggcr.Image)
			if !ok {
				return // of an index without platforms, any image
			}
			config, err := img.ConfigName()
			must(err)
			if got.ID.String() != config.String() {
				t.Errorf("the id is %s, want %s", got.ID, config)
			}
			if what == "oci" && !slices.Equal(got.Run.Entrypoint, []string{"/bin/x"}) {
				t.Errorf("the entrypoint is %q", got.Run.Entrypoint)
			}
		})
	}
}

func TestIndexChoosesThePlatform(t *testing.T) {
	r := newTestRegistry(t)
	ids := make(map[string]image.Digest)
	made := func(platform string) image.Descriptor {
		m := madeImage{platform: platform, layers: []madeLayer{gzipped(layerC)}}
		ids[platform] = image.DigestOf(m.configuration())
		return entry(r.push(t, "multi", "", m), platform)
	}
	host := image.HostPlatform().String()
	own, arm, armv6, s390x := made(host), made("linux/arm64"), made("linux/arm/v6"), made("linux/s390x")
	attestation := entry(own, "")
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}

	r.pushIndex(t, "multi", "oci", image.MediaTypeOCIIndex, attestation, arm, armv6, own)
	r.pushIndex(t, "multi", "docker", image.MediaTypeDockerList, armv6, arm, own)
	inner := r.pushIndex(t, "multi", "", image.MediaTypeOCIIndex, armv6, own, arm)
	middle := r.pushIndex(t, "multi", "", image.MediaTypeOCIIndex, inner)
	r.pushIndex(t, "multi", "nested", image.MediaTypeOCIIndex, s390x, middle)
	deep := r.pushIndex(t, "multi", "deep3", image.MediaTypeOCIIndex, middle)
	r.pushIndex(t, "multi", "deep4", image.MediaTypeOCIIndex, deep)

	for _, c := range []struct{ tag, platform, want string }{
		{"oci", "", host},
		{"oci", "linux/arm64", "linux/arm64"},
		{"oci", "linux/arm/v7", "linux/arm/v6"},
		{"docker", "", host},
		{"docker", "Linux/AArch64", "linux/arm64"},
		{"nested", "", host},
		{"nested", "linux/s390x", "linux/s390x"},
		{"nested", "linux/arm64", "linux/arm64"},
		{"deep3", "linux/arm64", "linux/arm64"},
	} {
		t.Run(c.tag+" for "+c.platform, func(t *testing.T) {
			b := newBench(t)
			img := r.ref("multi:%s", c.tag)
			if c.platform != "" {
				img = forPlatform(img, c.platform)
			}
			got := b.pull(t, img)
			if got.ID != ids[c.want] || got.Record.Platform != c.platform {
				t.Errorf("got the image %s, recorded for %q; want that for %s", got.Run.Env, got.Record.Platform, c.want)
			}
		})
	}
	for _, c := range []struct {
		tag, platform string
		class         error
		says          []string
	}{
		{"oci", "linux/riscv64", container.ErrNotFound, []string{"image for linux/riscv64", "offered: ", "linux/arm64", "linux/arm/v6"}},
		{"oci", "linux/arm/v5", container.ErrNotFound, []string{"image for linux/arm/v5", "linux/arm/v6"}},
		{"deep4", "", container.ErrInvalid, []string{"indexes are nested more than 3 deep"}},
		{"oci", "linux", container.ErrInvalid, []string{`platform "linux"`, "OS/ARCHITECTURE"}},
	} {
		t.Run(c.tag+" not for "+c.platform, func(t *testing.T) {
			b := newBench(t)
			img := r.ref("multi:%s", c.tag)
			if c.platform != "" {
				img = forPlatform(img, c.platform)
			}
			storetest.WantError(t, b.fails(t, img), c.class, c.says...)
			b.wantNothing(t)
		})
	}
}

func TestConfigurationThatStatesOtherThanWanted(t *testing.T) {
	for _, c := range []struct {
		made, want string
		says       []string // nil: it suits
	}{
		{"none", "", nil},
		{"none", "linux/arm64", nil},
		{"linux/arm", "linux/arm/v6", nil}, // Docker wrote no variant before 2020
		{"linux/arm64", "linux/s390x", []string{"image for linux/s390x", "not found", "it is for linux/arm64", "--platform"}},
		{"windows/amd64", "linux/amd64", []string{"image for linux/amd64", "it is for windows/amd64"}},
	} {
		t.Run(c.made+" for "+c.want, func(t *testing.T) {
			r, b := newTestRegistry(t), newBench(t)
			m := madeImage{platform: c.made, layers: []madeLayer{gzipped(layerC)}}
			m.config = bytes.Replace(m.configuration(), []byte(`,"variant":"v7"`), nil, 1)
			r.push(t, "one", "1", m)
			img := r.ref("one:1")
			if c.want != "" {
				img = forPlatform(img, c.want)
			}
			if c.says == nil {
				b.pull(t, img)
				return
			}
			storetest.WantError(t, b.fails(t, img), container.ErrNotFound, c.says...)
			b.wantNothing(t)
		})
	}
}

func TestOneRecordForEachPlatform(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	host := image.HostPlatform().String()
	r.pushIndex(t, "multi", "latest", image.MediaTypeOCIIndex,
		entry(r.push(t, "multi", "", madeImage{platform: host, layers: []madeLayer{gzipped(layerA)}}), host),
		entry(r.push(t, "multi", "", madeImage{platform: "linux/s390x", layers: []madeLayer{gzipped(layerB)}}), "linux/s390x"))
	own := b.pull(t, r.ref("multi"))
	other := b.pull(t, forPlatform(r.ref("multi"), "linux/s390x"))
	if slices.Equal(own.Record.Layers, other.Record.Layers) {
		t.Error("both have the same layers")
	}
	before := len(r.requests(""))
	if again := b.pull(t, r.ref("multi")); again.ID != own.ID {
		t.Error("the image for the host became that for another platform")
	}
	if again := b.pull(t, forPlatform(r.ref("multi"), "linux/s390x")); again.ID != other.ID {
		t.Error("the image for the other platform became that for the host")
	}
	if n := len(r.requests("")) - before; n != 0 {
		t.Errorf("%d requests for images that are recorded", n)
	}
	recorded, err := b.List(t.Context())
	if err != nil || len(recorded) != 2 || recorded[0].Platform != "" || recorded[1].Platform != "linux/s390x" {
		t.Errorf("recorded: %+v, %v", recorded, err)
	}
	if err := b.Remove(t.Context(), r.ref("multi")); err != nil {
		t.Fatal(err)
	}
	if recorded, err := b.List(t.Context()); err != nil || len(recorded) != 0 {
		t.Errorf("recorded after the removal of the name: %+v, %v", recorded, err)
	}
}

func TestZeroLayers(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.push(t, "none", "1", madeImage{})
	for range 2 { // pulled, then cached
		if got := b.pull(t, r.ref("none:1")); len(got.Record.Layers) != 0 || got.Config == nil {
			t.Errorf("layers %v, configuration %v", got.Record.Layers, got.Config)
		}
	}
}

// The two blobs of one layer differ, which is no reason to keep it twice.
func TestDuplicateLayersInOtherCompressions(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.push(t, "twice", "1", madeImage{layers: []madeLayer{gzipped(layerA), gzipped(layerB), zstandard(layerA)}})
	if got, want := b.pull(t, r.ref("twice:1")), digestsOf(layerB, layerA); !slices.Equal(got.Record.Layers, want) {
		t.Errorf("layers are %v, want %v", got.Record.Layers, want)
	}
	if n := len(r.requests(image.DigestOf(gzipped(layerA).blob).String())); n != 0 {
		t.Errorf("the lower place was fetched %d times", n)
	}
}

func TestAMovedTagIsSeenWhenAskedTo(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.push(t, "moves", "1", madeImage{layers: []madeLayer{gzipped(layerA)}})
	old := b.pull(t, r.ref("moves:1"))
	r.push(t, "moves", "1", madeImage{layers: []madeLayer{gzipped(layerB)}})
	if got := b.pull(t, r.ref("moves:1")); got.ID != old.ID {
		t.Error("a cached image moved with its tag")
	}
	moved := b.pull(t, uncached(r.ref("moves:1")))
	if want := digestsOf(layerB); !slices.Equal(moved.Record.Layers, want) {
		t.Errorf("layers are %v, want %v", moved.Record.Layers, want)
	}
	if got := b.pull(t, r.ref("moves:1")); got.ID != moved.ID {
		t.Error("the record still has the old image")
	}
}

func TestManyGetsFetchOnce(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	m := madeImage{layers: []madeLayer{gzipped(layerA), gzipped(layerB), gzipped(layerC)}}
	r.push(t, "popular", "1", m)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			found, err := b.Get(t.Context(), r.ref("popular:1"), layer.Tree)
			if err != nil {
				t.Error(err)
				return
			}
			if err := found.Release(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, l := range m.layers {
		if n := len(r.requests(image.DigestOf(l.blob).String())); n != 1 {
			t.Errorf("a layer was fetched %d times", n)
		}
	}
	storetest.WantNoTrace(t, b.layers)
}

// slowRegistry answers its first request once it is let go, with a status or as the registry.
func slowRegistry(r *testRegistry, status int) (asked, answer chan struct{}) {
	asked, answer = make(chan struct{}), make(chan struct{})
	var others atomic.Bool
	r.intercept(func(w http.ResponseWriter, _ *http.Request) (taken bool) {
		if others.Swap(true) {
			return false
		}
		close(asked)
		<-answer
		if status != 0 {
			w.WriteHeader(status)
		}
		return status != 0
	})
	return asked, answer
}

// get is Get in the background.
func (b *bench) get(ctx context.Context, img *v1.Image) <-chan error {
	result := make(chan error, 1)
	go func() {
		found, err := b.Get(ctx, img, layer.Tree)
		if err == nil {
			err = found.Release()
		}
		result <- err
	}()
	return result
}

func TestBadImages(t *testing.T) {
	three := []madeLayer{gzipped(layerA), gzipped(layerB), gzipped(layerC)}
	wrongID := image.DigestOf([]byte("another layer"))
	set := func(member string, value any) func(map[string]any) {
		return func(manifest map[string]any) { manifest[member] = value }
	}
	for _, c := range []struct {
		name  string
		made  madeImage
		class error
		says  []string
	}{
		{"fewer diff_ids than layers", madeImage{layers: three, diffIDs: digestsOf(layerA, layerB)}, container.ErrInvalid,
			[]string{"the manifest has 3 layers, the configuration names 2"}},
		{"more diff_ids than layers", madeImage{layers: three[:1], diffIDs: digestsOf(layerA, layerB)}, container.ErrInvalid,
			[]string{"the manifest has 1 layers, the configuration names 2"}},
		{"a wrong diff_id", madeImage{layers: three, diffIDs: []image.Digest{digestsOf(layerA)[0], wrongID, digestsOf(layerC)[0]}}, container.ErrInvalid,
			[]string{"layer " + image.DigestOf(three[1].blob).String(), "uncompressed content has the digest " + digestsOf(layerB)[0].String(), "configuration says " + wrongID.String()}},
		{"layers and manifests", madeImage{layers: three, edit: set("manifests", []any{})}, container.ErrInvalid,
			[]string{"parse manifest", "member manifests", "could be taken for an index"}},
		{"another media type inside", madeImage{layers: three, edit: set("mediaType", image.MediaTypeOCIIndex)}, container.ErrInvalid,
			[]string{"it says that it is " + image.MediaTypeOCIIndex, "was named as " + image.MediaTypeOCIManifest}},
		{"an artifact", madeImage{edit: func(manifest map[string]any) {
			manifest["config"].(map[string]any)["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
		}}, container.ErrNotSupported, []string{"helm.config", "an artifact, not a container image"}},
		{"a layer of an unknown type", madeImage{layers: []madeLayer{{layerA, layerA, "application/x-7z-compressed"}}}, container.ErrNotSupported,
			[]string{"layer 0", "application/x-7z-compressed"}},
		{"a layer that is no tar", madeImage{layers: []madeLayer{gzipped(layerA), gzipped([]byte(strings.Repeat("no tar ", 1000)))}}, container.ErrInvalid,
			[]string{"layer sha256:"}},
		{"a layer that is broken gzip", madeImage{layers: []madeLayer{{layerB, gzipped(layerB).blob[:1000], gzipped(nil).mediaType}}}, container.ErrInvalid,
			[]string{"layer sha256:", "gzip"}},
		{"a layer that leaves its root", madeImage{layers: []madeLayer{gzipped(storetest.Tar(storetest.File("../evil", "x")))}}, container.ErrInvalid,
			[]string{"layer sha256:", "../evil"}},
		{"a configuration that is no JSON", madeImage{config: []byte("{]")}, container.ErrInvalid, []string{"parse image configuration", "not JSON"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, b := newTestRegistry(t), newBench(t)
			r.push(t, "bad", "1", c.made)
			err := b.fails(t, r.ref("bad:1"))
			storetest.WantError(t, err, c.class, append(c.says, "pull "+r.host+"/bad:1: ")...)
			b.wantNothing(t)
		})
	}
}

func TestLyingRegistry(t *testing.T) {
	m := madeImage{layers: []madeLayer{gzipped(layerA), gzipped(layerB)}}
	blob := m.layers[1].blob
	other := append([]byte("x"), blob[1:]...)
	body := func(status int, content []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			w.WriteHeader(status)
			_, _ = w.Write(content)
		}
	}
	endless := func(w http.ResponseWriter, req *http.Request) {
		w.WriteHeader(http.StatusOK)
		for req.Context().Err() == nil {
			if _, err := w.Write(blob); err != nil {
				return
			}
		}
	}
	for _, c := range []struct {
		name, path string
		answer     http.HandlerFunc
		class      error
		says       []string
	}{
		{"other bytes of the same size", "/blobs/" + image.DigestOf(blob).String(), body(200, other), container.ErrInvalid,
			[]string{"layer " + image.DigestOf(blob).String()}},
		{"more bytes than stated", "/blobs/" + image.DigestOf(blob).String(), body(200, append(blob[:len(blob):len(blob)], 'x')), container.ErrInvalid,
			[]string{fmt.Sprintf("it has %d bytes, the manifest says %d", len(blob)+1, len(blob))}},
		{"fewer bytes than stated", "/blobs/" + image.DigestOf(blob).String(), body(200, blob[:1000]), container.ErrInvalid,
			[]string{fmt.Sprintf("it has 1000 bytes, the manifest says %d", len(blob))}},
		{"a body that breaks off", "/blobs/" + image.DigestOf(blob).String(), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
			_, _ = w.Write(blob[:len(blob)/2])
			panic(http.ErrAbortHandler)
		}, container.ErrUnavailable, []string{fmt.Sprintf("of %d bytes", len(blob))}},
		{"an endless body", "/blobs/" + image.DigestOf(blob).String(), endless, container.ErrInvalid,
			[]string{fmt.Sprintf("goes on after its %d bytes", len(blob))}},
		{"a redirect in a circle", "/blobs/" + image.DigestOf(blob).String(), func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, req.URL.Path, http.StatusTemporaryRedirect)
		}, container.ErrInvalid, []string{"redirects lead in a circle"}},
		{"no layer", "/blobs/" + image.DigestOf(blob).String(), http.NotFound, container.ErrNotFound,
			[]string{"404", "the image is incomplete in the registry"}},
		{"another configuration", "/blobs/" + image.DigestOf(m.configuration()).String(), body(200, []byte(strings.Repeat(" ", len(m.configuration())))), container.ErrInvalid,
			[]string{"fetch blob " + image.DigestOf(m.configuration()).String(), "expected bytes with the digest"}},
		{"an endless configuration", "/blobs/" + image.DigestOf(m.configuration()).String(), endless, container.ErrInvalid,
			[]string{"goes on after its"}},
		{"an endless manifest", "/manifests/1", func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Type", image.MediaTypeOCIManifest)
			endless(w, req)
		}, container.ErrInvalid, []string{"fetch manifest of", "more than 4194304 bytes"}},
		{"an HTML page", "/manifests/1", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html>Welcome"))
		}, container.ErrInvalid, []string{"is this a registry?", "HTML"}},
		{"credentials wanted", "", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		}, container.ErrDenied, []string{"asks for a password", "no credentials for", "docker login"}},
		{"a failure", "", body(500, nil), container.ErrUnavailable, []string{"500"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, b := newTestRegistry(t), newBench(t)
			r.push(t, "lies", "1", m)
			r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
				if !strings.HasSuffix(req.URL.Path, c.path) {
					return false
				}
				c.answer(w, req)
				return true
			})
			err := b.fails(t, r.ref("lies:1"))
			storetest.WantError(t, err, c.class, append(c.says, "pull "+r.host+"/lies:1: ")...)
			b.wantNothing(t)

			r.intercept(nil)
			b.pull(t, r.ref("lies:1"))
		})
	}
}

func TestAManifestThatIsNotItsDigest(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	pushed := r.push(t, "lies", "1", madeImage{layers: []madeLayer{gzipped(layerA)}})
	r.push(t, "lies", "2", madeImage{layers: []madeLayer{gzipped(layerB)}})
	r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		if strings.HasSuffix(req.URL.Path, pushed.Digest.String()) {
			http.Redirect(w, req, "/v2/lies/manifests/2", http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	err := b.fails(t, r.ref("lies@%s", pushed.Digest))
	storetest.WantError(t, err, container.ErrInvalid, "expected bytes with the digest "+pushed.Digest.String())
	b.wantNothing(t)
}

func TestWhatIsNotThere(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.push(t, "known", "1", madeImage{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		img   *v1.Image
		class error
		says  []string
	}{
		{"tag", r.ref("known:2"), container.ErrNotFound, []string{"pull " + r.host + "/known:2: ", "404", "check the name and the tag"}},
		{"repository", r.ref("unknown"), container.ErrNotFound, []string{"pull " + r.host + "/unknown:latest: ", "404"}},
		{"registry", named(nobody + "/a"), container.ErrUnavailable, []string{"pull " + nobody + "/a:latest: ", "connection refused"}},
		{"name", named(""), container.ErrInvalid, []string{"image name"}},
		{"spelling", named("UPPER/case"), container.ErrInvalid, []string{"upper-case"}},
		{"transport", named("oci:/layout"), container.ErrNotSupported, []string{"oci:/layout", "the docker store has no images of the transport oci"}},
		{"type", &v1.Image{Type: v1.Image_OCI.Enum()}, container.ErrInvalid, []string{"type OCI", "for the docker store"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			storetest.WantError(t, b.fails(t, c.img), c.class, c.says...)
			b.wantNothing(t)
		})
	}
}

func TestProgressTellsEachLayer(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	m := madeImage{layers: []madeLayer{gzipped(layerA), gzipped(layerB)}}
	r.push(t, "told", "1", m)
	b.pull(t, r.ref("told:1"))
	m.layers = append(m.layers, gzipped(layerC))
	r.push(t, "told", "2", m)
	b.pull(t, r.ref("told:2"))

	stages := make(map[string][]store.Stage) // image, layer
	for _, e := range b.events {
		at := e.Image + " " + e.Layer.String()
		if seen := stages[at]; len(seen) == 0 || seen[len(seen)-1] != e.Stage {
			stages[at] = append(seen, e.Stage)
		}
		if e.Done > e.Total || e.Stage == store.Unpacked && e.Done != e.Total {
			t.Errorf("%d of %d bytes at the stage %d", e.Done, e.Total, e.Stage)
		}
	}
	fetched, present := []store.Stage{store.Waiting, store.Fetching, store.Unpacked}, []store.Stage{store.Present}
	for i, l := range m.layers {
		for tag, want := range map[string][]store.Stage{"1": fetched, "2": present} {
			switch {
			case i == 2 && tag == "1":
				continue
			case i == 2:
				want = fetched
			}
			at := fmt.Sprintf("%s/told:%s %s", r.host, tag, image.DigestOf(l.blob))
			if !slices.Equal(stages[at], want) {
				t.Errorf("%s went through %v, want %v", at, stages[at], want)
			}
		}
	}
}
