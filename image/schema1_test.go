package image

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"berth/container"
)

// signed.json is what docker-registry served of an image that skopeo had pushed to it, and
// config.json the configuration that skopeo made of it again.
func schema1File(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/schema1/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

const (
	// emptyBlob is the layer of images that change nothing, in old versions of Docker.
	emptyBlob = "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
	topBlob   = "sha256:7428f2d0cf7ec53e5311410d2846b44c190df97e4f51d15b2bbda55e553687f9"
	baseBlob  = "sha256:71af3e9b4f20fc70d84786360c667ea9bdfe1475ddf7dc1012022b86651cbf20"
)

func TestSchema1AsServed(t *testing.T) {
	body := schema1File(t, "signed.json")
	for _, mediaType := range []string{MediaTypeSchema1Signed, ""} {
		canonical, payload, err := Canonical(mediaType, body)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := DigestOf(payload), Digest("sha256:9c2d3b21155bb6893f919396366bdecaed060976689034554b12323ec781b499"); got != want {
			t.Errorf("the digest is %s, the registry says %s", got, want)
		}
		document, err := ParseManifest(canonical, payload)
		if err != nil {
			t.Fatal(err)
		}
		old := document.(*Schema1)
		if old.Name != "old/a" || old.Tag != "1" || old.Platform.OS != "linux" || old.Platform.Architecture != "amd64" {
			t.Errorf("parsed as %+v", old)
		}
		if want := []Digest{baseBlob, topBlob}; !slices.Equal(old.Layers, want) {
			t.Errorf("the layers are %s", old.Layers)
		}
		want := schema1File(t, "config.json")
		config, err := ParseConfig(want)
		if err != nil {
			t.Fatal(err)
		}
		made, err := old.Config(config.DiffIDs)
		if err != nil || string(made) != string(want) {
			t.Errorf("made %s\n%v, want\n%s", made, err, want)
		}
		if _, err := old.Config(config.DiffIDs[1:]); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("with a diffID less: %v", err)
		}
	}
	if _, body, err := Canonical(MediaTypeSchema1, []byte("x")); err != nil || string(body) != "x" {
		t.Errorf("unsigned: %s, %v", body, err)
	}
}

// v1 is an entry of the history.
func v1(id int, more string) string {
	parent := ""
	if id > 0 {
		parent = fmt.Sprintf("%064d", id-1)
	}
	return fmt.Sprintf(`{"id":"%064d","parent":%q%s}`, id, parent, more)
}

// schema1Of is a manifest with these entries and blobs, topmost first.
func schema1Of(entries []string, blobs ...string) string {
	var layers, history []string
	for _, blob := range blobs {
		layers = append(layers, fmt.Sprintf(`{"blobSum":%q}`, blob))
	}
	for _, entry := range entries {
		text, _ := json.Marshal(entry)
		history = append(history, fmt.Sprintf(`{"v1Compatibility":%s}`, text))
	}
	return fmt.Sprintf(`{"schemaVersion":1,"name":"a","tag":"b","architecture":"amd64","fsLayers":[%s],"history":[%s]}`,
		strings.Join(layers, ","), strings.Join(history, ","))
}

