package oci

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner/store"
	"berth/provisioner/store/storetest"
)

// The conformance suite, for each way in which a layout can lie on disk.
func TestConformance(t *testing.T) {
	whole := func(b []byte) []byte { return b }
	for _, c := range []struct {
		name    string
		publish func(tb testing.TB, path string, m *made) (opened string)
		ask     string
	}{
		{"directory", func(tb testing.TB, path string, m *made) string {
			m.write(tb, path)
			return filepath.Join(path, image.LayoutIndexFile)
		}, "oci:%s:tag"},
		{"archive", inFile(whole), "oci-archive:%s"},
		{"gzip archive", inFile(gzipped), "oci-archive:%s:tag"},
	} {
		t.Run(c.name, func(t *testing.T) {
			storetest.Run(t, func(tb testing.TB, dir string) storetest.Source {
				opened := newOpens(tb)
				path := func(name string) string { return filepath.Join(dir, name) }
				return storetest.Source{
					Open: func(tb testing.TB, layers *layer.Store, progress store.Progress) store.Store {
						return openStore(tb, dir, layers, progress)
					},
					Publish: func(tb testing.TB, name string, img storetest.Image) {
						opened.add(c.publish(tb, path(name), single(img...)))
					},
					Image:    func(name string) *v1.Image { return named(fmt.Sprintf(c.ask, path(name))) },
					Requests: opened.count,
				}
			})
		})
	}
}

func inFile(wrap func([]byte) []byte) func(testing.TB, string, *made) string {
	return func(tb testing.TB, path string, m *made) string {
		replace(tb, path, wrap(m.tar()))
		return path
	}
}

// both asks for the image of a layout in a directory and in an archive.
func both(t *testing.T, m *made, suffix string, look func(t *testing.T, b *bench, path string, img *v1.Image)) {
	t.Helper()
	t.Run("directory", func(t *testing.T) {
		b := newBench(t)
		path := filepath.Join(b.dir, "layout")
		m.write(t, path)
		look(t, b, path, named("oci:"+path+suffix))
	})
	t.Run("archive", func(t *testing.T) {
		b := newBench(t)
		path := filepath.Join(b.dir, "layout.tar")
		replace(t, path, m.tar())
		look(t, b, path, named("oci-archive:"+path+suffix))
	})
}

func TestChoiceOfAnImage(t *testing.T) {
	m := newMade()
	m.name("one", m.image(image.HostPlatform(), layerA))
	m.name("registry.example:5000/two:2", m.image(image.HostPlatform(), layerB))
	m.name("", m.image(image.HostPlatform(), layerC))
	both(t, m, ":one", func(t *testing.T, b *bench, _ string, img *v1.Image) {
		if got := b.pull(t, img); !slices.Equal(got.Record.Layers, digestsOf(layerA)) {
			t.Errorf("layers are %v", got.Record.Layers)
		}
	})
	both(t, m, ":registry.example:5000/two:2", func(t *testing.T, b *bench, _ string, img *v1.Image) {
		if got := b.pull(t, img); !slices.Equal(got.Record.Layers, digestsOf(layerB)) {
			t.Errorf("layers are %v", got.Record.Layers)
		}
	})
	offered := []string{`"one"`, `"registry.example:5000/two:2"`, "and 1 without a name"}
	both(t, m, ":three", func(t *testing.T, b *bench, path string, img *v1.Image) {
		storetest.WantError(t, b.fails(t, img), container.ErrNotFound, append(offered, path, `image "three"`)...)
	})
	both(t, m, "", func(t *testing.T, b *bench, path string, img *v1.Image) {
		storetest.WantError(t, b.fails(t, img), container.ErrInvalid, append(offered, path, "oci:DIR:REF")...)
	})
	both(t, newMade().with(image.LayoutIndexFile, toJSON(&image.Index{MediaType: image.MediaTypeOCIIndex})), "", func(t *testing.T, b *bench, _ string, img *v1.Image) {
		storetest.WantError(t, b.fails(t, img), container.ErrInvalid, "it has no image")
	})
}

