package fetcher

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/metrics"
	"berth/internal/testrig"
)

func TestFilesOfAServerAndOfTheHost(t *testing.T) {
	r := newRig(t, func(o *Options) { o.FrameworksHome = "/frameworks" })
	s := newSite(t, map[string][]byte{"/a/file": []byte("of a server"), "/file.tar": []byte("no tar")})
	host := filepath.Join(t.TempDir(), "local")
	if err := os.WriteFile(host, []byte("of the host"), 0o777); err != nil {
		t.Fatal(err)
	}
	open(t, host)
	r.home = filepath.Dir(host)
	for name, c := range map[string]struct {
		uri     *v1.CommandInfo_URI
		name    string
		content string
		mode    os.FileMode
	}{
		"http":          {uri(s.URL + "/a/file?query=1#part"), "file", "of a server", 0o644},
		"leading space": {uri(" \n" + s.URL + "/a/file"), "file", "of a server", 0o644},
		"path":          {uri(host), "local", "of the host", 0o644},
		"file":          {uri("file://" + host), "local", "of the host", 0o644},
		"localhost":     {uri("file://localhost" + host), "local", "of the host", 0o644},
		"relative":      {uri("local"), "local", "of the host", 0o644},
		"executable": {&v1.CommandInfo_URI{Value: proto.String(s.URL + "/file.tar"), Executable: proto.Bool(true)},
			"file.tar", "no tar", 0o755},
		"not extracted": {&v1.CommandInfo_URI{Value: proto.String(s.URL + "/file.tar"), Extract: proto.Bool(false)},
			"file.tar", "no tar", 0o644},
		"output file": {&v1.CommandInfo_URI{Value: proto.String(s.URL + "/a/file"), OutputFile: proto.String("d/e/out")},
			"d/e/out", "of a server", 0o644},
		"digest": {uri(s.URL + "/a/file#sha256=" + strings.ToUpper(digest([]byte("of a server")))), "file", "of a server", 0o644},
	} {
		t.Run(name, func(t *testing.T) {
			sandbox := r.fetched(c.uri, c.uri) // the same one twice is no mistake
			wantFile(t, filepath.Join(sandbox, c.name), []byte(c.content), c.mode)
			for _, n := range names(t, sandbox) {
				if !ownedBy(filepath.Join(sandbox, n), nobody.uid) {
					t.Errorf("%s is not the user's", n)
				}
			}
		})
	}
}

// open lets everybody reach a file.
func open(t *testing.T, path string) {
	t.Helper()
	for dir := filepath.Dir(path); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatCannotBeFetched(t *testing.T) {
	r := newRig(t)
	s := newSite(t, map[string][]byte{"/file": []byte("x")})
	s.handle = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/denied":
			w.WriteHeader(http.StatusForbidden)
		case "/broken":
			w.WriteHeader(http.StatusInternalServerError)
		case "/teapot":
			w.WriteHeader(http.StatusTeapot)
		case "/empty":
			w.WriteHeader(http.StatusNoContent)
		case "/circle":
			http.Redirect(w, r, "/circle", http.StatusFound)
		default:
			return false
		}
		return true
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	open(t, fifo)
	closed := newSite(t, nil)
	closed.Close()
	for value, class := range map[string]error{
		s.URL + "/missing": container.ErrNotFound, s.URL + "/denied": container.ErrDenied, s.URL + "/broken": container.ErrUnavailable,
		s.URL + "/teapot": container.ErrInvalid, s.URL + "/empty": container.ErrInvalid, s.URL + "/circle": container.ErrInvalid,
		s.URL + "/file#sha256=" + digest([]byte("y")): container.ErrInvalid,
		closed.URL + "/file":                          container.ErrUnavailable,
		"/nowhere/at/all":                             container.ErrNotFound,
		"/etc":                                        container.ErrInvalid,
		"/dev/zero":                                   container.ErrInvalid,
		fifo:                                          container.ErrInvalid,
	} {
		sandbox := r.sandbox()
		if err := r.into(sandbox, uri(value)); !errors.Is(err, class) {
			t.Errorf("%s: %v, want one of class %v", value, err, class)
		}
		if left := names(t, sandbox); len(left) > 0 {
			t.Errorf("%s leaves %q", value, left)
		}
	}
	for _, output := range []string{"/absolute", "../above", "a/../../b", ".", "a/..", "x\x00y", strings.Repeat("x", 256)} {
		u := uri(s.URL + "/file")
		u.OutputFile = proto.String(output)
		if err := r.into(r.sandbox(), u); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("output_file %q: %v", output, err)
		}
	}
}