func TestSchema1Layers(t *testing.T) {
	for name, c := range map[string]struct {
		manifest string
		want     []Digest
	}{
		"one":                         {schema1Of([]string{v1(0, "")}, topBlob), []Digest{topBlob}},
		"base first":                  {schema1Of([]string{v1(1, ""), v1(0, "")}, topBlob, baseBlob), []Digest{baseBlob, topBlob}},
		"one twice":                   {schema1Of([]string{v1(1, ""), v1(0, "")}, topBlob, topBlob), []Digest{topBlob, topBlob}},
		"a thrown away one":           {schema1Of([]string{v1(1, `,"throwaway":true`), v1(0, "")}, emptyBlob, baseBlob), []Digest{baseBlob}},
		"an empty one that is kept":   {schema1Of([]string{v1(1, ""), v1(0, "")}, emptyBlob, baseBlob), []Digest{baseBlob, emptyBlob}},
		"an entry that was repeated":  {schema1Of([]string{v1(1, ""), v1(1, ""), v1(0, "")}, topBlob, topBlob, baseBlob), []Digest{baseBlob, topBlob}},
		"nothing that is not removed": {schema1Of([]string{v1(0, `,"throwaway":true`)}, emptyBlob), nil},
	} {
		document, err := ParseManifest(MediaTypeSchema1, []byte(c.manifest))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := document.(*Schema1).Layers; !slices.Equal(got, c.want) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// The members that describe a layer, and those that the manifest has elsewhere, are not
// those of the image.
func TestSchema1Config(t *testing.T) {
	document, err := ParseManifest(MediaTypeSchema1, []byte(schema1Of([]string{
		v1(1, `,"os":"linux","architecture":"arm64","variant":"v8","config":{"Cmd":["<a>"],"User":"1"},"Size":5,"layer_id":"x","rootfs":{"diff_ids":["y"]},"x":1,"author":"me"`),
		v1(0, `,"created":"2015-01-02T03:04:05.000000006+02:00","container_config":{"Cmd":["a","b"]},"config":{"User":"2"}`),
	}, topBlob, baseBlob)))
	if err != nil {
		t.Fatal(err)
	}
	config, err := document.(*Schema1).Config([]Digest{baseBlob, topBlob})
	want := `{"architecture":"arm64","author":"me","config":{"Cmd":["\u003ca\u003e"],"User":"1"},` +
		`"history":[{"created":"2015-01-02T03:04:05.000000006+02:00","created_by":"a b"},{"created":"0001-01-01T00:00:00Z","author":"me"}],` +
		`"os":"linux","rootfs":{"type":"layers","diff_ids":["` + baseBlob + `","` + topBlob + `"]},"variant":"v8","x":1}`
	if err != nil || string(config) != want {
		t.Errorf("made %s, %v, want\n%s", config, err, want)
	}
}

func TestSchema1Refuses(t *testing.T) {
	for name, c := range map[string]struct{ manifest, says string }{
		"nothing":                       {schema1Of(nil), "no fsLayers"},
		"a layer more than history":     {schema1Of([]string{v1(0, "")}, topBlob, baseBlob), "2 fsLayers, and 1"},
		"1001 layers":                   {schema1Of(nil, slices.Repeat([]string{topBlob}, 1001)...), "1001 layers"},
		"a layer without a digest":      {schema1Of([]string{v1(0, "")}, ""), "no blobSum"},
		"a layer that is a path":        {schema1Of([]string{v1(0, "")}, "../x"), "sha256"},
		"history that is not JSON":      {schema1Of([]string{"x"}, topBlob), "history 0"},
		"history with a key twice":      {schema1Of([]string{v1(0, `,"OS":"a","os":"linux"`)}, topBlob), "twice"},
		"history with two rootfs":       {schema1Of([]string{v1(0, `,"RootFS":{}`)}, topBlob), "twice"},
		"history of a million values":   {schema1Of([]string{v1(0, `,"x":[`+strings.Repeat("0,", 1<<20)+`0]`)}, topBlob), "values"},
		"an id that is none":            {schema1Of([]string{`{"id":"../x"}`}, topBlob), "id"},
		"a time that is none":           {schema1Of([]string{v1(0, `,"created":"today"`)}, topBlob), "history 0"},
		"a layer that is an ancestor":   {schema1Of([]string{v1(0, ""), v1(1, ""), v1(0, "")}, topBlob, topBlob, topBlob), "too"},
		"a parent that is not next":     {schema1Of([]string{v1(2, ""), v1(0, "")}, topBlob, topBlob), "parent"},
		"a base with a parent":          {schema1Of([]string{v1(1, "")}, topBlob), "parent"},
		"a configuration with a NUL":    {schema1Of([]string{v1(0, `,"config":{"User":"\u0000"}`)}, topBlob), "NUL"},
		"a configuration of other type": {schema1Of([]string{v1(0, `,"config":{"Env":"A"}`)}, topBlob), "Env"},
		"the layers of schema 2":        {strings.Replace(schema1Of([]string{v1(0, "")}, topBlob), `"name"`, `"layers":[],"name"`, 1), "members of schema 2"},
		"a list of manifests":           {strings.Replace(schema1Of([]string{v1(0, "")}, topBlob), `"name"`, `"manifests":[],"name"`, 1), "members of schema 2"},
	} {
		if document, err := ParseManifest(MediaTypeSchema1, []byte(c.manifest)); !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %+v, %v; want %q", name, document, err, c.says)
		}
	}
}

func TestSignedManifestRefused(t *testing.T) {
	header := func(text string) string {
		return fmt.Sprintf(`{"protected":%q}`, base64.RawURLEncoding.EncodeToString([]byte(text)))
	}
	good := header(`{"formatLength":1,"formatTail":"fQ"}`)
	for name, c := range map[string]struct{ signatures, says string }{
		"none":                    {``, "no signatures"},
		"not base64":              {`{"protected":"*"}`, "header"},
		"not JSON":                {header("x"), "header"},
		"a tail that is none":     {header(`{"formatLength":1,"formatTail":"*"}`), "header"},
		"of more than there is":   {header(`{"formatLength":100000,"formatTail":"fQ"}`), "100000 bytes"},
		"of less than nothing":    {header(`{"formatLength":-1,"formatTail":"fQ"}`), "-1 bytes"},
		"of different documents":  {good + "," + header(`{"formatLength":2,"formatTail":"fQ"}`), "different"},
		"of different tails":      {good + "," + header(`{"formatLength":1,"formatTail":"fX0"}`), "different"},
		"the second is not valid": {good + "," + header("x"), "header"},
	} {
		body := fmt.Sprintf(`{"schemaVersion":1,"signatures":[%s]}`, c.signatures)
		for _, mediaType := range []string{MediaTypeSchema1Signed, ""} {
			if _, payload, err := Canonical(mediaType, []byte(body)); !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %s, %v; want %q", name, payload, err, c.says)
			}
		}
	}
}