func TestChoiceOfAPlatform(t *testing.T) {
	arm, s390 := image.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, image.Platform{OS: "linux", Architecture: "s390x"}
	nested := newMade()
	entries := []image.Descriptor{nested.image(arm, layerA), nested.image(s390, layerB)}
	inner := nested.blob(image.MediaTypeOCIIndex, toJSON(&image.Index{MediaType: image.MediaTypeOCIIndex, Manifests: entries}))
	nested.name("tag", nested.blob(image.MediaTypeDockerList, toJSON(&image.Index{MediaType: image.MediaTypeDockerList, Manifests: []image.Descriptor{inner}})))
	flat := newMade() // several of one name
	flat.name("tag", flat.image(arm, layerA)).name("tag", flat.image(s390, layerB))
	for name, m := range map[string]*made{"nested indexes": nested, "entries of one name": flat} {
		t.Run(name, func(t *testing.T) {
			both(t, m, ":tag", func(t *testing.T, b *bench, _ string, img *v1.Image) {
				if got := b.pull(t, forPlatform(proto.CloneOf(img), "linux/s390x")); !slices.Equal(got.Record.Layers, digestsOf(layerB)) || got.Run.Env[0] != "FOR=linux/s390x" {
					t.Errorf("got %+v", got)
				}
				storetest.WantError(t, b.fails(t, forPlatform(proto.CloneOf(img), "linux/riscv64")), container.ErrNotFound, "linux/riscv64", "linux/arm64", "linux/s390x")
			})
		})
	}
	other := newMade()
	both(t, other.name("tag", other.image(s390, layerA)), ":tag", func(t *testing.T, b *bench, _ string, img *v1.Image) {
		storetest.WantError(t, b.fails(t, img), container.ErrNotFound, "it is for linux/s390x", "--platform")
	})
}

// index nests a manifest in so many indexes.
func nestedIn(depth int) *made {
	m := newMade()
	d := m.image(image.HostPlatform(), layerA)
	for range depth {
		d = m.blob(image.MediaTypeOCIIndex, toJSON(&image.Index{MediaType: image.MediaTypeOCIIndex, Manifests: []image.Descriptor{d}}))
	}
	return m.name("tag", d)
}

func TestNestedIndexes(t *testing.T) {
	both(t, nestedIn(3), "", func(t *testing.T, b *bench, _ string, img *v1.Image) { b.pull(t, img) })
	both(t, nestedIn(4), "", func(t *testing.T, b *bench, _ string, img *v1.Image) {
		storetest.WantError(t, b.fails(t, img), container.ErrInvalid, "nested more than 3 deep")
	})
	// An index cannot name itself by its digest, but it can try.
	m := newMade()
	self := image.Descriptor{MediaType: image.MediaTypeOCIIndex, Digest: digestsOf(layerA)[0], Size: 1000}
	body := toJSON(&image.Index{MediaType: image.MediaTypeOCIIndex, Manifests: []image.Descriptor{self}})
	self.Size = int64(len(body))
	body = toJSON(&image.Index{MediaType: image.MediaTypeOCIIndex, Manifests: []image.Descriptor{self}})
	self.Size = int64(len(body))
	both(t, m.with(image.BlobPath(self.Digest), body).name("tag", self), "", func(t *testing.T, b *bench, _ string, img *v1.Image) {
		storetest.WantError(t, b.fails(t, img), container.ErrInvalid, "its bytes have the digest")
	})
}

// schema1 is a manifest of Docker's schema 1 of one layer, which no layout may have.
var schema1 = `{"schemaVersion":1,"fsLayers":[{"blobSum":"` + image.DigestOf(nil).String() + `"}],"history":[{"v1Compatibility":"{\"id\":\"` + image.DigestOf(nil).Hex() + `\"}"}]}`

