package fetch

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"berth/container"
	"berth/image"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner/store"
	"berth/provisioner/store/storetest"
)

var (
	layerA = storetest.Layer("a", 5000)
	layerB = storetest.Layer("b", 300_000)
	layerC = storetest.Layer("c", 700)
)

func digestsOf(layers ...[]byte) []image.Digest { return storetest.Image(layers).DiffIDs() }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func toJSON(v any) []byte {
	data, err := json.Marshal(v)
	must(err)
	return data
}

func parsed(t testing.TB, s string) image.Reference {
	t.Helper()
	reference, err := image.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return reference
}

func testRecord() *record {
	layers := digestsOf(layerA, layerB)
	config := `{"os":"linux","config":{"Labels":{"a":"1","A":"\u001b"},"Env":["A=<&>\u2028` + "\u2029" + `"]},"rootfs":{"diff_ids":` + string(toJSON(append(layers[1:], layers...))) + `}}`
	runs, err := image.ParseConfig([]byte(config))
	must(err)
	return &record{
		Version: recordVersion,
		Record: store.Record{
			Reference: "docker.io/library/a:1", Platform: "linux/arm64", ID: image.DigestOf([]byte(config)),
			Layers: layers, Labels: runs.Run.Labels, Pulled: time.Unix(1e9, 0).UTC(),
		},
		ManifestDigest: image.DigestOf([]byte("{}")),
		Source:         &File{Path: "/a <b>.tar", Size: 1, Mtime: 2, Change: 3, Inode: 4},
		Blobs:          []blob{{layers[0], digestsOf(layerC)[0], 5, "application/x", ""}, {layers[1], layers[1], 7, "", "a/b"}},
		Manifest:       "{}",
		Indexes:        []string{"{ }", "{\n}"},
		Config:         config,
		parsed:         runs,
	}
}

// A record gives back the bytes that it was given: their digests must not change.
func TestRecordRoundTrip(t *testing.T) {
	testrig.RequireRoot(t)
	dir := testrig.TempDir(t)
	layers, err := layer.Open(filepath.Join(dir, "layers"), layer.DefaultLimits)
	must(err)
	lease, err := layers.Lease(t.Context())
	must(err)
	records, err := openRecords(filepath.Join(dir, "images"), newNotes(nil))
	must(err)
	defer func() {
		if err := lease.Release(); err != nil {
			t.Error(err)
		}
	}()
	want := testRecord()
	k := Key{parsed(t, want.Reference), want.Platform}
	if err := records.save(k, want, lease); err != nil {
		t.Fatal(err)
	}
	got, err := records.load(k)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("loaded %+v, %v; saved %+v", got, err, want)
	}
	info, err := os.Stat(records.path(k))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the file of the record: %v, %v", info.Mode(), err)
	}
	want.Config = "{\"a\":\"\xff\"}"
	storetest.WantError(t, records.save(k, want, lease), container.ErrInvalid, "is not UTF-8")
}

// Every image has a file name of its own, and each name fits a file system.
func TestRecordPaths(t *testing.T) {
	long := "docker-archive:/" + strings.Repeat("a/", 150)
	r := records{dir: "/records"}
	seen := make(map[string]Key)
	for _, k := range []Key{
		{parsed(t, "a"), ""},
		{parsed(t, "a"), "linux/arm64"},
		{parsed(t, "a:linux"), ""},
		{parsed(t, "docker-archive:/x"), "linux/arm64"},
		{parsed(t, "docker-archive:/x for linux/arm64"), ""},
		{parsed(t, "docker-archive:/x,linux/arm64"), ""},
		{parsed(t, "docker-archive:/x%2Carm64"), ""},
		{parsed(t, "docker-archive:/../../x"), ""},
		{parsed(t, "appc:a,version=1"), ""},
		{parsed(t, "appc:a,version=1"), "linux/arm64"},
		{parsed(t, long+"1"), ""},
		{parsed(t, long+"2"), ""},
		{parsed(t, long+"2"), "linux/arm64"},
	} {
		path := r.path(k)
		if other, twice := seen[path]; twice {
			t.Errorf("%v and %v are both recorded as %s", k, other, path)
		}
		seen[path] = k
		if filepath.Dir(path) != "/records" || len(filepath.Base(path)) > 205 {
			t.Errorf("%v is recorded as %s", k, path)
		}
	}
}

// From a file's name, its image is known, or it is not; it is never another's.
func TestNamesOfRecords(t *testing.T) {
	r := records{dir: "/records"}
	for _, k := range []Key{
		{parsed(t, "a"), ""},
		{parsed(t, "localhost:5000/a/b@"+digestsOf(layerA)[0].String()), "linux/arm/v7"},
		{parsed(t, "docker-archive:/x y,linux/arm64%2C"), "linux/arm64"},
		{parsed(t, "appc:a,os=linux,version=1"), ""},
	} {
		if reference, platform := r.nameOf(r.path(k)); reference != k.Reference.String() || platform != k.Platform {
			t.Errorf("the file of %s is taken for one of %q for %q", k, reference, platform)
		}
	}
	long := Key{Reference: parsed(t, "docker-archive:/"+strings.Repeat("a", 250))}
	for _, path := range []string{r.path(long), "/records/%zz.json", "/records/a/b.json", "/records/a,b,c.json", "/records/a,.json"} {
		if reference, platform := r.nameOf(path); reference != "" || platform != "" {
			t.Errorf("%s is taken for one of %q for %q", path, reference, platform)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte(`{"version": 1}`))
	f.Add([]byte(`{"version": 2, "layers": 3}`))
	f.Add([]byte(`{"version": 1, "notes": {"images": []}}`))
	f.Add([]byte(`{"version": 1, "layers": [null], "source": null, "pulled": "2020-01-01T00:00:00Z"}`))
	f.Add(toJSON(testRecord()))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := parseRecord(data, nil)
		if err != nil {
			if !strings.Contains(err.Error(), "remove") {
				t.Errorf("no remedy: %v", err)
			}
			return
		}
		if rec.Version != recordVersion || image.DigestOf([]byte(rec.Config)) != rec.ID {
			t.Errorf("accepted %+v", rec)
		}
		again, err := parseRecord(toJSON(rec), nil)
		if err != nil {
			t.Fatalf("not accepted again: %v", err)
		}
		if a, b := toJSON(rec), toJSON(again); !bytes.Equal(a, b) {
			t.Errorf("changed from %s to %s", a, b)
		}
	})
}
