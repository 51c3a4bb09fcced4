package docker

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/provisioner/store"
	"berth/provisioner/store/fetch"
	"berth/provisioner/store/storetest"
)

// spoil changes the record of an image and returns its path.
func (b *bench) spoil(t testing.TB, k fetch.Key, change func([]byte) []byte) (path string) {
	t.Helper()
	path = b.recordPath(t, k)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(data), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (b *bench) recordsDir() string { return filepath.Join(b.dir, "docker", "images") }

// recorded is what the tests read of a record.
type recorded struct {
	Reference, Platform, Manifest string
	ManifestDigest                image.Digest
}

// recordPath finds the record of an image.
func (b *bench) recordPath(t testing.TB, k fetch.Key) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(b.recordsDir(), "*.json"))
	must(err)
	for _, path := range paths {
		if rec := readRecord(t, path); rec.Reference == k.Reference.String() && rec.Platform == k.Platform {
			return path
		}
	}
	t.Fatalf("no record of %s", k)
	return ""
}

func readRecord(t testing.TB, path string) (rec recorded) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(err)
	_ = json.Unmarshal(data, &rec) // one that a test has broken is nobody's
	return rec
}

func replacing(old, by string) func([]byte) []byte {
	return func(d []byte) []byte { return bytes.Replace(d, []byte(old), []byte(by), 1) }
}

// wantUnreadable says that List has one image, and knows of another that its record at
// path cannot be read, and why.
func (b *bench) wantUnreadable(t testing.TB, other, path string, k fetch.Key, class error, says ...string) {
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
	if rec.Path != path || rec.Reference != k.Reference.String() || rec.Platform != k.Platform {
		t.Errorf("unreadable is %s of %q for %q, want %s of %s", rec.Path, rec.Reference, rec.Platform, path, k)
	}
	storetest.WantError(t, err, class, append(says, path)...)
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
			k := fetch.Key{Reference: mustParse(t, r.host+"/spoilt:1")}
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
	k := fetch.Key{Reference: mustParse(t, r.host+"/newer:1")}
	const written = `{"version": 2, "layers": {"a": "b"}}`
	path := b.spoil(t, k, func([]byte) []byte { return []byte(written) })
	says := []string{"of version 2", "this berth knows version 1", "use the berth that wrote it, or remove the file", path}
	b.wantUnreadable(t, r.host+"/own:1", path, k, container.ErrNotSupported, says...)
	before := len(r.requests(""))
	storetest.WantError(t, b.fails(t, r.ref("newer:1")), container.ErrNotSupported, says...)
	storetest.WantError(t, b.fails(t, uncached(r.ref("newer:1"))), container.ErrNotSupported, says...)
	storetest.WantError(t, b.Remove(t.Context(), r.ref("newer:1")), container.ErrNotSupported, says...)
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
	path := b.spoil(t, fetch.Key{Reference: mustParse(t, r.host+"/"+name+":1"), Platform: "linux/s390x"}, func([]byte) []byte { return nil })
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
	path := b.recordPath(t, fetch.Key{Reference: mustParse(t, r.host+"/a:1")})
	defer disk.Intercept(func(s disk.Step) error {
		if s.Op == "read" && s.Path == path {
			return syscall.EIO
		}
		return nil
	})()
	before := len(r.requests(""))
	storetest.WantError(t, b.fails(t, r.ref("a:1")), syscall.EIO, path)
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

func TestListLeavesOtherFilesAlone(t *testing.T) {
	b := newBench(t)
	var others []string
	for _, name := range []string{".a.json.1234", "README", "a.json.bak"} {
		others = append(others, filepath.Join(b.recordsDir(), name))
		if err := os.WriteFile(others[len(others)-1], []byte("no record"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.wantNothing(t)
	if unknown, err := b.Unknown(); err != nil || !slices.Equal(unknown, others) {
		t.Errorf("unknown are %q, %v, want %q", unknown, err, others)
	}
	if err := os.RemoveAll(b.recordsDir()); err != nil {
		t.Fatal(err)
	}
	_, err := b.List(t.Context())
	storetest.WantError(t, err, fs.ErrNotExist, "list images", b.recordsDir())
}