func TestBadLayouts(t *testing.T) {
	change := func(f func(m *made, manifest *image.Manifest)) *made {
		m := newMade()
		d := m.image(image.HostPlatform(), layerA, layerB)
		parsed, err := image.ParseManifest(d.MediaType, m.files[image.BlobPath(d.Digest)])
		must(err)
		f(m, parsed.(*image.Manifest))
		return m.name("tag", m.blob(image.MediaTypeOCIManifest, toJSON(parsed)))
	}
	blobOf := func(m *made, d image.Descriptor) string { return image.BlobPath(d.Digest) }
	raw := func(mediaType, body string) *made {
		m := newMade()
		return m.name("tag", m.blob(mediaType, []byte(body)))
	}
	for _, c := range []struct {
		name   string
		layout *made
		class  error
		says   []string
	}{
		{"no oci-layout", func() *made { m := single(layerA); delete(m.files, image.LayoutFile); return m }(), container.ErrNotFound, []string{"it is no OCI image layout"}},
		{"no index.json", newMade().with("x", nil), container.ErrNotFound, []string{"index.json"}},
		{"a layout of another version", single(layerA).with(image.LayoutFile, []byte(`{"imageLayoutVersion":"2.0.0"}`)), container.ErrNotSupported, []string{`"2.0.0"`}},
		{"a huge oci-layout", single(layerA).with(image.LayoutFile, bytes.Repeat([]byte(" "), 5<<20)), container.ErrInvalid, []string{"5242880 bytes"}},
		{"a huge index.json", single(layerA).with(image.LayoutIndexFile, bytes.Repeat([]byte(" "), 5<<20)), container.ErrInvalid, []string{"index.json", "5242880 bytes"}},
		{"an index.json that is none", single(layerA).with(image.LayoutIndexFile, []byte("[]")), container.ErrInvalid, []string{"index.json"}},
		{"an index.json that is a manifest", single(layerA).with(image.LayoutIndexFile, toJSON(&image.Manifest{MediaType: image.MediaTypeOCIManifest})), container.ErrInvalid, []string{"index.json"}},
		{"an index.json that is also a manifest", single(layerA).with(image.LayoutIndexFile, []byte(`{"schemaVersion":2,"manifests":[],"layers":[]}`)), container.ErrInvalid, []string{"could be taken for a manifest"}},
		{"a digest of sha512", single(layerA).with(image.LayoutIndexFile, []byte(`{"schemaVersion":2,"manifests":[{"mediaType":"`+image.MediaTypeOCIManifest+`","size":3,"digest":"sha512:`+strings.Repeat("ab", 64)+`"}]}`)),
			container.ErrNotSupported, []string{"sha512"}},
		{"a digest that leads out", single(layerA).with(image.LayoutIndexFile, []byte(`{"schemaVersion":2,"manifests":[{"mediaType":"`+image.MediaTypeOCIManifest+`","size":3,"digest":"sha256:../../../../etc/passwd"}]}`)),
			container.ErrInvalid, []string{"index.json"}},
		{"a manifest that is also an index", raw(image.MediaTypeOCIManifest, `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`), container.ErrInvalid, []string{"could be taken for an index"}},
		{"a manifest of another type than it was named as", raw(image.MediaTypeOCIManifest, `{"schemaVersion":2,"mediaType":"`+image.MediaTypeOCIIndex+`","manifests":[]}`), container.ErrInvalid, []string{"was named as"}},
		{"a manifest of schema 1", raw("application/vnd.docker.distribution.manifest.v1+json", schema1), container.ErrNotSupported, []string{"schema 1"}},
		{"an artifact without files", change(func(_ *made, m *image.Manifest) {
			m.Config.MediaType, m.Layers[0].MediaType = "application/vnd.example", "application/vnd.example"
		}), container.ErrNotSupported, []string{"an artifact"}},
		{"a huge manifest", raw(image.MediaTypeOCIManifest, strings.Repeat(" ", 5<<20)), container.ErrInvalid, []string{"5242880 bytes"}},
		{"a manifest of another size", func() *made {
			m := single(layerA)
			m.index.Manifests[0].Size++
			return m.with(image.LayoutIndexFile, toJSON(&m.index))
		}(), container.ErrInvalid, []string{"its descriptor says"}},
		{"a config that is missing", change(func(m *made, manifest *image.Manifest) { delete(m.files, blobOf(m, manifest.Config)) }), container.ErrNotFound, []string{"blobs/sha256/"}},
		{"a layer that is missing", change(func(m *made, manifest *image.Manifest) { delete(m.files, blobOf(m, manifest.Layers[1])) }), container.ErrNotFound, []string{"layer sha256:", "blobs/sha256/"}},
		{"a config with other bytes", change(func(m *made, manifest *image.Manifest) {
			m.files[blobOf(m, manifest.Config)] = bytes.Replace(m.files[blobOf(m, manifest.Config)], []byte("FOR="), []byte("FOR!"), 1)
		}), container.ErrInvalid, []string{"its bytes have the digest"}},
		{"a layer with other bytes", change(func(m *made, manifest *image.Manifest) {
			blob := bytes.Clone(m.files[blobOf(m, manifest.Layers[0])])
			blob[len(blob)-1]++
			m.files[blobOf(m, manifest.Layers[0])] = blob
		}), container.ErrInvalid, []string{"layer sha256:"}},
		{"a layer that is cut off", change(func(m *made, manifest *image.Manifest) {
			m.files[blobOf(m, manifest.Layers[0])] = m.files[blobOf(m, manifest.Layers[0])][:100]
		}), container.ErrInvalid, []string{"it has 100 bytes, its descriptor says"}},
		{"layers in another order", change(func(_ *made, manifest *image.Manifest) { slices.Reverse(manifest.Layers) }), container.ErrInvalid, []string{"the image's configuration says"}},
		{"a layer less", change(func(_ *made, manifest *image.Manifest) { manifest.Layers = manifest.Layers[:1] }), container.ErrInvalid, []string{"the manifest has 1 layers, the configuration names 2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			both(t, c.layout, "", func(t *testing.T, b *bench, path string, img *v1.Image) {
				storetest.WantError(t, b.fails(t, img), c.class, append(c.says, "pull oci", path)...)
				if recorded, err := b.List(t.Context()); err != nil || len(recorded) > 0 {
					t.Errorf("recorded: %v, %v", recorded, err)
				}
			})
		})
	}
}

