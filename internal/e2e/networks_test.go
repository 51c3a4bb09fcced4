//go:build linux

package e2e

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"berth/internal/testrig"
)

// write makes a file, and its directories.
func write(t *testing.T, text string, path ...string) string {
	t.Helper()
	file := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// dockerConfig is what `docker login` writes.
func dockerConfig(host string) string {
	auth := base64.StdEncoding.EncodeToString([]byte(testrig.SecureUser + ":" + testrig.SecurePassword))
	return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth)
}

// wantSecret fails when a run tells what nobody may read.
func wantSecret(t *testing.T, r testrig.Result) {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte(testrig.SecureUser + ":" + testrig.SecurePassword))
	for _, secret := range []string{testrig.SecurePassword, auth} {
		if strings.Contains(r.Stdout+r.Stderr, secret) {
			t.Errorf("it tells a secret: %s%s", r.Stdout, r.Stderr)
		}
	}
}

func TestPullWithTLSAndPassword(t *testing.T) {
	reg := testrig.Registry(t)
	plain := testrig.BusyboxImage(t, reg, "busybox:1")
	host, ca := reg.Secure(t)
	image := strings.Replace(plain, reg.Host(), host, 1)
	testrig.Berth(t) // is built with the HOME of the tests
	home := testrig.TempDir(t)
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", "")
	authority, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	certs := testrig.TempDir(t)
	write(t, string(authority), certs, host, "ca.crt")
	trusted := "--certs_dirs=" + certs

	r := testrig.Berth(t).Run("pull", trusted, image)
	expect(t, r, 125, "docker login", host)
	config := write(t, dockerConfig("https://"+host+"/v1/"), home, ".docker", "config.json")
	r = testrig.Berth(t).Run("pull", trusted, image)
	expect(t, r, 0)
	wantSecret(t, r)
	expect(t, testrig.Berth(t).Run("pull", "--insecure_registries="+host, image), 0)
	expect(t, testrig.Berth(t).Run("pull", "--certs_dirs="+filepath.Dir(certs)+"/none", "--insecure_registries="+host, "--docker_config=file://"+config, image), 0)

	write(t, strings.Replace(dockerConfig(host), `"auth":"`, `"auth":"Ym9iOndyb25nLXNlY3JldA==","x":"`, 1), home, ".docker", "config.json")
	r = testrig.Berth(t).Run("pull", trusted, image)
	expect(t, r, 125, "wrong or not sufficient")
	if strings.Contains(r.Stderr, "wrong-secret") || strings.Contains(r.Stderr, "Ym9i") {
		t.Errorf("it tells a secret: %s", r.Stderr)
	}

	t.Run("by a mirror", func(t *testing.T) {
		write(t, dockerConfig(host), home, ".docker", "config.json")
		reg.Fail(http.StatusServiceUnavailable)
		defer reg.Fail(0)
		hosts := testrig.TempDir(t)
		at, port, _ := strings.Cut(reg.Host(), ":")
		write(t, fmt.Sprintf("[host.\"https://%s\"]\nca = %q\n", host, ca), hosts, at+"_"+port+"_", "hosts.toml")
		expect(t, testrig.Berth(t).Run("pull", "--hosts_dir="+hosts, plain), 0)
		conf := write(t, fmt.Sprintf("[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\n", reg.Host(), host), hosts, "registries.conf")
		r := testrig.Berth(t).Run("pull", trusted, "--hosts_dir=", "--registries_conf="+conf, plain)
		expect(t, r, 0)
		wantSecret(t, r)
	})
}

// cutting is a blob server that breaks off every answer with a blob, and counts its bytes.
type cutting struct {
	most int64 // of an answer; 0 does not break off
	sent atomic.Int64
}

// serve has it stand before a registry.
func (c *cutting) serve(reg *testrig.RegistryServer) {
	direct := &url.URL{Scheme: "http", Host: reg.Direct()}
	reg.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		blob := strings.Contains(r.URL.Path, "/blobs/")
		if blob {
			c.forward(w, r, direct, http.DefaultTransport)
		}
		return blob
	})
}

