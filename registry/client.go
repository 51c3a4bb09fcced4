package registry

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

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
	Keychain Keychain
	// Transport carries single requests, nil is NewTransport(). The time to connect
	// and the time until an answer begins are for it to limit.
	Transport http.RoundTripper
	// Hub stands for Docker Hub, nil is that one itself: names without a registry are
	// looked for there, without the "library/" that only Docker Hub has. Its path is ignored.
	Hub *url.URL
	// StallTimeout ends a transfer that brings next to nothing for so long; 0 is a minute.
	StallTimeout time.Duration
	// UserAgent is how the client introduces itself; "" is "berth".
	UserAgent string

	// Attempts is how often in a row something is tried that brings nothing new, at each
	// place where it can be had; 0 is 5. Between them lies a time that doubles from Backoff
	// on (0 is a quarter of a second) and differs by chance, or that the registry asks for.
	Attempts int
	Backoff  time.Duration

	// ReadAheadMemory is asked again and again how many bytes of memory there are for what is
	// read ahead of a large blob that a single connection brings too slowly: the less, the more
	// requests there are. More than 16 MiB are not used; nil: there are as many.
	ReadAheadMemory func() int64

	// CertDirs have directories HOST or HOST:PORT with the authorities *.crt to trust
	// beside the system's, and client certificates *.cert with their *.key.
	CertDirs []string
	// Insecure are registries, HOST or HOST:PORT, whose certificates are not checked and that
	// may be spoken to by plain http.
	Insecure []string
	// HostsDir has directories HOST or HOST_PORT_ with containerd's hosts.toml, and
	// RegistriesConf is a file registries.conf, version 2, of the containers tools, with the
	// directory registries.conf.d beside it. Both say which mirrors a registry has; what
	// HostsDir says goes before. Either may be "" or missing.
	HostsDir       string
	RegistriesConf string
}

// Client fetches from registries. It is safe for concurrent use. It remembers
// authorizations, per repository, as long as it lives.
type Client struct {
	*common
	keychain Keychain

	mu       sync.Mutex
	sessions map[string]*session
}

// common is what clients share that differ in their credentials.
type common struct {
	transports *transports
	hub        *url.URL
	stall      time.Duration
	userAgent  string
	attempts   int
	backoff    time.Duration

	insecure       []string
	hostsDir       string
	registriesConf string
	registries     registriesConf
	distrusted     distrusted

	ahead       aheadLimits
	aheadMemory func() int64
	readsAhead  atomic.Bool // a blob is read ahead, one at a time
}

// NewClient returns a client. It makes no connection, and reads no configuration yet:
// what is wrong with that is an error of those who need it.
func NewClient(o Options) *Client {
	if o.ReadAheadMemory == nil {
		o.ReadAheadMemory = func() int64 { return math.MaxInt64 }
	}
	return &Client{
		common: &common{
			transports:     newTransports(o),
			hub:            o.Hub,
			stall:          cmp.Or(o.StallTimeout, defaultStallTimeout),
			userAgent:      cmp.Or(o.UserAgent, "berth"),
			attempts:       cmp.Or(o.Attempts, defaultAttempts),
			backoff:        cmp.Or(o.Backoff, defaultBackoff),
			insecure:       o.Insecure,
			hostsDir:       o.HostsDir,
			registriesConf: o.RegistriesConf,
			ahead:          defaultAhead,
			aheadMemory:    o.ReadAheadMemory,
		},
		keychain: cmp.Or[Keychain](o.Keychain, UserCredentials()),
		sessions: map[string]*session{},
	}
}

// As returns a client that finds credentials in first before it looks where c does. It
// shares connections with c, but no authorization.
func (c *Client) As(first Keychain) *Client {
	return &Client{common: c.common, keychain: inTurn{first, c.keychain}, sessions: map[string]*session{}}
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