// A directory may have been filled by a stranger. Bytes outside of it are not read, and
// nothing is waited for, whatever lies in the place of a file.
func TestAHostileDirectory(t *testing.T) {
	m := single(layerA)
	manifest := image.BlobPath(m.index.Manifests[0].Digest)
	for what, put := range map[string]func(path, aside string) error{
		"a link out":      func(path, aside string) error { return os.Symlink(aside, path) },
		"a link within":   func(path, _ string) error { return os.Symlink("../oci-layout", path) },
		"a link to a tty": func(path, _ string) error { return os.Symlink("/dev/tty", path) },
		"a FIFO":          func(path, _ string) error { return unix.Mkfifo(path, 0o644) },
		"a directory":     func(path, _ string) error { return os.Mkdir(path, 0o755) },
		"a device":        func(path, _ string) error { return unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) },
	} {
		for _, name := range []string{image.LayoutFile, image.LayoutIndexFile, manifest, "blobs/sha256", "blobs"} {
			t.Run(what+" for "+filepath.Base(name), func(t *testing.T) {
				b := newBench(t)
				path := filepath.Join(b.dir, "layout")
				m.write(t, path)
				aside := filepath.Join(b.dir, "aside")
				must(os.Rename(filepath.Join(path, name), aside))
				must(put(filepath.Join(path, name), aside))
				err := b.fails(t, named("oci:"+path))
				isFolder := !strings.Contains(filepath.Base(name), ".") && !strings.HasPrefix(name, "blobs/sha256/") && name != image.LayoutFile
				if isFolder && !strings.HasPrefix(what, "a link") {
					storetest.WantError(t, err, container.ErrNotFound, "blobs/")
				} else {
					storetest.WantError(t, err, container.ErrInvalid, "layout")
				}
			})
		}
	}
	t.Run("the directory itself may be a link", func(t *testing.T) {
		b := newBench(t)
		m.write(t, filepath.Join(b.dir, "layout"))
		must(os.Symlink("layout", filepath.Join(b.dir, "link")))
		b.pull(t, named("oci:"+b.dir+"/link"))
	})
}

