package docker

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/provisioner/store/storetest"
	"berth/registry"
)

// withConfig adds a docker configuration to a request.
func withConfig(img *v1.Image, format string, args ...any) *v1.Image {
	img = proto.CloneOf(img)
	img.Docker.Config = &v1.Secret{Type: v1.Secret_VALUE.Enum(), Value: &v1.Secret_Value{Data: fmt.Appendf(nil, format, args...)}}
	return img
}

func TestCredentialsOfARequest(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.push(t, "private", "1", madeImage{layers: []madeLayer{gzipped(layerA)}})
	r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		_, password, _ := req.BasicAuth()
		denied := password != "hunter2"
		if denied {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
		}
		return denied
	})
	img := r.ref("private:1")
	storetest.WantError(t, b.fails(t, img), container.ErrDenied)
	wrong := b.fails(t, withConfig(img, `{"auths":{%q:{"username":"bob","password":"hunter1"}}}`, r.host))
	storetest.WantError(t, wrong, container.ErrDenied)
	if bytes.Contains([]byte(wrong.Error()), []byte("hunter1")) {
		t.Errorf("the error tells the password: %v", wrong)
	}
	t.Setenv("PATH", filepath.Dir(executable(t, "docker-credential-mine", "#!/bin/sh\necho '{\"Username\":\"bob\",\"Secret\":\"hunter2\"}'\n")))
	storetest.WantError(t, b.fails(t, withConfig(img, `{"credsStore":"mine"}`)), container.ErrDenied)
	storetest.WantError(t, b.fails(t, withConfig(img, `hunter2`)), container.ErrInvalid, "credentials in the request")
	reference := withConfig(img, "")
	reference.Docker.Config = &v1.Secret{Type: v1.Secret_REFERENCE.Enum(), Reference: &v1.Secret_Reference{Name: proto.String("s")}}
	storetest.WantError(t, b.fails(t, reference), container.ErrNotSupported, "REFERENCE")
	b.pull(t, withConfig(img, `{"auths":{%q:{"username":"bob","password":"hunter2"}}}`, r.host))
	b.pull(t, reference) // from the store, where nobody is asked
}

func executable(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(os.WriteFile(path, []byte(text), 0o755))
	return path
}

// Pulls with different credentials do not share what one of them may have.
func TestCredentialsHavePullsOfTheirOwn(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.push(t, "slow", "1", madeImage{layers: []madeLayer{gzipped(layerA)}})
	asked, answer := slowRegistry(r, http.StatusForbidden)
	plain := b.get(t.Context(), r.ref("slow:1"))
	<-asked
	if err := <-b.get(t.Context(), withConfig(r.ref("slow:1"), `{"auths":{}}`)); err != nil {
		t.Error(err)
	}
	close(answer)
	storetest.WantError(t, <-plain, container.ErrDenied)
}

func TestADirectoryOfArchives(t *testing.T) {
	for _, c := range []struct{ file, tag, name string }{
		{"alpine", "alpine:latest", "alpine"},
		{"alpine:latest", "alpine:latest", "alpine"},
		{"library/alpine", "alpine:latest", "docker.io/library/alpine"},
		{"busybox:1.0", "busybox:1.0", "busybox:1.0"},
		{"a/b", "a/b:latest", "a/b"},
		{"r.example.com/a:1", "r.example.com/a:1", "r.example.com/a:1"},
	} {
		b := newBench(t)
		archives := t.TempDir()
		b.open(t, Options{Archives: archives})
		path := filepath.Join(archives, c.file+".tar")
		must(os.MkdirAll(filepath.Dir(path), 0o755))
		m := madeImage{layers: []madeLayer{plain(layerA)}}
		must(os.WriteFile(path, savedArchive(m, c.tag), 0o644))
		if got := b.pull(t, named(c.name)); got.ID != image.DigestOf(m.configuration()) {
			t.Errorf("%s from %s: %s", c.name, c.file, got.ID)
		}
		storetest.WantError(t, b.fails(t, named("other")), container.ErrNotFound, filepath.Join(archives, "other.tar"))
		storetest.WantError(t, b.fails(t, named("a@"+image.DigestOf(nil).String())), container.ErrNotSupported, "by tag")
	}
}