// Whoever names a file of the host is given what he may read.
func TestFilesOfTheHostAreReadWithTheRightsOfTheUser(t *testing.T) {
	r := newRig(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(secret, 0, 4711); err != nil {
		t.Fatal(err)
	}
	open(t, secret)
	if err := r.into(r.sandbox(), uri(secret)); !errors.Is(err, container.ErrDenied) {
		t.Errorf("another's file: %v", err)
	}
	for _, user := range []user{{uid: 65534, gid: 4711}, {}, {uid: 1, gid: 711, ids: container.IDRange{Start: 4000, Size: 65536}}} {
		if err := r.Fetch(t.Context(), request(uri(secret)), r.sandbox(), user.uid, user.gid, user.ids); err != nil {
			t.Errorf("user %+v: %v", user, err)
		}
	}
	// In a user namespace root is nobody special, and who has the number of the group has not
	// the group.
	for _, user := range []user{{ids: container.IDRange{Start: 100000, Size: 65536}}, {uid: 65534, gid: 4711, ids: container.IDRange{Start: 100000, Size: 65536}}} {
		sandbox := r.sandbox()
		if err := r.Fetch(t.Context(), request(uri(secret)), sandbox, user.uid, user.gid, user.ids); !errors.Is(err, container.ErrDenied) || !strings.Contains(err.Error(), strconv.Itoa(int(user.uid)+100000)) {
			t.Errorf("user %+v: %v", user, err)
		}
		if left := names(t, sandbox); len(left) > 0 {
			t.Errorf("user %+v is left %q", user, left)
		}
	}
	if err := os.Chmod(filepath.Dir(secret), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.into(r.sandbox(), uri(secret)); !errors.Is(err, container.ErrDenied) {
		t.Errorf("in another's directory: %v", err)
	}
}

// What breaks off goes on where it was.
func TestADownloadThatBreaksIsResumed(t *testing.T) {
	r := newRig(t)
	content := []byte(strings.Repeat("0123456789abcdef", 64<<10))
	s := newSite(t, map[string][]byte{"/file": content})
	s.handle = func(n int, w http.ResponseWriter, r *http.Request) bool {
		switch n {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		case 2:
			w.Header().Set("ETag", `"`+digest(content)+`"`)
			w.Header().Set("Content-Length", "1048576")
			w.Write(content[:300<<10])
			panic(http.ErrAbortHandler)
		}
		return false
	}
	sandbox := r.fetched(uri(s.URL + "/file"))
	wantFile(t, filepath.Join(sandbox, "file"), content, 0o644)
	if want := "/file bytes=307200-"; len(s.requests) != 3 || s.requests[2] != want {
		t.Errorf("requests %q, the last should be %q", s.requests, want)
	}
}

func TestAFileThatChangesMeanwhileIsNotMixed(t *testing.T) {
	r := newRig(t)
	s := newSite(t, map[string][]byte{"/file": []byte(strings.Repeat("new", 100<<10))})
	s.handle = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			w.Header().Set("ETag", `"old"`)
			w.Header().Set("Content-Length", "307200")
			w.Write([]byte(strings.Repeat("old", 50<<10)))
			panic(http.ErrAbortHandler)
		}
		return false
	}
	wantFile(t, filepath.Join(r.fetched(uri(s.URL+"/file")), "file"), s.files["/file"], 0o644)
	if s.requests[1] == "/file " {
		t.Error("the rest was not asked for")
	}
}

