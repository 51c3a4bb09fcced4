package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"berth/container"
)

const (
	emptyConfig = `{"mediaType":"application/vnd.oci.empty.v1+json","digest":"` + digestA + `","size":2}`
	weights     = "application/vnd.cncf.model.weight.v1.raw"
)

// artifactOf is a manifest of files and tars: media types and annotations.
func artifactOf(layers ...string) string {
	for i, l := range layers {
		mediaType, annotations, _ := strings.Cut(l, " ")
		layers[i] = `{"mediaType":"` + mediaType + `","digest":"` + digestB + `","size":5,"annotations":{` + annotations + `}}`
	}
	return manifestOf(emptyConfig, strings.Join(layers, ","))
}

func titled(name string) string { return fmt.Sprintf("%q:%q", titleAnnotation, name) }

func TestLayersOfAnArtifactAreFilesOrTars(t *testing.T) {
	for layer, file := range map[string]string{
		weights + " " + titled("model.safetensors"):                                                         "model.safetensors",
		weights + " " + titled("a/b c/modèle.gguf"):                                                         "a/b c/modèle.gguf",
		weights + ` "org.cncf.model.filepath":"w.bin"`:                                                      "w.bin",
		weights + ` "org.cncf.model.filepath":"w.bin",` + titled("title.bin"):                               "title.bin",
		"text/plain " + titled("..."):                                                                       "...",
		"application/vnd.oci.image.layer.v1.tar " + titled("notes.txt"):                                     "notes.txt", // ORAS, of which it knows no type
		"application/vnd.oci.image.layer.v1.tar+gzip " + titled("d") + `,"` + unpackAnnotation + `":"true"`: "",          // ORAS, a directory
		"application/vnd.oci.image.layer.v1.tar+gzip":                                                       "",
		"application/vnd.cncf.model.weight.v1.tar " + titled("w"):                                           "",
		"application/vnd.cncf.helm.chart.content.v1.tar+gzip":                                               "",
	} {
		document, err := ParseManifest(MediaTypeOCIManifest, []byte(artifactOf(layer)))
		if err != nil {
			t.Errorf("%s: %v", layer, err)
			continue
		}
		if m := document.(*Manifest); !m.Artifact() || m.Layers[0].File != file {
			t.Errorf("%s: an artifact: %v, the file %q, want %q", layer, m.Artifact(), m.Layers[0].File, file)
		}
	}
	// Whatever its annotations are, a layer of an image is a tar.
	layer := strings.Replace(goodLayer, `"size"`, `"annotations":{`+titled("x")+`},"size"`, 1)
	if document, err := ParseManifest("", []byte(manifestOf(goodConfig, layer))); err != nil || document.(*Manifest).Artifact() || document.(*Manifest).Layers[0].File != "" {
		t.Errorf("an image: %+v, %v", document, err)
	}
}