// savedArchive is what `docker save` writes.
func savedArchive(m madeImage, tag string) []byte {
	nodes := []storetest.Entry{storetest.File("config.json", string(m.configuration()))}
	var layers []string
	for i, l := range m.layers {
		name := fmt.Sprintf("%d.tar", i)
		layers = append(layers, name)
		nodes = append(nodes, storetest.File(name, string(l.tar)))
	}
	manifest := toJSON([]savedImage{{Config: "config.json", RepoTags: []string{tag}, Layers: layers}})
	return storetest.Tar(append(nodes, storetest.File("manifest.json", string(manifest)))...)
}

// large is a layer of which something is kept.
func large() madeLayer {
	return plain(storetest.Tar(storetest.File("large", string(bytes.Repeat([]byte("0123456789abcdef"), 3<<16)))))
}

// What an interrupted pull has fetched of a large layer is not fetched again, and nothing
// is kept once the image is there.
func TestALargeLayerGoesOnWhereItWas(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(path string)
		ranges []string
	}{
		"as it was kept":           {func(string) {}, []string{"bytes=2000000-"}},
		"damaged by a power cut":   {func(path string) { must(os.WriteFile(path, make([]byte, 1<<20), 0o600)) }, []string{"bytes=1048576-", ""}},
		"more than the whole blob": {func(path string) { must(os.Truncate(path, 1<<30)) }, []string{""}},
		"lost":                     {func(path string) { must(os.Remove(path)) }, []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			r, b := newTestRegistry(t), newBench(t)
			l := large()
			r.push(t, "large", "1", madeImage{layers: []madeLayer{l}})
			id := image.DigestOf(l.blob)
			const cut = 2_000_000
			var mu sync.Mutex // of what follows
			var ranges []string
			broken := true
			r.intercept(func(w http.ResponseWriter, req *http.Request) bool {
				if filepath.Base(req.URL.Path) != id.String() {
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				if !broken {
					ranges = append(ranges, req.Header.Get("Range"))
					return false
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(l.blob)))
				if req.Header.Get("Range") == "" {
					_, _ = w.Write(l.blob[:cut])
				}
				panic(http.ErrAbortHandler)
			})
			storetest.WantError(t, b.fails(t, r.ref("large:1")), container.ErrUnavailable)
			path := filepath.Join(b.dir, "docker/partial", id.Hex())
			if info, err := os.Stat(path); err != nil || info.Size() != int64(cut) {
				t.Fatalf("kept are %v, %v", info, err)
			}
			c.damage(path)
			mu.Lock()
			broken = false
			mu.Unlock()
			b.pull(t, r.ref("large:1"))
			for i := range c.ranges {
				if c.ranges[i] != "" {
					c.ranges[i] += fmt.Sprint(len(l.blob) - 1)
				}
			}
			if !slices.Equal(ranges, c.ranges) {
				t.Errorf("asked for %q, want %q", ranges, c.ranges)
			}
			if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
				t.Errorf("kept after all: %s", left)
			}
		})
	}
}

// A wrong layer of a mirror is fetched from the registry.
func TestAMirrorWithAWrongLayer(t *testing.T) {
	r, mirror, b := newTestRegistry(t), newTestRegistry(t), newBench(t)
	m := madeImage{layers: []madeLayer{gzipped(layerA), gzipped(layerB)}}
	r.push(t, "a", "1", m)
	mirror.push(t, "a", "1", m)
	bad := m.layers[0].blob
	mirror.intercept(func(w http.ResponseWriter, req *http.Request) bool {
		wrong := filepath.Base(req.URL.Path) == image.DigestOf(bad).String()
		if wrong {
			_, _ = w.Write(make([]byte, len(bad)))
		}
		return wrong
	})
	conf := filepath.Join(t.TempDir(), "registries.conf")
	must(os.WriteFile(conf, fmt.Appendf(nil, "[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\n", r.host, mirror.host), 0o600))
	b.open(t, Options{Registry: registry.NewClient(registry.Options{Keychain: &registry.DockerConfig{}, RegistriesConf: conf, Attempts: 1})})
	b.pull(t, r.ref("a:1"))
	if asked := r.requests(""); len(asked) != 1 {
		t.Errorf("the registry was asked for %q", asked)
	}
}