func TestWhatIsNoLayout(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(b.dir, "file")
	must(os.WriteFile(file, []byte("text"), 0o600))
	must(unix.Mkfifo(filepath.Join(b.dir, "fifo"), 0o600))
	for _, c := range []struct {
		name  string
		class error
		says  string
	}{
		{"oci:" + b.dir + "/none", container.ErrNotFound, "no such file or directory"},
		{"oci:" + file, container.ErrInvalid, "oci-archive"},
		{"oci:" + b.dir + "/fifo", container.ErrInvalid, "oci-archive"},
		{"oci:" + b.dir, container.ErrNotFound, "it is no OCI image layout"},
		{"oci-archive:" + b.dir + "/none", container.ErrNotFound, "no such file or directory"},
		{"oci-archive:" + b.dir, container.ErrInvalid, "it is not a regular file"},
		{"oci-archive:" + b.dir + "/fifo", container.ErrInvalid, "it is not a regular file"},
		{"oci-archive:" + file, container.ErrInvalid, "the file is cut off"},
		{"alpine", container.ErrNotSupported, "oci:DIR[:REF]"},
		{"docker-archive:" + file, container.ErrNotSupported, "oci-archive:FILE[:REF]"},
	} {
		storetest.WantError(t, b.fails(t, named(c.name)), c.class, c.says)
	}
	m := single(layerA)
	for _, wrap := range []func([]byte) []byte{func(b []byte) []byte { return b }, gzipped, zstandard} {
		whole := wrap(m.tar())
		for _, at := range []int{0, 1, 511, 512, len(whole) / 2, len(whole) - 600} {
			if at < 0 || at >= len(whole) {
				continue
			}
			replace(t, file, whole[:at])
			storetest.WantError(t, b.fails(t, named("oci-archive:"+file)), container.ErrInvalid, "read archive: ")
		}
	}
}

// The images that a layout had are cached until index.json changes.
func TestAChangedLayout(t *testing.T) {
	b := newBench(t)
	path := filepath.Join(b.dir, "layout")
	first := single(layerA)
	first.write(t, path)
	img := named("oci:" + path + ":tag")
	b.pull(t, img)
	opened := newOpens(t)
	opened.add(filepath.Join(path, image.LayoutIndexFile))
	if again := b.pull(t, img); opened.count() != 0 || again.Fetched != 0 {
		t.Error("the unchanged layout was read again")
	}

	// Another image beside it: the first one's is the same, and nothing is fetched.
	both := single(layerA)
	both.name("other", both.image(image.HostPlatform(), layerA, layerB))
	both.write(t, path)
	if again := b.pull(t, img); again.Fetched != 0 {
		t.Errorf("fetched %d layers", again.Fetched)
	}
	if other := b.pull(t, named("oci:"+path+":other")); other.Fetched != 1 {
		t.Errorf("of the other image, which shares a layer, %d were fetched", other.Fetched)
	}

	// The tag moves.
	single(layerB).write(t, path)
	if moved := b.pull(t, img); !slices.Equal(moved.Record.Layers, digestsOf(layerB)) {
		t.Errorf("after the tag moved: %v", moved.Record.Layers)
	}
	// A recorded image is restored by digest, whatever its name means now.
	must(os.RemoveAll(filepath.Join(b.layers.Dir(), "layers", digestsOf(layerB)[0].String())))
	if again := b.pull(t, img); again.Fetched != 1 {
		t.Errorf("fetched %d layers again", again.Fetched)
	}
	must(os.RemoveAll(path))
	storetest.WantError(t, b.fails(t, img), container.ErrNotFound, path)
}