func FuzzSchema1(f *testing.F) {
	f.Add(schema1File(f, "signed.json"))
	f.Add([]byte(schema1Of([]string{v1(1, `,"throwaway":true`), v1(0, "")}, emptyBlob, baseBlob)))
	f.Add([]byte(schema1Of([]string{v1(1, ""), v1(1, ""), v1(0, `,"config":{"Labels":{"a":"","A":""}}`)}, topBlob, topBlob, baseBlob)))
	f.Fuzz(func(t *testing.T, body []byte) {
		mediaType, payload, err := Canonical("", body)
		if err == nil {
			var document Document
			if document, err = ParseManifest(mediaType, payload); err == nil {
				checkSchema1(t, document)
			}
		}
		if err != nil && !errors.Is(err, container.ErrInvalid) && !errors.Is(err, container.ErrNotSupported) {
			t.Fatalf("an error of no class: %v", err)
		}
	})
}

// checkSchema1 wants a configuration of its layers, always the same.
func checkSchema1(t *testing.T, document Document) {
	old, ok := document.(*Schema1)
	if !ok {
		return
	}
	config, err := old.Config(old.Layers)
	if err != nil {
		t.Fatal(err)
	}
	again, err := old.Config(old.Layers)
	if err != nil || string(again) != string(config) {
		t.Fatalf("made %s, and then %s, %v", config, again, err)
	}
	parsed, err := ParseConfig(config)
	if err != nil || !slices.Equal(parsed.DiffIDs, old.Layers) {
		t.Fatalf("%s: %+v, %v", config, parsed, err)
	}
}
