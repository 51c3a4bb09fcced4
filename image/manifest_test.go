package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"berth/container"
)

const (
	ociLayer     = "application/vnd.oci.image.layer.v1.tar+gzip"
	goodConfig   = `{"mediaType":"` + MediaTypeOCIConfig + `","digest":"` + digestA + `","size":7}`
	goodLayer    = `{"mediaType":"` + ociLayer + `","digest":"` + digestB + `","size":32654}`
	goodManifest = `{"schemaVersion":2,"mediaType":"` + MediaTypeOCIManifest + `","config":` + goodConfig + `,"layers":[` + goodLayer + `]}`
	goodEntry    = `{"mediaType":"` + MediaTypeOCIManifest + `","digest":"` + digestA + `","size":528,"platform":{"os":"linux","architecture":"arm","variant":"v7"}}`
	goodIndex    = `{"schemaVersion":2,"mediaType":"` + MediaTypeOCIIndex + `","manifests":[` + goodEntry + `]}`
	dockerImage  = `{"schemaVersion":2,"mediaType":"` + MediaTypeDockerManifest + `","config":{"mediaType":"` + MediaTypeDockerConfig + `","digest":"` + digestA + `","size":7},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":"` + digestB + `","size":1}]}`
	dockerList   = `{"schemaVersion":2,"mediaType":"` + MediaTypeDockerList + `","manifests":[` + goodEntry + `]}`
)