// secure has it stand before the secure door of a registry, with a door of its own, and
// returns the address and the authority to trust.
func (c *cutting) secure(t *testing.T, behind string) (host, authority string) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // both are this test's
	t.Cleanup(transport.CloseIdleConnections)
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.forward(w, r, &url.URL{Scheme: "https", Host: behind}, transport)
	}))
	front.EnableHTTP2 = true
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	front.StartTLS()
	t.Cleanup(front.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	return front.Listener.Addr().String(), string(ca)
}

func (c *cutting) forward(w http.ResponseWriter, r *http.Request, to *url.URL, transport http.RoundTripper) {
	ask := r.Clone(r.Context())
	ask.URL.Scheme, ask.URL.Host = to.Scheme, to.Host
	ask.Header.Set("Accept-Encoding", "identity")
	resp, err := transport.RoundTrip(ask)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	if !strings.Contains(r.URL.Path, "/blobs/") || resp.StatusCode >= http.StatusBadRequest {
		_, _ = io.Copy(w, resp.Body)
		return
	}
	body := io.Reader(resp.Body)
	if c.most > 0 {
		body = io.LimitReader(body, c.most)
	}
	n, _ := io.Copy(w, body)
	c.sent.Add(n)
	if resp.ContentLength > n {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// wantNoMore fails when what was sent is not about as much as the whole image.
func (c *cutting) wantNoMore(t *testing.T, whole *cutting) {
	t.Helper()
	size, sent := whole.sent.Load(), c.sent.Load()
	t.Logf("%d bytes, %d where every answer breaks off", size, sent)
	if size < 5*c.most {
		t.Fatalf("the image has only %d bytes", size)
	}
	if sent > size*105/100 {
		t.Errorf("%d bytes were sent of an image of %d", sent, size)
	}
}

func TestPullWhereEveryAnswerBreaksOff(t *testing.T) {
	reg := testrig.Registry(t)
	image := testrig.BigLayerImage(t, reg, "big:1", 24<<20)
	whole, cut := &cutting{}, &cutting{most: 1_000_000}
	whole.serve(reg)
	expect(t, testrig.Berth(t).Run("pull", image), 0)
	cut.serve(reg)
	expect(t, testrig.Berth(t).Run("pull", image), 0)
	cut.wantNoMore(t, whole)
}

// The same with TLS and a password, from the registry and from a mirror of another one.
func TestSecurePullWhereEveryAnswerBreaksOff(t *testing.T) {
	reg := testrig.Registry(t)
	plain := testrig.BigLayerImage(t, reg, "big:1", 24<<20)
	behind, _ := reg.Secure(t)
	testrig.Berth(t) // is built with the HOME of the tests
	home := testrig.TempDir(t)
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", "")
	pull := func(c *cutting, byMirror bool) {
		t.Helper()
		host, authority := c.secure(t, behind)
		write(t, dockerConfig(host), home, ".docker", "config.json")
		certs := testrig.TempDir(t)
		write(t, authority, certs, host, "ca.crt")
		conf, image := "", strings.Replace(plain, reg.Host(), host, 1)
		if byMirror {
			conf = write(t, fmt.Sprintf("[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\n", reg.Host(), host), certs, "registries.conf")
			image = plain
		}
		r := testrig.Berth(t).Run("pull", "--certs_dirs="+certs, "--hosts_dir=", "--registries_conf="+conf, image)
		expect(t, r, 0)
		wantSecret(t, r)
	}
	for name, byMirror := range map[string]bool{"from the registry": false, "from a mirror": true} {
		t.Run(name, func(t *testing.T) {
			before := reg.Requests()
			whole, cut := &cutting{}, &cutting{most: 1_000_000}
			pull(whole, byMirror)
			pull(cut, byMirror)
			cut.wantNoMore(t, whole)
			if asked := reg.AccessLog()[before:]; len(asked) > 0 {
				t.Errorf("the insecure registry was asked for %q", asked)
			}
		})
	}
}

// stuckPull begins a pull, and returns when most bytes of a blob have come that is larger,
// and nothing follows. sent counts what the registry has sent.
func stuckPull(t *testing.T, b *testrig.Command, reg *testrig.RegistryServer, image string, most int64) (pull *testrig.Process, sent *atomic.Int64) {
	t.Helper()
	sent = new(atomic.Int64)
	stuck := make(chan struct{})
	var once sync.Once
	reg.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		resp, err := http.Get("http://" + reg.Direct() + r.URL.Path)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		w.Header().Set("Content-Length", fmt.Sprint(resp.ContentLength))
		n, _ := io.Copy(w, io.LimitReader(resp.Body, most))
		sent.Add(n)
		if n == resp.ContentLength {
			return true
		}
		_ = http.NewResponseController(w).Flush()
		// berth has read all of it, and keeps it in pieces.
		await(t, func() bool { return kept(b) > n-(256<<10) })
		once.Do(func() { close(stuck) })
		<-r.Context().Done()
		return true
	})
	pull = b.Start("pull", image)
	<-stuck
	return pull, sent
}

