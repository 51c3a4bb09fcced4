package docker

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/provisioner/store"
)

func testRecord() *record {
	layers := digestsOf(layerA, layerB)
	config := `{"os":"linux","config":{"Env":["A=<&>\u2028` + "\u2029" + `"]},"rootfs":{"diff_ids":` + string(toJSON(append(layers[1:], layers...))) + `}}`
	parsed, err := image.ParseConfig([]byte(config))
	must(err)
	return &record{
		Version: recordVersion,
		Record: store.Record{
			Reference: "docker.io/library/a:1", Platform: "linux/arm64", ID: image.DigestOf([]byte(config)),
			Layers: layers, Pulled: time.Unix(1e9, 0).UTC(),
		},
		ManifestDigest: image.DigestOf([]byte("{}")),
		Source:         &sourceFile{Path: "/a <b>.tar", Size: 1, Mtime: 2, Change: 3, Inode: 4},
		Blobs:          []blob{{layers[0], digestsOf(layerC)[0], 5, "application/x"}, {layers[1], layers[1], 7, ""}},
		Manifest:       "{}",
		Config:         config,
		parsed:         parsed,
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

// spoil changes the record of an image and returns its path.
func (b *bench) spoil(t testing.TB, k key, change func([]byte) []byte) (path string) {
	t.Helper()
	path = b.records.path(k)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(data), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func replacing(old, by string) func([]byte) []byte {
	return func(d []byte) []byte { return bytes.Replace(d, []byte(old), []byte(by), 1) }
}

// wantUnreadable says that List has one image, and knows of another that its record at
// path cannot be read, and why.
func (b *bench) wantUnreadable(t testing.TB, other, path string, k key, class error, says ...string) {
	t.Helper()
	recorded, err := b.List(t.Context())
	if len(recorded) != 1 || recorded[0].Reference != other {
		t.Errorf("recorded: %v, want %s alone", recorded, other)
	}
	unreadable, rest := store.Unreadable(err)
	if rest != nil || len(unreadable) != 1 {
		t.Fatalf("unreadable: %v, and %v", unreadable, rest)
	}
	rec := unreadable[0]
	if rec.Path != path || rec.Reference != k.reference.String() || rec.Platform != k.platform {
		t.Errorf("unreadable is %s of %q for %q, want %s of %s", rec.Path, rec.Reference, rec.Platform, path, k)
	}
	wantError(t, err, class, append(says, path)...)
}

// A broken record counts as none, and is in nobody's way: its image is pulled again or
// removed, and others are there. List tells of it.
func TestBrokenRecords(t *testing.T) {
	id := func(layer []byte) string { return `"` + digestsOf(layer)[0].String() + `"` }
	for _, c := range []struct {
		name  string
		spoil func([]byte) []byte
		says  string
	}{
		{"empty", func([]byte) []byte { return nil }, "JSON"},
		{"torn", func(d []byte) []byte { return d[:len(d)/2] }, "JSON"},
		{"zeros", func(d []byte) []byte { return make([]byte, len(d)) }, "invalid character"},
		{"a list", func([]byte) []byte { return []byte("[]") }, "cannot unmarshal"},
		{"without a version", func([]byte) []byte { return []byte("{}") }, "of version 0"},
		{"another configuration", replacing("FOR=", "FOR!"), "the configuration in it does not have the digest sha256:"},
		{"another layer", replacing(id(layerA), id(layerB)), "the layers in it are not those of the configuration"},
		{"another blob", replacing(`"diffID": `+id(layerA), `"diffID": `+id(layerB)), "the blobs in it are not those of the layers"},
		{"no digest", replacing(`"id": "sha256:`, `"id": "md5:`), `"md5:`},
		{"a digest of another kind", replacing(`"id": "sha256:`, `"id": "sha512:`), "sha512"},
		{"that of another image", replacing("/spoilt:1", "/spoilt:2"), `/spoilt:2" for the platform ""`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, b := newTestRegistry(t), newBench(t)
			r.push(t, "spoilt", "1", madeImage{layers: []madeLayer{gzipped(layerA)}})
			r.push(t, "whole", "1", madeImage{layers: []madeLayer{gzipped(layerB)}})
			spoilt, whole := r.ref("spoilt:1"), r.ref("whole:1")
			k := key{reference: mustParse(t, r.host+"/spoilt:1")}
			pulled := b.pull(t, spoilt)
			b.pull(t, whole)
			path := b.spoil(t, k, c.spoil)
			b.wantUnreadable(t, r.host+"/whole:1", path, k, container.ErrInvalid, c.says, "pull the image again, or remove it")
			before := len(r.requests(""))
			b.pull(t, whole)
			if n := len(r.requests("")) - before; n != 0 {
				t.Errorf("%d requests for an image whose own record is whole", n)
			}

			if again := b.pull(t, spoilt); again.ID != pulled.ID {
				t.Errorf("pulled again it is %s, was %s", again.ID, pulled.ID)
			}
			before = len(r.requests(""))
			b.pull(t, spoilt)
			if n := len(r.requests("")) - before; n != 0 {
				t.Errorf("%d requests after the record was replaced", n)
			}

			b.spoil(t, k, c.spoil)
			if err := b.Remove(t.Context(), spoilt); err != nil {
				t.Errorf("remove: %v", err)
			}
			recorded, err := b.List(t.Context())
			if err != nil || len(recorded) != 1 {
				t.Errorf("recorded after the removal: %v, %v", recorded, err)
			}
		})
	}
}

// What a newer berth has written is neither used nor replaced nor removed.
func TestRecordOfANewerBerth(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.push(t, "newer", "1", madeImage{layers: []madeLayer{gzipped(layerA)}})
	r.push(t, "own", "1", madeImage{layers: []madeLayer{gzipped(layerB)}})
	b.pull(t, r.ref("newer:1"))
	b.pull(t, r.ref("own:1"))
	k := key{reference: mustParse(t, r.host+"/newer:1")}
	const written = `{"version": 2, "layers": {"a": "b"}}`
	path := b.spoil(t, k, func([]byte) []byte { return []byte(written) })
	says := []string{"of version 2", "this berth knows version 1", "use the berth that wrote it, or remove the file", path}
	b.wantUnreadable(t, r.host+"/own:1", path, k, container.ErrNotSupported, says...)
	before := len(r.requests(""))
	wantError(t, b.fails(t, r.ref("newer:1")), container.ErrNotSupported, says...)
	wantError(t, b.fails(t, uncached(r.ref("newer:1"))), container.ErrNotSupported, says...)
	wantError(t, b.Remove(t.Context(), r.ref("newer:1")), container.ErrNotSupported, says...)
	if n := len(r.requests("")) - before; n != 0 {
		t.Errorf("%d requests for an image that may not be recorded", n)
	}
	if left, err := os.ReadFile(path); err != nil || string(left) != written {
		t.Errorf("the record is %q, %v", left, err)
	}
}

// A name that is too long for a file's is not known from it.
func TestBrokenRecordOfALongName(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	name := strings.Repeat("long/", 40) + "name"
	r.push(t, name, "1", madeImage{platform: "linux/s390x", layers: []madeLayer{gzipped(layerA)}})
	img := forPlatform(r.ref("%s:1", name), "linux/s390x")
	b.pull(t, img)
	path := b.spoil(t, key{mustParse(t, r.host+"/"+name+":1"), "linux/s390x"}, func([]byte) []byte { return nil })
	_, err := b.List(t.Context())
	if unreadable, rest := store.Unreadable(err); len(unreadable) != 1 || rest != nil || unreadable[0].Path != path || unreadable[0].Reference != "" {
		t.Errorf("unreadable: %+v, and %v", unreadable, rest)
	}
	if err := b.Remove(t.Context(), img); err != nil {
		t.Errorf("remove: %v", err)
	}
	b.wantGone(t, path)
}

func (b *bench) wantGone(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there: %v", path, err)
	}
}

// A disk that cannot be read is not a broken record: nothing is pulled in its place.
func TestRecordThatCannotBeRead(t *testing.T) {
	r, b := newTestRegistry(t), newBench(t)
	r.push(t, "a", "1", madeImage{layers: []madeLayer{gzipped(layerA)}})
	b.pull(t, r.ref("a:1"))
	path := b.records.path(key{reference: mustParse(t, r.host+"/a:1")})
	defer disk.Intercept(func(s disk.Step) error {
		if s.Op == "read" && s.Path == path {
			return syscall.EIO
		}
		return nil
	})()
	before := len(r.requests(""))
	wantError(t, b.fails(t, r.ref("a:1")), syscall.EIO, path)
	if n := len(r.requests("")) - before; n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestUnreadableRecordsAmongErrors(t *testing.T) {
	one, two := &store.RecordError{Path: "1", Err: io.EOF}, &store.RecordError{Path: "2", Err: fs.ErrInvalid}
	for _, c := range []struct {
		err     error
		records []*store.RecordError
		rest    error
	}{
		{nil, nil, nil},
		{one, []*store.RecordError{one}, nil},
		{errors.Join(one, two), []*store.RecordError{one, two}, nil},
		{errors.Join(errors.Join(one), nil, errors.Join(two)), []*store.RecordError{one, two}, nil},
		{errors.Join(one, io.ErrNoProgress), []*store.RecordError{one}, io.ErrNoProgress},
		{io.ErrNoProgress, nil, io.ErrNoProgress},
	} {
		records, rest := store.Unreadable(c.err)
		if !slices.Equal(records, c.records) || !errors.Is(rest, c.rest) || (rest == nil) != (c.rest == nil) {
			t.Errorf("%v: %v and %v, want %v and %v", c.err, records, rest, c.records, c.rest)
		}
	}
}

// Every image has a file name of its own, and each name fits a file system.
func TestRecordPaths(t *testing.T) {
	long := "docker-archive:/" + strings.Repeat("a/", 150)
	r := records{dir: "/records"}
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

// From a file's name, its image is known, or it is not; it is never another's.
func TestNamesOfRecords(t *testing.T) {
	r := records{dir: "/records"}
	for _, k := range []key{
		{mustParse(t, "a"), ""},
		{mustParse(t, "localhost:5000/a/b@"+digestsOf(layerA)[0].String()), "linux/arm/v7"},
		{mustParse(t, "docker-archive:/x y,linux/arm64%2C"), "linux/arm64"},
	} {
		if reference, platform := r.nameOf(r.path(k)); reference != k.reference.String() || platform != k.platform {
			t.Errorf("the file of %s is taken for one of %q for %q", k, reference, platform)
		}
	}
	long := key{reference: mustParse(t, "docker-archive:/"+strings.Repeat("a", 250))}
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
	f.Add([]byte(`{"version": 1, "layers": [null], "source": null, "pulled": "2020-01-01T00:00:00Z"}`))
	f.Add(toJSON(testRecord()))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := parseRecord(data)
		if err != nil {
			if !strings.Contains(err.Error(), "remove") {
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