func TestParseManifest(t *testing.T) {
	config := Descriptor{MediaType: MediaTypeOCIConfig, Digest: digestA, Size: 7}
	layer := Descriptor{MediaType: ociLayer, Digest: digestB, Size: 32654}
	arm := Descriptor{MediaType: MediaTypeOCIManifest, Digest: digestA, Size: 528,
		Platform: &Platform{OS: "linux", Architecture: "arm", Variant: "v7"}}
	manifest := &Manifest{MediaType: MediaTypeOCIManifest, Config: config, Layers: []Descriptor{layer}}
	index := &Index{MediaType: MediaTypeOCIIndex, Manifests: []Descriptor{arm}}
	for name, c := range map[string]struct {
		mediaType, body string
		want            Document
	}{
		"OCI manifest":                         {MediaTypeOCIManifest, goodManifest, manifest},
		"type with parameters":                 {MediaTypeOCIManifest + "; charset=utf-8", goodManifest, manifest},
		"type with malformed parameters":       {MediaTypeOCIManifest + "; charset", goodManifest, manifest},
		"served as JSON":                       {"application/json", goodManifest, manifest},
		"served as text":                       {"text/plain; charset=utf-8", goodIndex, index},
		"served without a type":                {"", goodManifest, manifest},
		"states no type":                       {MediaTypeOCIManifest, without(goodManifest, MediaTypeOCIManifest), manifest},
		"manifest without any type":            {"", without(goodManifest, MediaTypeOCIManifest), manifest},
		"index without any type":               {"", `{"schemaVersion":2,"manifests":[` + goodEntry + `]}`, index},
		"OCI index":                            {MediaTypeOCIIndex, goodIndex, index},
		"Docker list":                          {MediaTypeDockerList, dockerList, &Index{MediaType: MediaTypeDockerList, Manifests: []Descriptor{arm}}},
		"no layers":                            {MediaTypeOCIManifest, manifestOf(goodConfig, ""), &Manifest{MediaType: MediaTypeOCIManifest, Config: config}},
		"no manifests":                         {MediaTypeOCIIndex, `{"schemaVersion":2,"manifests":[]}`, &Index{MediaType: MediaTypeOCIIndex}},
		"null where the other kind has a list": {MediaTypeOCIManifest, member(goodManifest, `"manifests":null`), manifest},
		"unknown members":                      {MediaTypeOCIManifest, member(goodManifest, `"subject":{"x":[1,{"y":null}]}`), manifest},
		"labels that differ in case": {MediaTypeOCIManifest, member(goodManifest, `"annotations":{"a":"1","A":"2"}`),
			&Manifest{MediaType: MediaTypeOCIManifest, Config: config, Layers: []Descriptor{layer}, Annotations: map[string]string{"a": "1", "A": "2"}}},
		"Docker image": {MediaTypeDockerManifest, dockerImage, &Manifest{MediaType: MediaTypeDockerManifest,
			Config: Descriptor{MediaType: MediaTypeDockerConfig, Digest: digestA, Size: 7},
			Layers: []Descriptor{{MediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip", Digest: digestB, Size: 1}}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseManifest(c.mediaType, []byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("-want +got\n%s", diff)
			}
		})
	}
}

// without drops the member mediaType with the given value.
func without(body, mediaType string) string {
	return strings.Replace(body, `"mediaType":"`+mediaType+`",`, "", 1)
}

// member adds one at the end of the document.
func member(body, text string) string { return strings.TrimSuffix(body, "}") + "," + text + "}" }

func manifestOf(config, layers string) string {
	return `{"schemaVersion":2,"config":` + config + `,"layers":[` + layers + `]}`
}

func TestParseManifestRefuses(t *testing.T) {
	invalid, unsupported := container.ErrInvalid, container.ErrNotSupported
	layerWith := func(from, to string) string { return manifestOf(goodConfig, strings.Replace(goodLayer, from, to, 1)) }
	entryWith := func(from, to string) string { return strings.Replace(goodIndex, from, to, 1) }
	for name, c := range map[string]struct {
		mediaType, body string
		class           error
		says            string
	}{
		"GHSA-5j5w-g665-5m35: manifest with manifests":     {MediaTypeOCIManifest, member(goodManifest, `"manifests":[]`), invalid, "taken for an index"},
		"GHSA-5j5w-g665-5m35: index with layers":           {MediaTypeOCIIndex, member(goodIndex, `"layers":[]`), invalid, "taken for a manifest"},
		"index with a config":                              {MediaTypeOCIIndex, member(goodIndex, `"config":{}`), invalid, "taken for a manifest"},
		"both kinds, no type stated":                       {"", `{"schemaVersion":2,"config":` + goodConfig + `,"layers":[],"manifests":[]}`, invalid, "could be taken"},
		"both kinds, the second in other letters":          {MediaTypeOCIManifest, member(goodManifest, `"MANIFESTS":[]`), invalid, "taken for an index"},
		"served as index, says manifest":                   {MediaTypeOCIIndex, goodManifest, invalid, MediaTypeOCIIndex},
		"served as manifest, says index":                   {MediaTypeOCIManifest, goodIndex, invalid, MediaTypeOCIManifest},
		"served as OCI, says Docker":                       {MediaTypeOCIManifest, dockerImage, invalid, MediaTypeDockerManifest},
		"served as index, is a manifest that says nothing": {MediaTypeOCIIndex, without(goodManifest, MediaTypeOCIManifest), invalid, "taken for a manifest"},
		"two lists of layers, a scanner sees the first":    {MediaTypeOCIManifest, member(goodManifest, `"layers":[]`), invalid, `"layers" twice`},
		"two lists of layers in other letters":             {MediaTypeOCIManifest, member(goodManifest, `"Layers":[]`), invalid, `"Layers" twice`},
		"two lists of layers, one with a long s":           {MediaTypeOCIManifest, member(goodManifest, `"layer\u017f":[]`), invalid, "twice"},
		"two digests in one layer":                         {MediaTypeOCIManifest, layerWith(`}`, `,"digest":"`+digestA+`"}`), invalid, "twice"},
		"one annotation twice":                             {MediaTypeOCIManifest, member(goodManifest, `"annotations":{"a":"1","a":"2"}`), invalid, "twice"},
		"second document behind the first":                 {MediaTypeOCIManifest, goodManifest + goodManifest, invalid, "not JSON"},
		"not JSON":                                         {MediaTypeOCIManifest, "404 not found", invalid, "not JSON"},
		"empty":                                            {MediaTypeOCIManifest, "", invalid, "not JSON"},
		"null":                                             {MediaTypeOCIManifest, "null", invalid, "schemaVersion"},
		"a list":                                           {MediaTypeOCIManifest, "[]", invalid, "array"},
		"HTML page of a login portal":                      {"text/html; charset=utf-8", "<html>", invalid, "HTML"},
		"type of something else":                           {"image/png", "x", invalid, "image/png"},
		"type that is none":                                {"///", goodManifest, invalid, "content type"},
		"more than 4 MiB":                                  {MediaTypeOCIManifest, member(goodManifest, `"x":"`+strings.Repeat("x", 4<<20)+`"`), invalid, "at most"},
		"a million values":                                 {MediaTypeOCIManifest, member(goodManifest, `"x":[`+strings.Repeat("0,", 1<<20)+`0]`), invalid, "values"},
		"nested a million deep":                            {MediaTypeOCIManifest, member(goodManifest, `"x":`+strings.Repeat("[", 1<<20)+strings.Repeat("]", 1<<20)), invalid, "not JSON"},
		"schema version missing":                           {MediaTypeOCIManifest, strings.Replace(goodManifest, `"schemaVersion":2,`, "", 1), invalid, "schemaVersion is 0"},
		"schema version 3":                                 {MediaTypeOCIManifest, strings.Replace(goodManifest, `n":2`, `n":3`, 1), invalid, "schemaVersion is 3"},
		"schema version a word":                            {MediaTypeOCIManifest, strings.Replace(goodManifest, `n":2`, `n":"2"`, 1), invalid, "schemaVersion"},
		"schema 1 by its type":                             {"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1}`, invalid, "no fsLayers"},
		"schema 1 by its version":                          {"application/json", `{"schemaVersion":1,"fsLayers":[]}`, invalid, "no fsLayers"},
		"schema 1 served as schema 2":                      {MediaTypeDockerManifest, `{"schemaVersion":1,"fsLayers":[]}`, invalid, "schemaVersion is 1"},
		"schema 2 served as schema 1":                      {MediaTypeSchema1Signed, without(dockerImage, MediaTypeDockerManifest), invalid, "schemaVersion is 2"},
		"schema 2 with the layers of schema 1":             {MediaTypeDockerManifest, member(dockerImage, `"fsLayers":[]`), invalid, "fsLayers"},
		"config missing":                                   {MediaTypeOCIManifest, `{"schemaVersion":2,"layers":[]}`, invalid, "no config"},
		"config null":                                      {MediaTypeOCIManifest, manifestOf("null", ""), invalid, "no config"},
		"config a word":                                    {MediaTypeOCIManifest, manifestOf(`"x"`, ""), invalid, "config"},
		"config empty":                                     {MediaTypeOCIManifest, manifestOf(`{}`, ""), invalid, "no mediaType"},
		"config of 4 GiB":                                  {MediaTypeOCIManifest, manifestOf(strings.Replace(goodConfig, `:7`, `:4294967296`, 1), ""), invalid, "at most"},
		"Helm chart":                                       {MediaTypeOCIManifest, manifestOf(strings.Replace(goodConfig, MediaTypeOCIConfig, "application/vnd.cncf.helm.config.v1+json", 1), ""), unsupported, "helm"},
		"layers missing":                                   {MediaTypeOCIManifest, `{"schemaVersion":2,"config":` + goodConfig + `}`, invalid, "layers"},
		"layers an object":                                 {MediaTypeOCIManifest, `{"schemaVersion":2,"config":` + goodConfig + `,"layers":{}}`, invalid, "layers"},
		"layer null":                                       {MediaTypeOCIManifest, manifestOf(goodConfig, "null"), invalid, "layer 0"},
		"1001 layers":                                      {MediaTypeOCIManifest, manifestOf(goodConfig, strings.Repeat(goodLayer+",", 1000)+goodLayer), invalid, "1001 layers"},
		"layer of an unknown type":                         {MediaTypeOCIManifest, layerWith(ociLayer, "application/vnd.in-toto+json"), unsupported, "in-toto"},
		"layer with bzip2":                                 {MediaTypeOCIManifest, layerWith("+gzip", "+bzip2"), unsupported, "bzip2"},
		"layer with a digest that is a path":               {MediaTypeOCIManifest, layerWith(digestB, "../../../etc/passwd"), invalid, "layer 0"},
		"layer with an upper-case digest":                  {MediaTypeOCIManifest, layerWith(digestB, strings.ToUpper(digestB)), invalid, "layer 0"},
		"layer with sha512":                                {MediaTypeOCIManifest, layerWith(digestB, "sha512:"+strings.Repeat("a", 128)), unsupported, "sha512"},
		"layer without a digest":                           {MediaTypeOCIManifest, layerWith(`"digest":"`+digestB+`",`, ""), invalid, "no digest"},
		"layer with digest null":                           {MediaTypeOCIManifest, layerWith(`"`+digestB+`"`, "null"), invalid, "no digest"},
		"layer without a size":                             {MediaTypeOCIManifest, layerWith(`,"size":32654`, ""), invalid, "no size"},
		"layer with size null":                             {MediaTypeOCIManifest, layerWith("32654", "null"), invalid, "no size"},
		"layer with a negative size":                       {MediaTypeOCIManifest, layerWith("32654", "-1"), invalid, "size is -1"},
		"layer of 2^63-1 bytes, sums overflow":             {MediaTypeOCIManifest, layerWith("32654", "9223372036854775807"), invalid, "size is"},
		"layer of 2^64 bytes":                              {MediaTypeOCIManifest, layerWith("32654", "18446744073709551616"), invalid, "size"},
		"layer with half a byte":                           {MediaTypeOCIManifest, layerWith("32654", "0.5"), invalid, "size"},
		"layer with a word for a size":                     {MediaTypeOCIManifest, layerWith("32654", `"32654"`), invalid, "size"},
		"layer without a type":                             {MediaTypeOCIManifest, layerWith(ociLayer, ""), invalid, "no mediaType"},
		"manifests missing":                                {MediaTypeOCIIndex, `{"schemaVersion":2}`, invalid, "no list of manifests"},
		"manifests null":                                   {MediaTypeOCIIndex, `{"schemaVersion":2,"manifests":null}`, invalid, "no list of manifests"},
		"entry with a platform that clears the screen":     {MediaTypeOCIIndex, entryWith("v7", `\u001b[2J`), invalid, "platform"},
		"entry with a platform that is a word":             {MediaTypeOCIIndex, entryWith(`{"os":"linux","architecture":"arm","variant":"v7"}`, `"linux"`), invalid, "platform"},
		"entry with a negative size":                       {MediaTypeOCIIndex, entryWith("528", "-528"), invalid, "manifest 0"},
		"annotations a list":                               {MediaTypeOCIManifest, member(goodManifest, `"annotations":[]`), invalid, "annotations"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseManifest(c.mediaType, []byte(c.body))
			if !errors.Is(err, c.class) || got != nil {
				t.Fatalf("ParseManifest = %v, %v; want class %v", got, err, c.class)
			}
			if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "Go ") || len(err.Error()) > 600 {
				t.Errorf("the error is %q, want it to say %q", err, c.says)
			}
		})
	}
}

