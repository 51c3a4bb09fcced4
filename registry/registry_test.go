package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"

	"berth/container"
	"berth/image"
)

// anonymous is a keychain without credentials: a test must not read those of the
// user who runs it.
var anonymous = user{}

// user is a keychain with one entry.
type user struct {
	registry string
	config   Credentials
}

func (u user) Resolve(_ context.Context, registry, _ string) (Credentials, error) {
	if registry != u.registry {
		return Credentials{}, nil
	}
	return u.config, nil
}

// serve starts a server on the loopback interface and returns its host and port.
func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func newTestClient(keychain Keychain) *Client {
	return NewClient(Options{Attempts: 1, Keychain: keychain, Transport: newTestTransport()})
}

// newTestTransport ignores the proxy of the environment.
func newTestTransport() *http.Transport {
	transport := NewTransport()
	transport.Proxy = nil
	return transport
}

// internet is a set of https servers, by host name, and the way to them.
type internet struct {
	mu        sync.Mutex
	addresses map[string]string
	transport *http.Transport
}

func newInternet(t *testing.T) *internet {
	i := &internet{addresses: map[string]string{}, transport: newTestTransport()}
	i.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		i.mu.Lock()
		if local, found := i.addresses[strings.ToLower(address)]; found {
			address = local
		}
		i.mu.Unlock()
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	t.Cleanup(i.transport.CloseIdleConnections)
	return i
}

// serve adds an https server for hosts such as "r.example.com:443".
func (i *internet) serve(t *testing.T, handler http.HandlerFunc, hosts ...string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	i.mu.Lock()
	defer i.mu.Unlock()
	// The certificate of httptest is for example.com.
	i.transport.TLSClientConfig = server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	i.transport.TLSClientConfig.ServerName = "example.com"
	for _, host := range hosts {
		i.addresses[host] = server.Listener.Addr().String()
	}
}

