package testrig

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
)

// ACIEntry is one of an Appc image's tar, under its whole name, such as "rootfs/etc".
type ACIEntry struct {
	tar.Header
	Content string
}

// ACI packs an Appc image: the entries in their order, and the manifest at the end, where
// the builders of such images put it.
func ACI(tb testing.TB, manifest any, entries ...ACIEntry) []byte {
	tb.Helper()
	text, err := json.Marshal(manifest)
	if err != nil {
		tb.Fatal(err)
	}
	last := ACIEntry{tar.Header{Typeflag: tar.TypeReg, Name: "manifest", Mode: 0o644}, string(text)}
	return ACITar(tb, append(slices.Clone(entries), last)...)
}

// ACITar packs entries, which need not be an image.
func ACITar(tb testing.TB, entries ...ACIEntry) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		if e.Typeflag == tar.TypeReg {
			e.Size = int64(len(e.Content))
		}
		if e.ModTime.IsZero() {
			e.ModTime = time.Unix(1e9, 0)
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			tb.Fatalf("%s: %v", e.Name, err)
		}
		if _, err := io.WriteString(w, e.Content); err != nil {
			tb.Fatalf("%s: %v", e.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// ACIFile and ACIDir are entries.
func ACIFile(name, content string) ACIEntry {
	return ACIEntry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}

// ACIDir is a directory, see ACIFile.
func ACIDir(name string) ACIEntry {
	return ACIEntry{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}, ""}
}

// BusyboxRootfs is the small system of BusyboxImage as entries of an Appc image, with links
// for a few applets.
func BusyboxRootfs(tb testing.TB) []ACIEntry {
	tb.Helper()
	RequireTools(tb, "busybox")
	program, err := os.ReadFile(staticBusybox(tb))
	if err != nil {
		tb.Fatal(err)
	}
	entries := []ACIEntry{ACIDir("rootfs")}
	for _, dir := range []string{"bin", "dev", "etc", "mnt", "mnt/mesos", "mnt/mesos/sandbox", "proc", "root", "sys"} {
		entries = append(entries, ACIDir("rootfs/"+dir))
	}
	tmp := ACIDir("rootfs/tmp")
	tmp.Mode = 0o1777
	busybox := ACIFile("rootfs/bin/busybox", string(program))
	busybox.Mode = 0o755
	entries = append(entries, tmp, busybox)
	for _, applet := range []string{"sh", "cat", "echo", "ls", "id", "pwd", "env", "true", "test"} {
		entries = append(entries, ACIEntry{tar.Header{Typeflag: tar.TypeLink, Name: "rootfs/bin/" + applet, Linkname: "rootfs/bin/busybox", Mode: 0o755}, ""})
	}
	return append(entries,
		ACIFile("rootfs/etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n"),
		ACIFile("rootfs/etc/group", "root:x:0:\nwheel:x:10:\napp:x:1000:\n"))
}

// ACIArch is Appc's name of the architecture of this host.
func ACIArch() string {
	if arch, ok := map[string]string{"386": "i386", "arm64": "aarch64", "arm": "armv7l"}[runtime.GOARCH]; ok {
		return arch
	}
	return runtime.GOARCH
}

// Compress compresses by a program: "gzip", "bzip2" or "xz".
func Compress(tb testing.TB, program string, data []byte) []byte {
	tb.Helper()
	RequireTools(tb, program)
	cmd := exec.Command(program, "-c")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("%s: %v", program, err)
	}
	return out
}

// ACIServer serves files by http on loopback.
type ACIServer struct {
	// Prefix is that of simple discovery.
	Prefix string

	mu       sync.Mutex
	files    map[string][]byte
	requests []string
	answer   func(http.ResponseWriter, *http.Request) bool
}

// NewACIServer starts a server, which ends with the test.
func NewACIServer(tb testing.TB) *ACIServer {
	tb.Helper()
	s := &ACIServer{files: make(map[string][]byte)}
	server := httptest.NewServer(s)
	tb.Cleanup(server.Close)
	s.Prefix = server.URL + "/"
	return s
}

// Put serves a file under a name, in place of an earlier one.
func (s *ACIServer) Put(name string, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = content
}

// Remove serves the file no longer.
func (s *ACIServer) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, name)
}

// Intercept lets f answer requests; false leaves one to the server.
func (s *ACIServer) Intercept(f func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

// Requests returns the names that were asked for so far.
func (s *ACIServer) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// ServeHTTP implements http.Handler.
func (s *ACIServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	s.mu.Lock()
	s.requests = append(s.requests, name)
	content, ok := s.files[name]
	answer := s.answer
	s.mu.Unlock()
	switch {
	case answer != nil && answer(w, r):
	case ok:
		_, _ = w.Write(content) // a client that is gone is its own affair
	default:
		http.NotFound(w, r)
	}
}

// PGPKey is a key for tests.
type PGPKey struct {
	entity *openpgp.Entity
}

// NewPGPKey makes a key.
func NewPGPKey(tb testing.TB) *PGPKey {
	tb.Helper()
	entity, err := openpgp.NewEntity("test", "", "test@example.com", nil)
	if err != nil {
		tb.Fatal(err)
	}
	return &PGPKey{entity}
}

// Ring writes the public key to a file and returns its name.
func (k *PGPKey) Ring(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "ring.gpg")
	f, err := os.Create(path)
	if err == nil {
		err = k.entity.Serialize(f)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Sign returns the armored detached signature of content.
func (k *PGPKey) Sign(tb testing.TB, content []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&out, k.entity, bytes.NewReader(content), nil); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}