// Images of other tools are the same in a layout, in an archive, and in each compression.
func TestLayoutsOfOtherTools(t *testing.T) {
	testrig.RequireRoot(t)
	testrig.RequireTools(t, "skopeo", "umoci", "buildah")
	reg := testrig.Registry(t)
	ref := testrig.MultiLayerImage(t, reg, "tools/multi:1") // of buildah and umoci
	dir := testrig.TempDir(t)
	config := testrig.Skopeo(t, "inspect", "--raw", "--config", "--tls-verify=false", "docker://"+ref)
	for what, to := range map[string]string{
		"directory":    "oci:" + dir + "/layout:tag",
		"archive":      "oci-archive:" + dir + "/skopeo.tar:example.com/app:1",
		"zstd":         "oci:" + dir + "/zstd:tag",
		"nameless":     "oci:" + dir + "/nameless",
		"uncompressed": "oci:" + dir + "/plain:tag",
	} {
		t.Run(what, func(t *testing.T) {
			flags := map[string][]string{"zstd": {"--dest-compress", "--dest-compress-format=zstd"}, "uncompressed": {"--dest-decompress"}}[what]
			testrig.Skopeo(t, append(append([]string{"copy", "--quiet", "--src-tls-verify=false"}, flags...), "docker://"+ref, to)...)
			b := newBench(t)
			got := b.pull(t, named(to))
			parsed, err := image.ParseConfig([]byte(config))
			must(err)
			if !slices.Equal(got.DiffIDs, parsed.DiffIDs) {
				t.Errorf("diffIDs are %v, want %v", got.DiffIDs, parsed.DiffIDs)
			}
			if what != "zstd" && what != "uncompressed" && got.ID != image.DigestOf([]byte(config)) {
				t.Errorf("the id is %s, want that of the configuration", got.ID)
			}
		})
	}
	t.Run("umoci", func(t *testing.T) {
		path := filepath.Join(dir, "umoci")
		run(t, "umoci", "init", "--layout", path)
		for _, tag := range []string{"one", "two"} {
			run(t, "umoci", "new", "--image", path+":"+tag)
			tar := filepath.Join(dir, tag+".tar")
			must(os.WriteFile(tar, storetest.Layer(tag, 1000), 0o600))
			run(t, "umoci", "raw", "add-layer", "--image", path+":"+tag, tar)
		}
		b := newBench(t)
		for _, tag := range []string{"one", "two"} {
			if got := b.pull(t, named("oci:"+path+":"+tag)); !slices.Equal(got.Record.Layers, digestsOf(storetest.Layer(tag, 1000))) {
				t.Errorf("%s has the layers %v", tag, got.Record.Layers)
			}
		}
		storetest.WantError(t, b.fails(t, named("oci:"+path)), container.ErrInvalid, `it has ["one" "two"]`)
	})
	t.Run("buildah", func(t *testing.T) {
		storage := []string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs"}
		buildah := func(command string, args ...string) string {
			return run(t, "buildah", append(append([]string{command}, storage...), args...)...)
		}
		from := buildah("from", "--pull-never", "scratch")
		must(os.WriteFile(dir+"/file", []byte("content"), 0o600))
		buildah("copy", from, dir+"/file", "/file")
		buildah("commit", "--quiet", from, "localhost/built:1")
		buildah("push", "--quiet", "localhost/built:1", "oci-archive:"+dir+"/buildah.tar:localhost/built:1")
		id := buildah("images", "--no-trunc", "--quiet", "localhost/built:1")
		b := newBench(t)
		for _, name := range []string{"oci-archive:" + dir + "/buildah.tar", "oci-archive:" + dir + "/buildah.tar:localhost/built:1"} {
			if got := b.pull(t, named(name)); got.ID.String() != id || len(got.Record.Layers) != 1 {
				t.Errorf("%s is %s with %d layers, want %s", name, got.ID, len(got.Record.Layers), id)
			}
		}
	})
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// What is no image, but files in a layout: ORAS and the model tools write such.
func TestTheFilesOfAnArtifactInALayout(t *testing.T) {
	m := newMade()
	manifest := image.Manifest{MediaType: image.MediaTypeOCIManifest, Config: m.blob("application/vnd.oci.empty.v1+json", []byte("{}"))}
	for name, content := range map[string]string{"w/model.bin": "weights", "LICENSE": "free"} {
		l := m.blob("application/vnd.example.weights", []byte(content))
		l.Annotations = map[string]string{"org.opencontainers.image.title": name}
		manifest.Layers = append(manifest.Layers, l)
	}
	m.name("tag", m.blob(image.MediaTypeOCIManifest, toJSON(&manifest)))
	both(t, m, "", func(t *testing.T, b *bench, _ string, img *v1.Image) {
		got := b.pull(t, img)
		if got.Fetched != 2 || len(got.Layers) != 2 {
			t.Errorf("%d layers were fetched of %v", got.Fetched, got.Layers)
		}
		for i, l := range manifest.Layers {
			name := l.Annotations["org.opencontainers.image.title"]
			data, err := os.ReadFile(filepath.Join(b.layers.Path(got.Layers[i], layer.Tree), name))
			if err != nil || image.DigestOf(data) != l.Digest {
				t.Errorf("%s: %q, %v", name, data, err)
			}
		}
		if again := b.pull(t, img); again.ID != got.ID || again.Fetched != 0 {
			t.Errorf("again: %+v", again)
		}
	})
}