func mustName(t *testing.T, s string) image.Name {
	t.Helper()
	name, err := image.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// mustEndpoint is the place that is asked first for a name.
func mustEndpoint(t *testing.T, c *Client, s string) endpoint {
	t.Helper()
	places, err := c.endpoints(mustName(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return places[0]
}

func descriptorOf(content string) image.Descriptor {
	return image.Descriptor{MediaType: "application/octet-stream", Digest: image.DigestOf([]byte(content)), Size: int64(len(content))}
}

// readBlob opens and reads a blob.
func readBlob(c *Client, name image.Name, d image.Descriptor) (string, error) {
	r, err := c.Blob(context.Background(), name, d)
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return string(b), err
}

// check fails unless err is of the class and says all of the words.
func check(t *testing.T, err, class error, says ...string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("the error is %v; want class %v", err, class)
	}
	for _, other := range []error{container.ErrNotFound, container.ErrInvalid, container.ErrUnavailable, container.ErrDenied,
		container.ErrNotSupported, container.ErrFailedPrecondition} {
		if other != class && errors.Is(err, other) {
			t.Errorf("the error is of two classes, %v and %v: %v", class, other, err)
		}
	}
	for _, words := range says {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("the error is %q, want it to say %q", err, words)
		}
	}
	if len(err.Error()) > 1000 {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
}

// push puts a random image into a fresh registry.
func push(t *testing.T, host, repository string) (image.Name, v1.Image) {
	t.Helper()
	img, err := random.Image(1<<20, 6)
	if err != nil {
		t.Fatal(err)
	}
	name := mustName(t, host+"/"+repository)
	tag, err := ggcr.NewTag(name.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	return name, img
}

func newRegistry(t *testing.T) string {
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	return serve(t, handler.ServeHTTP)
}

func TestPullFromRegistry(t *testing.T) {
	name, img := push(t, newRegistry(t), "team/app:v1")
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	c := newTestClient(anonymous)
	byDigest, both := name, name
	byDigest.Tag, byDigest.Digest = "", image.Digest(want.String())
	both.Digest = byDigest.Digest
	for _, n := range []image.Name{name, byDigest, both} {
		raw, err := c.Manifest(context.Background(), n)
		if err != nil {
			t.Fatal(err)
		}
		if raw.Digest.String() != want.String() || raw.MediaType != image.MediaTypeDockerManifest {
			t.Fatalf("%s: %s %s", n, raw.MediaType, raw.Digest)
		}
		pullLayers(t, c, n, raw)
	}
}

// pullLayers fetches config and layers in parallel, with some delay for the race
// detector to see.
func pullLayers(t *testing.T, c *Client, name image.Name, raw Raw) {
	t.Helper()
	document, err := image.ParseManifest(raw.MediaType, raw.Body)
	if err != nil {
		t.Fatal(err)
	}
	manifest := document.(*image.Manifest)
	var group errgroup.Group
	for _, d := range append(manifest.Layers, manifest.Config) {
		group.Go(func() error {
			content, err := readBlob(c, name, d)
			if err == nil && image.DigestOf([]byte(content)) != d.Digest {
				err = fmt.Errorf("blob %s has other bytes", d.Digest)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestPullIndex(t *testing.T) {
	index, err := random.Index(1024, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	name := mustName(t, newRegistry(t)+"/multi:1")
	tag, err := ggcr.NewTag(name.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(tag, index); err != nil {
		t.Fatal(err)
	}
	c := newTestClient(anonymous)
	raw, err := c.Manifest(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	document, err := image.ParseManifest(raw.MediaType, raw.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range document.(*image.Index).Manifests {
		child := name
		child.Digest = d.Digest
		raw, err := c.Manifest(context.Background(), child)
		if err != nil {
			t.Fatal(err)
		}
		pullLayers(t, c, child, raw)
	}
}

func TestUnknownNames(t *testing.T) {
	name, _ := push(t, newRegistry(t), "app:v1")
	c := newTestClient(anonymous)
	unknownTag, unknownRepository := name, name
	unknownTag.Tag = "v2"
	unknownRepository.Repository = "ghost"
	for _, n := range []image.Name{unknownTag, unknownRepository} {
		_, err := c.Manifest(context.Background(), n)
		check(t, err, container.ErrNotFound, "fetch manifest of "+n.String(), "404", "check the name and the tag")
	}
	_, err := readBlob(c, name, descriptorOf("not there"))
	check(t, err, container.ErrNotFound, "fetch blob sha256:", name.String(), "404", "push it again")
}

func TestIncompleteNames(t *testing.T) {
	c := newTestClient(anonymous)
	for attack, n := range map[string]image.Name{
		"zero":                    {},
		"no tag, no digest":       {Registry: "r.example.com", Repository: "a"},
		"query in the repository": {Registry: "r.example.com", Repository: "a?b", Tag: "x"},
		"parent directory":        {Registry: "r.example.com", Repository: "../a", Tag: "x"},
		"path in the tag":         {Registry: "r.example.com", Repository: "a", Tag: "../../x"},
		"userinfo in the host":    {Registry: "user@r.example.com", Repository: "a", Tag: "x"},
		"digest that is a path":   {Registry: "r.example.com", Repository: "a", Digest: "../../x"},
	} {
		t.Run(attack, func(t *testing.T) {
			_, err := c.Manifest(context.Background(), n)
			check(t, err, container.ErrInvalid)
			_, err = c.Blob(context.Background(), n, descriptorOf("x"))
			check(t, err, container.ErrInvalid)
		})
	}
	name := mustName(t, "r.example.com/a")
	_, err := c.Blob(context.Background(), name, image.Descriptor{Digest: "sha256:../../x", Size: 1})
	check(t, err, container.ErrInvalid)
	_, err = c.Blob(context.Background(), name, image.Descriptor{Digest: image.DigestOf(nil), Size: -1})
	check(t, err, container.ErrInvalid)
}

func TestRepositoryURL(t *testing.T) {
	for in, want := range map[string]string{
		"alpine":                          "https://registry-1.docker.io/v2/library/alpine",
		"r.example.com/a/b":               "https://r.example.com/v2/a/b",
		"r.example.com:5000/a":            "https://r.example.com:5000/v2/a",
		"127.0.0.1:5000/a":                "http://127.0.0.1:5000/v2/a",
		"127.8.9.10/a":                    "http://127.8.9.10/v2/a",
		"127.0.0.1:443/a":                 "https://127.0.0.1:443/v2/a",
		"localhost/a":                     "http://localhost/v2/a",
		"localhost:5000/a":                "http://localhost:5000/v2/a",
		"localhost:443/a":                 "https://localhost:443/v2/a",
		"[::1]:5000/a":                    "http://[::1]:5000/v2/a",
		"[::1]:443/a":                     "https://[::1]:443/v2/a",
		"[::ffff:127.0.0.1]:5000/a":       "http://[::ffff:127.0.0.1]:5000/v2/a",
		"10.0.0.1:5000/a":                 "https://10.0.0.1:5000/v2/a",
		"192.168.1.1:80/a":                "https://192.168.1.1:80/v2/a",
		"127.0.0.1.example.com/a":         "https://127.0.0.1.example.com/v2/a",
		"localhost.example.com:5000/a":    "https://localhost.example.com:5000/v2/a",
		"registry.localhost:5000/a":       "https://registry.localhost:5000/v2/a",
		"127.1:5000/a":                    "https://127.1:5000/v2/a",
		"2130706433.example:5000/a":       "https://2130706433.example:5000/v2/a",
		"notdocker.io.example.com/alpine": "https://notdocker.io.example.com/v2/alpine",
	} {
		if got := mustEndpoint(t, newTestClient(anonymous), in).base.String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestHTTPSRegistry(t *testing.T) {
	net := newInternet(t)
	net.serve(t, registry.New(registry.Logger(log.New(io.Discard, "", 0))).ServeHTTP, "r.example.com:443", "registry-1.docker.io:443")
	c := NewClient(Options{Attempts: 1, Keychain: anonymous, Transport: net.transport})
	for _, name := range []string{"r.example.com/a:b", "docker.io/library/a:b"} {
		_, err := c.Manifest(context.Background(), mustName(t, name))
		check(t, err, container.ErrNotFound, "https://", "404")
	}
}

// Digests are of the bytes as stored, so nobody on the way may be asked to
// compress them, and nothing is decompressed.
func TestBytesAreTakenAsStored(t *testing.T) {
	const content = "not really gzip"
	host := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("Accept-Encoding: %s", got)
		}
		if got := r.Header.Get("User-Agent"); got != "berth" {
			t.Errorf("User-Agent: %s", got)
		}
		w.Header().Set("Content-Encoding", "gzip")
		io.WriteString(w, content)
	})
	got, err := readBlob(newTestClient(anonymous), mustName(t, host+"/a"), descriptorOf(content))
	if err != nil || got != content {
		t.Fatalf("%q, %v", got, err)
	}
}