func TestParseManifestTakesAThousandLayers(t *testing.T) {
	body := manifestOf(goodConfig, strings.Repeat(goodLayer+",", 999)+goodLayer)
	document, err := ParseManifest("", []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if m := document.(*Manifest); len(m.Layers) != MaxLayers {
		t.Fatalf("%d layers", len(m.Layers))
	}
}

func TestParseLayerType(t *testing.T) {
	for _, vendor := range []string{"oci.image.layer.v1.tar", "oci.image.layer.nondistributable.v1.tar"} {
		for suffix, want := range map[string]Compression{"": Uncompressed, "+gzip": Gzip, "+zstd": Zstd} {
			got, err := ParseLayerType("application/vnd." + vendor + suffix)
			if err != nil || got.Compression != want || got.Foreign != strings.Contains(vendor, "nondistributable") {
				t.Errorf("%s%s: %+v, %v", vendor, suffix, got, err)
			}
		}
	}
	for suffix, want := range map[string]LayerType{
		"diff.tar":              {Compression: Uncompressed},
		"diff.tar.gzip":         {Compression: Gzip},
		"diff.tar.zstd":         {Compression: Zstd},
		"foreign.diff.tar":      {Compression: Uncompressed, Foreign: true},
		"foreign.diff.tar.gzip": {Compression: Gzip, Foreign: true},
	} {
		if got, err := ParseLayerType("application/vnd.docker.image.rootfs." + suffix); err != nil || got != want {
			t.Errorf("%s: %+v, %v", suffix, got, err)
		}
	}
	for _, unknown := range []string{"", "application/vnd.oci.image.layer.v1.tar+xz", "application/vnd.oci.image.layer.v1.TAR", "application/octet-stream"} {
		if _, err := ParseLayerType(unknown); !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), fmt.Sprintf("%q", unknown)) {
			t.Errorf("%q: %v", unknown, err)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	index := func(d string) string { return `{"schemaVersion":2,"manifests":[` + d + `]}` }
	descriptor := func(mediaType string) string {
		return `{"mediaType":"` + mediaType + `","digest":"` + digestA + `","size":1,"platform":{"os":"linux","architecture":"amd64"}}`
	}
	for _, seed := range []string{goodManifest, goodIndex, dockerImage, dockerList, manifestOf(goodConfig, ""),
		manifestOf(goodConfig, goodLayer+","+goodLayer),                                                                       // one layer twice
		index(descriptor(MediaTypeOCIIndex)), index(descriptor(MediaTypeDockerList) + "," + descriptor(MediaTypeOCIManifest)), // indexes of indexes
		index(`null`), index(`{"platform":{"os":"unknown","architecture":"unknown"}}`), strings.Repeat("[", 20_000), `{"a":` + strings.Repeat(`{"a":`, 500),
		member(goodManifest, `"annotations":{"a":"1","A":"2"}`), `{"schemaVersion":2,"manifests":[]}`, `{"schemaVersion":1}`,
		artifactOf(weights+" "+titled("a/b"), "application/x.tar")} {
		f.Add("", []byte(seed))
		f.Add(MediaTypeOCIManifest, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, mediaType string, body []byte) {
		document, err := ParseManifest(mediaType, body)
		if err != nil {
			if !errors.Is(err, container.ErrInvalid) && !errors.Is(err, container.ErrNotSupported) {
				t.Fatalf("an error of no class: %v", err)
			}
			return
		}
		checkDocument(t, document)
		if _, old := document.(*Schema1); old { // see FuzzSchema1
			return
		}
		printed, err := json.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseManifest("", printed)
		if err != nil {
			t.Fatalf("%s prints as %s: %v", body, printed, err)
		}
		if diff := cmp.Diff(document, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s prints as %s\n%s", body, printed, diff)
		}
	})
}

// checkDocument fails the test unless the document is what its type promises.
func checkDocument(t *testing.T, document Document) {
	t.Helper()
	switch d := document.(type) {
	case *Manifest:
		if len(d.Layers) > MaxLayers {
			t.Errorf("%d layers", len(d.Layers))
		}
		for _, layer := range append(d.Layers, d.Config) {
			if _, err := ParseDigest(layer.Digest.String()); err != nil || layer.Size < 0 {
				t.Errorf("the descriptor %+v: %v", layer, err)
			}
		}
	case *Index:
		for _, want := range []Platform{{OS: "linux", Architecture: "amd64", Variant: "v3"}, {OS: "linux", Architecture: "arm", Variant: "v7"}} {
			chosen, err := Choose(want, d.Manifests)
			switch {
			case err != nil && (!errors.Is(err, container.ErrNotFound) || len(err.Error()) > 10_000):
				t.Errorf("none is chosen for %s: %.300v", want, err)
			case err == nil && chosen.Platform != nil && !want.Accepts(*chosen.Platform):
				t.Errorf("for %s it is %s", want, chosen.Platform)
			}
		}
	}
}
