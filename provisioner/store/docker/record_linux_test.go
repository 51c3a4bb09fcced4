package docker

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"berth/container"
	"berth/image"
	"berth/provisioner/store"
)

func testRecord() *record {
	config := `{"os":"linux","config":{"Env":["A=<&>\u2028` + "\u2029" + `"]}}`
	return &record{
		Version: recordVersion,
		Record: store.Record{
			Reference: "docker.io/library/a:1", Platform: "linux/arm64", ID: image.DigestOf([]byte(config)),
			Layers: digestsOf(layerA, layerB), Pulled: time.Unix(1e9, 0).UTC(),
		},
		ManifestDigest: image.DigestOf([]byte("{}")),
		Source:         &sourceFile{Path: "/a <b>.tar", Size: 1, Mtime: 2, Change: 3, Inode: 4},
		Blobs:          []blob{{digestsOf(layerA)[0], digestsOf(layerB)[0], 5, "application/x"}},
		Manifest:       "{}",
		Config:         config,
	}
}

// A record gives back the bytes that it was given: their digests must not change.
func TestRecordRoundTrip(t *testing.T) {
	b := newBench(t)
	lease, err := b.layers.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lease.Release(); err != nil {
			t.Error(err)
		}
	}()
	want := testRecord()
	k := key{mustParse(t, want.Reference), want.Platform}
	if err := b.records.save(k, want, lease); err != nil {
		t.Fatal(err)
	}
	got, err := b.records.load(k)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("loaded %+v, %v; saved %+v", got, err, want)
	}
	info, err := os.Stat(b.records.path(k))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the file of the record: %v, %v", info.Mode(), err)
	}
	want.Config = "{\"a\":\"\xff\"}"
	wantError(t, b.records.save(k, want, lease), container.ErrInvalid, "is not UTF-8")
}

// A record that cannot be used says so, with the file and the remedy, to everyone
// who needs it; who asks the source anew does not.
func TestBrokenRecords(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func([]byte) []byte
		class error
		says  []string
	}{
		{"empty", func([]byte) []byte { return nil }, nil, []string{"remove the file"}},
		{"torn", func(d []byte) []byte { return d[:len(d)/2] }, nil, []string{"remove the file"}},
		{"zeros", func(d []byte) []byte { return make([]byte, len(d)) }, nil, []string{"remove the file"}},
		{"newer", func([]byte) []byte { return []byte(`{"version": 2, "layers": {"a": "b"}}`) }, container.ErrNotSupported,
			[]string{"of version 2", "this berth knows version 1", "remove the file"}},
		{"another configuration", func(d []byte) []byte { return bytes.Replace(d, []byte(`FOR=`), []byte(`FOR!`), 1) }, nil,
			[]string{"the configuration in it does not have the digest sha256:", "remove the file"}},
		{"no digest", func(d []byte) []byte { return bytes.Replace(d, []byte(`"id": "sha256:`), []byte(`"id": "md5:`), 1) }, container.ErrInvalid,
			[]string{`"md5:`, "remove the file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, b := newTestRegistry(t), newBench(t)
			r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerA)}})
			b.pull(t, r.ref("a:1"))
			path := b.records.path(key{reference: mustParse(t, r.host+"/a:1")})
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, c.spoil(data), 0o600); err != nil {
				t.Fatal(err)
			}
			says := append(c.says, path)
			wantError(t, b.fails(t, r.ref("a:1")), c.class, says...)
			_, err = b.List(t.Context())
			wantError(t, err, c.class, says...)
			wantError(t, b.Remove(t.Context(), r.ref("a:1")), c.class, says...)

			b.pull(t, uncached(r.ref("a:1")))
			b.pull(t, r.ref("a:1"))
		})
	}
}

// Every image has a file name of its own, and each name fits a file system.
func TestRecordPaths(t *testing.T) {
	long := "docker-archive:/" + strings.Repeat("a/", 150)
	r := records{"/records"}
	seen := make(map[string]key)
	for _, k := range []key{
		{mustParse(t, "a"), ""},
		{mustParse(t, "a"), "linux/arm64"},
		{mustParse(t, "a:linux"), ""},
		{mustParse(t, "docker-archive:/x"), "linux/arm64"},
		{mustParse(t, "docker-archive:/x for linux/arm64"), ""},
		{mustParse(t, "docker-archive:/x,linux/arm64"), ""},
		{mustParse(t, "docker-archive:/x%2Carm64"), ""},
		{mustParse(t, "docker-archive:/../../x"), ""},
		{mustParse(t, long+"1"), ""},
		{mustParse(t, long+"2"), ""},
		{mustParse(t, long+"2"), "linux/arm64"},
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

func TestListLeavesOtherFilesAlone(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"README", ".a.json.1234", "a.json.bak"} {
		if err := os.WriteFile(filepath.Join(b.records.dir, name), []byte("no record"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.wantNothing(t)
	if err := os.RemoveAll(b.records.dir); err != nil {
		t.Fatal(err)
	}
	_, err := b.List(t.Context())
	wantError(t, err, fs.ErrNotExist, "list images", b.records.dir)
}

// Two who remove an image at once both mean that it shall be gone.
func TestRemoveOfARecordThatIsGone(t *testing.T) {
	b := newBench(t)
	if was, err := b.records.remove(key{reference: mustParse(t, "a")}); was || err != nil {
		t.Errorf("removed: %v, %v", was, err)
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte(`{"version": 1}`))
	f.Add([]byte(`{"version": 2, "layers": 3}`))
	f.Add([]byte(`{"version": 1, "layers": [null], "source": null, "pulled": "2020-01-01T00:00:00Z"}`))
	f.Add(toJSON(testRecord()))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := parseRecord(data)
		if err != nil {
			if !strings.Contains(err.Error(), "remove the file") {
				t.Errorf("no remedy: %v", err)
			}
			return
		}
		if rec.Version != recordVersion || image.DigestOf([]byte(rec.Config)) != rec.ID {
			t.Errorf("accepted %+v", rec)
		}
		again, err := parseRecord(toJSON(rec))
		if err != nil {
			t.Fatalf("not accepted again: %v", err)
		}
		if a, b := toJSON(rec), toJSON(again); !bytes.Equal(a, b) {
			t.Errorf("changed from %s to %s", a, b)
		}
	})
}
