package fetcher

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/inroot"
	"berth/internal/testrig"
)

// TestMain lets the test binary be another process that fetches, see child.
func TestMain(m *testing.M) {
	firstPause = time.Millisecond
	if os.Getenv("FETCHER_TEST_URI") != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

// nobody is a user without rights.
var nobody = user{uid: 65534, gid: 65534}

// site is a server on loopback with faults.
type site struct {
	*httptest.Server
	mu       sync.Mutex
	files    map[string][]byte
	requests []string // method, path and what was asked besides
	// handle answers in the place of the files if it returns true. n counts from 1.
	handle func(n int, w http.ResponseWriter, r *http.Request) bool
	bare   bool // says nothing of the version of a file
}

func newSite(t *testing.T, files map[string][]byte) *site {
	s := &site{files: files}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.URL.Path+" "+r.Header.Get("Range"))
	n, handle, bare := len(s.requests), s.handle, s.bare
	content, ok := s.files[r.URL.Path]
	s.mu.Unlock()
	if handle != nil && handle(n, w, r) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	if !bare {
		w.Header().Set("ETag", `"`+digest(content)+`"`)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

func (s *site) set(path string, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = content
}

// serve changes handle while there may be requests.
func (s *site) serve(handle func(n int, w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handle = handle
}

func (s *site) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// rig is a fetcher with a cache, and sandboxes.
type rig struct {
	*Fetcher
	t    *testing.T
	dir  string
	next int
}

func newRig(t *testing.T, change ...func(*Options)) *rig {
	testrig.RequireRoot(t)
	return rigIn(t, testrig.TempDir(t), change...)
}

func rigIn(t *testing.T, dir string, change ...func(*Options)) *rig {
	o := Options{CacheDir: filepath.Join(dir, "cache"), CacheSize: 1 << 20, StallTimeout: time.Minute}
	for _, c := range change {
		c(&o)
	}
	return &rig{Fetcher: New(o), t: t, dir: dir}
}

// sandbox makes a new one.
func (r *rig) sandbox() string {
	r.t.Helper()
	r.next++
	dir, err := os.MkdirTemp(r.dir, "sandbox")
	if err == nil {
		err = os.Chown(dir, int(nobody.uid), int(nobody.gid))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return dir
}

func uri(value string) *v1.CommandInfo_URI { return &v1.CommandInfo_URI{Value: proto.String(value)} }

func cached(value string) *v1.CommandInfo_URI {
	return &v1.CommandInfo_URI{Value: proto.String(value), Cache: proto.Bool(true)}
}

func request(uris ...*v1.CommandInfo_URI) *v1.ContainerConfig {
	return &v1.ContainerConfig{CommandInfo: &v1.CommandInfo{Uris: uris}}
}

// into fetches into a sandbox.
func (r *rig) into(sandbox string, uris ...*v1.CommandInfo_URI) error {
	return r.Fetch(r.t.Context(), request(uris...), sandbox, nobody.uid, nobody.gid, nobody.ids)
}

// fetched fetches into a new sandbox, which has to work.
func (r *rig) fetched(uris ...*v1.CommandInfo_URI) (sandbox string) {
	r.t.Helper()
	sandbox = r.sandbox()
	if err := r.into(sandbox, uris...); err != nil {
		r.t.Fatal(err)
	}
	return sandbox
}

func wantFile(t *testing.T, path string, content []byte, mode os.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%s has %d bytes %.40q, %v, want %d bytes %.40q", path, len(got), got, err, len(content), content)
		return
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != mode {
		t.Errorf("%s: mode %v, %v, want %v", path, info.Mode(), err, mode)
	}
	if !ownedBy(path, nobody.uid) {
		t.Errorf("%s does not belong to the user", path)
	}
}

func ownedBy(path string, uid uint32) bool {
	owner, _, err := inroot.Owner(filepath.Dir(path), filepath.Base(path))
	return err == nil && owner == uid
}

// names are the paths of all that is below a directory.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if path != dir {
			all = append(all, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// wantCache checks that the cache has so many whole entries, and nothing else.
func (r *rig) wantCache(entries int) {
	r.t.Helper()
	all, err := r.cache.list()
	if err != nil {
		r.t.Fatal(err)
	}
	whole := 0
	for _, k := range all {
		e := &entry{cache: r.cache, key: k.key}
		record, f := e.read()
		if f == nil || len(k.files) != 3 {
			r.t.Errorf("the cache has %q", k.files)
			continue
		}
		got, err := digestOf(context.Background(), f)
		f.Close()
		if err != nil || got != record.Digest {
			r.t.Errorf("content has digest %s, %v, its record says %s", got, err, record.Digest)
		}
		whole++
	}
	if whole != entries {
		r.t.Errorf("the cache has %d entries, want %d: %q", whole, entries, names(r.t, r.cache.dir))
	}
}

// tarOf is a tar of these entries, whose content is that of the fields of the same index.
func tarOf(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := "content of " + h.Name
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