// The process is killed in mid-blob; the next one goes on from there.
func TestPullAfterKillGoesOn(t *testing.T) {
	reg := testrig.Registry(t)
	image := testrig.BigLayerImage(t, reg, "big:1", 24<<20)
	whole := &cutting{}
	whole.serve(reg)
	expect(t, testrig.Berth(t).Run("pull", image), 0)
	size := whole.sent.Load()

	b := testrig.Berth(t)
	pull, sent := stuckPull(t, b, reg, image, size*2/3)
	pull.Signal(syscall.SIGKILL)
	pull.Wait()
	rest := &cutting{}
	rest.serve(reg)
	expect(t, b.Run("pull", image), 0)
	total := sent.Load() + rest.sent.Load()
	t.Logf("%d bytes, %d with a kill in between", size, total)
	if total > size*105/100 {
		t.Errorf("%d bytes were sent of an image of %d", total, size)
	}
	if left := kept(b); left != 0 {
		t.Errorf("%d bytes are kept of what was pulled", left)
	}
}

// What is kept of a pull stays while the pull is under way, and is counted when it goes.
func TestPruneRemovesWhatAnInterruptedPullLeft(t *testing.T) {
	reg := testrig.Registry(t)
	image := testrig.BigLayerImage(t, reg, "big:1", 24<<20)
	b := testrig.Berth(t)
	pull, _ := stuckPull(t, b, reg, image, 4<<20)
	prune := func(args ...string) pruned {
		t.Helper()
		r := b.Run(append([]string{"prune", "--json"}, args...)...)
		expect(t, r, 0)
		return decode[pruned](t, r)
	}
	if got := prune(); len(got.Partials) > 0 || kept(b) == 0 {
		t.Errorf("amid the pull prune removed %+v", got)
	}
	pull.Signal(syscall.SIGKILL)
	pull.Wait()

	stranger := filepath.Join(b.WorkDir, "store/docker/partial/notes.txt")
	if err := os.WriteFile(stranger, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := b.Run("check", "--json")
	expect(t, r, 0)
	if got := decode[report](t, r).Unknown; !slices.Equal(got, []string{stranger}) {
		t.Errorf("not berth's are %q", got)
	}
	size := kept(b) - int64(len("mine"))
	would := prune("--dry-run")
	if len(would.Partials) != 1 || would.Bytes < size || would.Bytes > size+(1<<20) {
		t.Errorf("would prune %+v, and %d bytes are kept", would, size)
	}
	if got := prune(); !reflect.DeepEqual(got, would) || kept(b) != int64(len("mine")) {
		t.Errorf("pruned %+v, would %+v; left are %d bytes", got, would, kept(b))
	}
	if r := b.Run("prune", "--json"); len(decode[pruned](t, r).Partials) > 0 {
		t.Errorf("pruned again: %s", r.Stdout)
	}
}

// kept is the size of what is kept of blobs.
func kept(b *testrig.Command) (sum int64) {
	files, _ := filepath.Glob(filepath.Join(b.WorkDir, "store/docker/partial/*"))
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			sum += info.Size()
		}
	}
	return sum
}
