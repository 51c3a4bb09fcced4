package testrig

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// RegistryServer is a real docker-registry with its own storage.
//
//	client --> Host(): counting proxy --> Direct(): docker-registry --> temporary directory
//
// The image builders push to Direct, so Requests counts the client's alone.
type RegistryServer struct {
	proxy   string
	direct  string
	storage string

	mu        sync.Mutex
	log       []string
	intercept func(http.ResponseWriter, *http.Request) bool
}

// The registry chooses its port itself (0) and says which in its log: no port
// can be taken from it between choosing and listening.
const registryConfig = `version: 0.1
log: {level: info, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
  maintenance: {uploadpurging: {enabled: false}}
http: {addr: "127.0.0.1:0", secret: testrig%s}
compatibility: {schema1: {enabled: true}}
%s`

var registryListens = regexp.MustCompile(`listening on (127\.0\.0\.1:[0-9]+)`)

// Registry starts a registry on the loopback, empty, and ends it with the test.
func Registry(tb testing.TB) *RegistryServer {
	tb.Helper()
	RequireTools(tb, "docker-registry")
	r := &RegistryServer{storage: filepath.Join(TempDir(tb), "storage")}
	r.direct = startRegistry(tb, r.storage, "", "", registryAddress)
	r.startProxy(tb)
	return r
}

// Host is the registry's address, "127.0.0.1:PORT".
func (r *RegistryServer) Host() string { return r.proxy }

// Direct is the address of the registry itself, past the proxy that counts: for
// benchmarks, and for preparations that are not to be counted.
func (r *RegistryServer) Direct() string { return r.direct }

// Requests is how many requests Host has received.
func (r *RegistryServer) Requests() int { return len(r.AccessLog()) }

// AccessLog is those requests in their order, each as "GET /v2/name/blobs/...".
func (r *RegistryServer) AccessLog() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// Fail makes Host answer every request with the given status from now on; 0
// makes it well again.
func (r *RegistryServer) Fail(status int) {
	if status == 0 {
		r.Intercept(nil)
		return
	}
	r.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, http.StatusText(status), status)
		return true
	})
}

// Intercept puts h before every request to Host: if it returns true it has
// answered, else the registry does. nil takes it away. h is called from several
// goroutines at once.
func (r *RegistryServer) Intercept(h func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.intercept = h
}

// Push copies an image, in skopeo's words ("oci:DIR:TAG", "docker-archive:FILE"),
// to the given NAME[:TAG] and returns its reference at Host. The flags go to
// "skopeo copy": "--format=v2s2", "--dest-compress-format=zstd", "--all".
func (r *RegistryServer) Push(tb testing.TB, source, name string, flags ...string) string {
	tb.Helper()
	name = withTag(name)
	args := append([]string{"copy", "--quiet", "--dest-tls-verify=false"}, flags...)
	Skopeo(tb, append(args, source, "docker://"+r.direct+"/"+name)...)
	return r.proxy + "/" + name
}

func withTag(name string) string {
	if !strings.Contains(name, ":") {
		name += ":latest"
	}
	return name
}

// startRegistry starts a registry with more of a configuration, in its section http and
// beside that, and returns where it listens as soon as reached does.
func startRegistry(tb testing.TB, storage, http, more string, reached func(log string) (string, error)) (addr string) {
	tb.Helper()
	dir := TempDir(tb)
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf(registryConfig, storage, http, more)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		tb.Fatalf("write the registry's configuration: %v", err)
	}
	logFile, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		tb.Fatalf("make the registry's log: %v", err)
	}
	defer logFile.Close()
	path, err := toolPath("docker-registry")
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(path, "serve", config)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Env = withoutRegistryVariables(os.Environ())
	done, err := startTied(cmd)
	if err != nil {
		tb.Fatalf("start the registry: %v", err)
	}
	tb.Cleanup(func() { endProcess(tb, cmd, done) })
	err = eventually(20*time.Second, func() error {
		addr, err = reached(logFile.Name())
		return err
	})
	if err != nil {
		tb.Fatalf("wait for the registry: %v", err)
	}
	return addr
}

// registryAddress reads from the registry's log where it listens, and proves
// that it answers there.
func registryAddress(logPath string) (string, error) {
	addr, err := loggedAddress(logPath)
	if err != nil {
		return "", err
	}
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get("http://" + addr + "/v2/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GET /v2/: %s", resp.Status)
	}
	return addr, nil
}

func loggedAddress(logPath string) (string, error) {
	text, err := os.ReadFile(logPath)
	if err != nil {
		return "", err
	}
	m := registryListens.FindSubmatch(text)
	if m == nil {
		return "", fmt.Errorf("it does not listen yet; its log:\n%s", text)
	}
	return string(m[1]), nil
}

// withoutRegistryVariables drops REGISTRY_..., with which the registry would
// override the configuration that the rig gives it.
func withoutRegistryVariables(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		return strings.HasPrefix(v, "REGISTRY_")
	})
}

// endProcess ends a process by its id: politely, then not.
func endProcess(tb testing.TB, cmd *exec.Cmd, done <-chan error) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-done:
		return
	case <-time.After(5 * time.Second):
	}
	_ = cmd.Process.Kill()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		tb.Errorf("process %d (%s) does not end", cmd.Process.Pid, cmd.Path)
	}
}

func (r *RegistryServer) startProxy(tb testing.TB) {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listen: %v", err)
	}
	r.proxy = listener.Addr().String()
	quiet := log.New(io.Discard, "", 0)
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16}
	forward := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: r.direct})
			// The registry makes the addresses of uploads from this.
			p.Out.Host = p.In.Host
		},
		Transport: transport,
		ErrorLog:  quiet, // of clients that went away, mostly
	}
	server := &http.Server{
		ErrorLog: quiet,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			r.mu.Lock()
			r.log = append(r.log, req.Method+" "+req.URL.RequestURI())
			intercept := r.intercept
			r.mu.Unlock()
			if intercept == nil || !intercept(w, req) {
				forward.ServeHTTP(w, req)
			}
		}),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	tb.Cleanup(func() {
		_ = server.Close()
		transport.CloseIdleConnections()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			tb.Errorf("serve the registry's proxy: %v", err)
		}
	})
}
