package registry

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"berth/container"
	"berth/image"
)

const (
	dialTimeout         = 10 * time.Second
	headerTimeout       = 30 * time.Second
	defaultStallTimeout = 60 * time.Second

	// maxSessions bounds what a client that lives for years remembers.
	maxSessions = 4096

	// hubHost is where the registry called docker.io listens.
	hubHost = "registry-1.docker.io"
)

// Options say how a Client talks. The zero value is useful.
type Options struct {
	// Keychain finds credentials. It is asked only when a registry asks; nil is the
	// user's docker configuration, credential helpers included.
	Keychain authn.Keychain
	// Transport carries single requests, nil is NewTransport(). The time to connect
	// and the time until an answer begins are for it to limit.
	Transport http.RoundTripper
	// StallTimeout ends a transfer that brings no byte for so long; 0 is a minute.
	StallTimeout time.Duration
	// UserAgent is how the client introduces itself; "" is "berth".
	UserAgent string
}

// Client fetches from registries. It is safe for concurrent use. It remembers
// authorizations, per repository, as long as it lives.
type Client struct {
	keychain  authn.Keychain
	transport http.RoundTripper
	stall     time.Duration
	userAgent string

	mu       sync.Mutex
	sessions map[string]*session
}

// NewClient returns a client. It makes no connection.
func NewClient(o Options) *Client {
	c := &Client{
		keychain:  o.Keychain,
		transport: o.Transport,
		stall:     cmp.Or(o.StallTimeout, defaultStallTimeout),
		userAgent: cmp.Or(o.UserAgent, "berth"),
		sessions:  map[string]*session{},
	}
	if c.keychain == nil {
		c.keychain = authn.DefaultKeychain
	}
	if c.transport == nil {
		c.transport = NewTransport()
	}
	return c
}

// NewTransport returns what a Client uses by default: it gives up a connection
// after 10 s and an answer that does not begin after 30 s, keeps connections for the
// parallel fetches of an image, and uses the proxy of the environment.
func NewTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:    dialTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: 256 << 10,
		MaxIdleConns:           128,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
		ForceAttemptHTTP2:      true,
		// Digests are of the bytes as stored.
		DisableCompression: true,
	}
}

// repositoryURL returns the place of a repository: plain http on loopback hosts
// unless their port is 443, https everywhere else. go-containerregistry would also
// speak http to private networks, where there are others to listen.
func repositoryURL(n image.Name) *url.URL {
	u := &url.URL{Scheme: "https", Host: n.Registry}
	if n.Registry == image.DefaultRegistry {
		u.Host = hubHost
	}
	if isLoopback(u.Hostname()) && u.Port() != "443" {
		u.Scheme = "http"
	}
	return u.JoinPath("v2", n.Repository)
}

// isLoopback looks at what is written, not at what a name resolves to: an answer
// of the name service must not turn encryption off.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.Unmap().IsLoopback()
}

// checkName refuses a Name that ParseName would not have made: its parts become
// parts of a URL.
func checkName(n image.Name) error {
	if parsed, err := image.ParseName(n.String()); err != nil || parsed != n {
		return fmt.Errorf("%w: not a complete image name", container.ErrInvalid)
	}
	return nil
}
