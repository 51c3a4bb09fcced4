//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"berth/internal/testrig"
)

// fetchServer has a script, an archive and a file that never comes; it counts requests for
// the script.
func fetchServer(t *testing.T) (url string, asked *atomic.Int64, hangs chan struct{}) {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, err := range []error{w.WriteHeader(&tar.Header{Name: "etc/hello", Typeflag: tar.TypeReg, Mode: 0o4644, Size: 2}), second(w.Write([]byte("hi"))), w.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	asked, hangs = new(atomic.Int64), make(chan struct{}, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/script":
			asked.Add(1)
			w.Header().Set("ETag", `"1"`)
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader("#!/bin/sh\necho fetched\n"))
		case "/a.tar":
			w.Write(archive.Bytes())
		case "/hangs":
			w.Header().Set("Content-Length", "1000000")
			w.Write([]byte("x"))
			w.(http.Flusher).Flush()
			hangs <- struct{}{}
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, asked, hangs
}

func second(_ int, err error) error { return err }

func TestFilesAreFetchedIntoTheSandbox(t *testing.T) {
	testrig.RequireRoot(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	url, asked, _ := fetchServer(t)
	b := testrig.Berth(t)
	secret := filepath.Join(testrig.TempDir(t), "secret")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	script := `{"value": "` + url + `/script", "executable": true, "cache": true, "output_file": "bin/tool"}`
	for _, test := range []struct {
		name   string
		args   []string
		code   int
		stdout string // exact
		stderr string // contained
	}{
		{"an executable, and an archive", []string{"--uri", script, "--uri", url + "/a.tar", image, "sh", "-c", "bin/tool; cat etc/hello"}, 0, "fetched\nhi", ""},
		{"from the cache", []string{"--uri", script, image, "/mnt/mesos/sandbox/bin/tool"}, 0, "fetched\n", ""},
		{"for a user", []string{"-u", "1234:5678", "--uri", url + "/a.tar", "-w", "/mnt/mesos/sandbox", image, "stat", "-c", "%u:%g %a", "etc/hello"}, 0, "1234:5678 644\n", ""},
		{"without an image", []string{"--uri", secret, "--", "cat", "secret"}, 0, "secret\n", ""},
		{"what the user may not read", []string{"-u", "1234", "--uri", "file://" + secret, image, "true"}, 125, "", "access denied"},
		{"nothing", []string{"--uri", "http://me:password@" + strings.TrimPrefix(url, "http://") + "/none", image, "true"}, 125, "", "/none: not found"},
		{"what it is not", []string{"--uri", url + "/script#sha256=" + strings.Repeat("0", 64), image, "true"}, 125, "", "sha256"},
		{"a relative path", []string{"--uri", "secret", image, "true"}, 125, "", "--frameworks_home"},
		{"a relative path, below", []string{"--frameworks-home", filepath.Dir(secret), "--uri", "secret", image, "cat", "secret"}, 0, "secret\n", ""},
		{"another scheme", []string{"--uri", "hdfs://host/file", image, "true"}, 125, "", "http, https, file"},
		{"half a message", []string{"--uri", `{"value": "/x", "extract": `, image, "true"}, 125, "", "--uri"},
		{"a size that is none", []string{"--fetcher_cache_size", "much", image, "true"}, 125, "", "much"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := b.Run(append([]string{"run"}, test.args...)...)
			expect(t, r, test.code, test.stderr)
			if r.Stdout != test.stdout {
				t.Errorf("stdout %q, want %q", r.Stdout, test.stdout)
			}
			if strings.Contains(r.Stderr, "password") {
				t.Errorf("stderr has a password: %s", r.Stderr)
			}
			if left := leftBy(t, b); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
	if n := asked.Load(); n != 3 { // one of them for the cache, one whether it is the same
		t.Errorf("the script was asked for %d times", n)
	}
}

// What a download waits for keeps nobody.
func TestAFetchIsInterrupted(t *testing.T) {
	testrig.RequireRoot(t)
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	url, _, hangs := fetchServer(t)
	b := testrig.Berth(t)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		p := b.Start("run", "--uri", `{"value": "`+url+`/hangs", "cache": true}`, image, "true")
		<-hangs
		p.Signal(signal)
		if r := p.Wait(); r.ExitCode == 0 {
			t.Errorf("after %v: %+v", signal, r)
		}
		// Who makes room in the cache clears it of what was interrupted.
		next := url + "/script?" + signal.String()
		expect(t, b.Run("run", "--uri", `{"value": "`+next+`", "cache": true}`, image, "test", "-e", "/mnt/mesos/sandbox/script"), 0)
		if left := leftBy(t, b); len(left) > 0 {
			t.Errorf("after %v: left behind: %q", signal, left)
		}
		if partial, err := filepath.Glob(filepath.Join(b.WorkDir, "fetch/*.partial")); err != nil || len(partial) > 0 {
			t.Errorf("after %v: the cache has %q, %v", signal, partial, err)
		}
	}
}