// Nothing says that the rest belongs to what came.
func TestADownloadWithoutETagBeginsAnew(t *testing.T) {
	r := newRig(t)
	s := newSite(t, map[string][]byte{"/file": []byte("the second version")})
	s.bare = true
	s.handle = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("the first version"))
			panic(http.ErrAbortHandler)
		}
		return false
	}
	wantFile(t, filepath.Join(r.fetched(uri(s.URL+"/file")), "file"), []byte("the second version"), 0o644)
}

func TestAServerThatStallsIsNotWaitedFor(t *testing.T) {
	r := newRig(t, func(o *Options) { o.StallTimeout = 20 * time.Millisecond })
	end := make(chan struct{})
	s := newSite(t, nil)
	t.Cleanup(func() { close(end) })
	for name, before := range map[string]int{"before the answer": 0, "in the middle": 1, "a drip": 2} {
		s.serve(func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if before > 0 {
				w.Header().Set("Content-Length", "1000000")
				w.Write([]byte("x"))
				w.(http.Flusher).Flush()
			}
			for {
				select {
				case <-end:
					return true
				case <-r.Context().Done():
					return true
				case <-time.After(5 * time.Millisecond):
					if before == 2 {
						w.Write([]byte("x"))
						w.(http.Flusher).Flush()
					}
				}
			}
		})
		err := r.into(r.sandbox(), uri(s.URL+"/file"))
		if !errors.Is(err, container.ErrUnavailable) || !strings.Contains(err.Error(), "stall") || !strings.Contains(err.Error(), "tried 5 times") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCredentialsAreInNoErrorAndGoToNoOtherHost(t *testing.T) {
	r := newRig(t)
	other := newSite(t, map[string][]byte{"/file": []byte("x")})
	var leaked []string
	other.handle = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
		leaked = append(leaked, r.Header["Authorization"]...)
		leaked = append(leaked, r.Header["Referer"]...)
		return false
	}
	s := newSite(t, map[string][]byte{"/file": []byte("x")})
	s.handle = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if user, password, _ := r.BasicAuth(); user != "user" || password != "pass/word" {
			t.Errorf("%s was asked for as %q with %q", r.URL.Path, user, password)
		}
		switch r.URL.Path {
		case "/here":
			http.Redirect(w, r, "/file", http.StatusFound)
		case "/beside": // of the same machine
			http.Redirect(w, r, other.URL+"/file", http.StatusFound)
		case "/there":
			http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+"/file", http.StatusFound)
		case "/nowhere":
			w.Header().Set("Location", "http://pass%2Fword:SECRET\x7f@x")
			w.WriteHeader(http.StatusFound)
		default:
			return false
		}
		return true
	}
	with := strings.Replace(s.URL, "http://", "http://user:pass%2Fword@", 1)
	for _, p := range []string{"/file", "/here", "/beside", "/there"} {
		if err := r.into(r.sandbox(), uri(with+p+"?token=SECRET")); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	if len(leaked) > 0 {
		t.Errorf("the other host was told %q", leaked)
	}
	closed := newSite(t, nil)
	closed.Close()
	for _, value := range []string{
		with + "/missing?token=SECRET", with + "/nowhere?token=SECRET", strings.Replace(closed.URL, "http://", "http://user:pass%2Fword@", 1) + "/x?token=SECRET",
		"http://user:pass%2Fword@host:port/?SECRET", "http://user:pass%2Fword@/SECRET", "ftp://user:pass%2Fword@host/SECRET",
		with + "/file?SECRET#sha256=" + digest(nil), "file://user:pass%2Fword@host/SECRET",
	} {
		err := r.into(r.sandbox(), uri(value))
		if err == nil || strings.Contains(err.Error(), "word") || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", value, err)
		}
	}
}