func TestArtifactsThatCannotBeUsed(t *testing.T) {
	for name, c := range map[string]struct {
		body  string
		class error
		says  string
	}{
		"a file without a name":         {artifactOf(weights), container.ErrNotSupported, titleAnnotation},
		"an empty name":                 {artifactOf(weights + " " + titled("")), container.ErrNotSupported, titleAnnotation},
		"a signature":                   {artifactOf("application/vnd.dev.cosign.simplesigning.v1+json"), container.ErrNotSupported, "simplesigning"},
		"nothing at all":                {artifactOf(), container.ErrNotSupported, "an artifact, not a container image"},
		"two files of one name":         {artifactOf(weights+" "+titled("a"), weights+" "+titled("b"), weights+" "+titled("a")), container.ErrInvalid, "layer 2: invalid: there is another file \"a\""},
		"a name that climbs":            {artifactOf(weights + " " + titled("../x")), container.ErrInvalid, "../x"},
		"a name that climbs later":      {artifactOf(weights + " " + titled("a/../../x")), container.ErrInvalid, "plain relative path"},
		"a name that is the parent":     {artifactOf(weights + " " + titled("..")), container.ErrInvalid, ".."},
		"a name that is the directory":  {artifactOf(weights + " " + titled(".")), container.ErrInvalid, `"."`},
		"an absolute name":              {artifactOf(weights + " " + titled("/etc/passwd")), container.ErrInvalid, "plain relative path"},
		"a name that is a directory":    {artifactOf(weights + " " + titled("a/")), container.ErrInvalid, "plain relative path"},
		"a name that is not clean":      {artifactOf(weights + " " + titled("a//b")), container.ErrInvalid, "plain relative path"},
		"a whiteout":                    {artifactOf(weights + " " + titled("a/.wh.b")), container.ErrInvalid, ".wh.b"},
		"a name that clears the screen": {artifactOf(weights + ` "` + titleAnnotation + `":"\u001b[2J"`), container.ErrInvalid, "plain relative path"},
		"a name with a NUL":             {artifactOf(weights + ` "` + titleAnnotation + `":"a\u0000b"`), container.ErrInvalid, "plain relative path"},
		"a name of 256 letters":         {artifactOf(weights + " " + titled(strings.Repeat("x", 256))), container.ErrInvalid, "in the name of a file"},
		"a name of 5000 letters":        {artifactOf(weights + " " + titled(strings.Repeat("x/", 2500)+"x")), container.ErrInvalid, "plain relative path"},
		"of Docker's own format":        {strings.Replace(artifactOf(weights+" "+titled("a")), `{"schemaVersion":2,`, `{"schemaVersion":2,"mediaType":"`+MediaTypeDockerManifest+`",`, 1), container.ErrNotSupported, "an artifact, not a container image"},
	} {
		if document, err := ParseManifest("", []byte(c.body)); !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v; want class %v and the words %q", name, document, err, c.class, c.says)
		}
	}
}

func tarOf(t *testing.T, d Descriptor, content io.Reader) []byte {
	t.Helper()
	r, err := d.Tar(content)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(iotest.OneByteReader(r))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAFileMakesOneTarForEver(t *testing.T) {
	// A change here is a change of the diffIDs that are on disk.
	for name, want := range map[string]Digest{
		"hello.txt": "sha256:fa01e42d19005c93c2a6fc09347768cc08a524c9a3d7cc27b5b992321e01474a",
		"a/" + strings.Repeat("long/", 60) + "modèle.gguf": "sha256:e32f80cb17093e47dd9e8790d249eda5473b4b2e491e8a3101229b25bbc91a47",
	} {
		data := tarOf(t, Descriptor{File: name, Size: 6}, strings.NewReader("hello\n"))
		if got := DigestOf(data); got != want {
			t.Errorf("the tar of %.20s has the digest %s, want %s", name, got, want)
		}
		r := tar.NewReader(strings.NewReader(string(data)))
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Name != name || h.Size != 6 || h.Mode != 0o644 || h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 || h.Typeflag != tar.TypeReg {
			t.Errorf("%+v", h)
		}
		if content, err := io.ReadAll(r); string(content) != "hello\n" || err != nil {
			t.Errorf("%q, %v", content, err)
		}
		if _, err := r.Next(); err != io.EOF || len(data)%512 != 0 {
			t.Errorf("after it: %v, %d bytes", err, len(data))
		}
	}
}

func TestTheTarOfAFileIsWholeOrAnError(t *testing.T) {
	for _, size := range []int64{0, 1, 511, 512, 513, 1024} {
		data := tarOf(t, Descriptor{File: "f", Size: size}, strings.NewReader(strings.Repeat("x", int(size))))
		if want := 512 + (size+511)/512*512 + 1024; int64(len(data)) != want {
			t.Errorf("of %d bytes: %d, want %d", size, len(data), want)
		}
	}
	cause := errors.New("the cause")
	r, err := Descriptor{File: "f", Size: 4}.Tar(io.MultiReader(strings.NewReader("xxx"), iotest.ErrReader(cause)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, cause) {
		t.Errorf("a blob that breaks off: %v", err)
	}
	// More than the older format of tar can say.
	huge, err := Descriptor{File: "f", Size: MaxBlobSize}.Tar(strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	if h, err := tar.NewReader(huge).Next(); err != nil || h.Size != MaxBlobSize {
		t.Errorf("%+v, %v", h, err)
	}
	blob := strings.NewReader("tar")
	if same, err := (Descriptor{}).Tar(blob); same != io.Reader(blob) || err != nil {
		t.Errorf("of what is a tar: %v, %v", same, err)
	}
}