// A sandbox is made ready by others, who may not mean well.
func TestNothingInTheSandboxLeadsOut(t *testing.T) {
	r := newRig(t)
	s := newSite(t, map[string][]byte{"/file": []byte("new"), "/sub": []byte("new")})
	host := filepath.Join(r.dir, "host")
	if err := os.MkdirAll(host, 0o777); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(host, "victim")
	if err := os.WriteFile(victim, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	sandbox := r.sandbox()
	for name, target := range map[string]string{"file": victim, "dir": host, "up": "..", "proc": "/proc/self/root" + host} {
		if err := os.Symlink(target, filepath.Join(sandbox, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(sandbox, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := r.into(sandbox, uri(s.URL+"/file")); err != nil {
		t.Error(err)
	}
	wantFile(t, filepath.Join(sandbox, "file"), []byte("new"), 0o644)
	for _, output := range []string{"dir/x", "up/host/x", "proc/x", "file/x", "sub"} {
		u := uri(s.URL + "/file")
		u.OutputFile = proto.String(output)
		if err := r.into(sandbox, u); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%s: %v", output, err)
		}
	}
	nested := filepath.Join(sandbox, "containers/child")
	if err := os.MkdirAll(filepath.Join(host, "child"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(host, filepath.Dir(nested)); err != nil {
		t.Fatal(err)
	}
	if err := r.into(nested, uri(s.URL+"/file")); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link above the sandbox: %v", err)
	}
	if got := names(t, host); !slices.Equal(got, []string{"child", "victim"}) {
		t.Errorf("the host's directory has %q", got)
	}
	if got, err := os.ReadFile(victim); err != nil || string(got) != "old" || ownedBy(victim, nobody.uid) {
		t.Errorf("the host's file: %q, %v", got, err)
	}
}

func TestMetricsCountTasks(t *testing.T) {
	set := metrics.New()
	r := newRig(t, func(o *Options) { o.Metrics = set })
	s := newSite(t, map[string][]byte{"/file": []byte("0123456789")})
	r.fetched(cached(s.URL + "/file"))
	if err := r.into(r.sandbox(), uri(s.URL+"/missing")); err == nil {
		t.Error("a file that is missing was fetched")
	}
	if err := r.Fetch(t.Context(), request(), "/nowhere", nobody.uid, nobody.gid, nobody.ids); err != nil {
		t.Error(err)
	}
	got := set.Snapshot()
	for name, want := range map[string]float64{"task_fetches_succeeded": 1, "task_fetches_failed": 1, "cache_size_total_bytes": 1 << 20} {
		if got["containerizer/fetcher/"+name] != want {
			t.Errorf("%s is %v, want %v", name, got["containerizer/fetcher/"+name], want)
		}
	}
	if used := got["containerizer/fetcher/cache_size_used_bytes"]; used < 10 || used > 1000 {
		t.Errorf("the cache has %v bytes", used)
	}
}

func TestAFullDiskIsSaidAndLeavesNothing(t *testing.T) {
	dir := testrig.LoopFS(t, "ext4", 16)
	r := rigIn(t, dir, func(o *Options) { o.CacheSize = 1 << 30 })
	s := newSite(t, map[string][]byte{"/file": make([]byte, 32<<20), "/small": []byte("x")})
	for _, u := range []*v1.CommandInfo_URI{uri(s.URL + "/file"), cached(s.URL + "/file")} {
		sandbox := r.sandbox()
		if err := r.into(sandbox, u); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "free some space") {
			t.Errorf("cached %t: %v", u.GetCache(), err)
		}
		if left := names(t, sandbox); len(left) > 0 {
			t.Errorf("cached %t: it leaves %q", u.GetCache(), left)
		}
		r.fetched(cached(s.URL + "/small"))
	}
	r.wantCache(1)
}
