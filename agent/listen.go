package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/net/netutil"

	"berth/agent/operator"
	"berth/container"
)

// HTTP says who may come by TCP, and how. The zero value: nobody; the agent's socket is
// there in any case.
type HTTP struct {
	// Address is HOST:PORT. Without TLS, HOST is a loopback address.
	Address string
	// CertFile and KeyFile are of the server; ClientCA has the authorities of the clients,
	// whose certificates are principals by their common names.
	CertFile, KeyFile, ClientCA string
	// Credentials is a file; see operator.ParseCredentials.
	Credentials string
	// ACLs is JSON, or a file with it; see operator.ParseACLs.
	ACLs string
}

// The bounds on clients. A call may take as long as the container that it waits for, so
// neither answers nor streams have one.
const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeader      = 64 << 10
	maxConnections = 1024 // by TCP
)

// maxSocketPath is the longest path that a unix socket can have.
const maxSocketPath = 107

// listenUnix makes the agent's socket, for root only. The caller has the agent's lock, so
// what is there is that of a dead agent.
func listenUnix(path string) (net.Listener, error) {
	if l, err := inherited(); l != nil || err != nil {
		return l, err
	}
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on %s: %w: the path of a socket has %d bytes at most: choose a shorter --runtime_dir",
			path, container.ErrInvalid, maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// inherited returns the socket that systemd listens on for the agent (systemd.socket(5)), and
// nil when it does not.
func inherited() (net.Listener, error) {
	listeners, err := activation.Listeners()
	if err != nil || len(listeners) == 0 {
		return nil, err
	}
	l, ok := listeners[0].(*net.UnixListener)
	if len(listeners) > 1 || !ok {
		return nil, fmt.Errorf("the sockets of systemd: %w: there is to be one, a unix socket", container.ErrInvalid)
	}
	l.SetUnlinkOnClose(false) // it is systemd's
	return l, nil
}

// listenTCP returns nil without an address. Whoever connects is met with what current returns then,
// if it returned something before.
func (h HTTP) listenTCP(current func() *tls.Config) (net.Listener, error) {
	if h.Address == "" {
		return nil, nil
	}
	secure := current() != nil
	if err := h.check(secure); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", h.Address)
	if err != nil {
		return nil, fmt.Errorf("--http_address: %w", err)
	}
	l = netutil.LimitListener(l, maxConnections)
	if secure {
		l = tls.NewListener(l, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return current(), nil }})
	}
	return l, nil
}

// check refuses to let anybody in who nobody knows, or to let passwords pass in the clear.
func (h HTTP) check(secure bool) error {
	host, _, err := net.SplitHostPort(h.Address)
	if err != nil {
		return fmt.Errorf("--http_address: %w: %w; it is HOST:PORT", container.ErrInvalid, err)
	}
	ip := net.ParseIP(host)
	loopback := host == "localhost" || ip != nil && ip.IsLoopback()
	switch {
	case !secure && !loopback:
		return fmt.Errorf("--http_address %s: %w: without TLS only loopback addresses are listened on; give --tls_cert_file and --tls_key_file", h.Address, container.ErrInvalid)
	case h.Credentials == "" && h.ClientCA == "":
		return fmt.Errorf("--http_address %s: %w: nobody could show who they are; give --http_credentials or --tls_client_ca_file", h.Address, container.ErrInvalid)
	}
	return nil
}

// tls returns nil when it is not asked for.
func (h HTTP) tls() (*tls.Config, error) {
	if h.CertFile == "" && h.KeyFile == "" && h.ClientCA == "" {
		return nil, nil
	}
	certificate, err := tls.LoadX509KeyPair(h.CertFile, h.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("--tls_cert_file, --tls_key_file: %w: %w", container.ErrInvalid, err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if h.ClientCA == "" {
		return config, nil
	}
	authorities, err := os.ReadFile(h.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("--tls_client_ca_file: %w", err)
	}
	config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
	if !config.ClientCAs.AppendCertsFromPEM(authorities) {
		return nil, fmt.Errorf("--tls_client_ca_file %s: %w: it has no certificate in PEM", h.ClientCA, container.ErrInvalid)
	}
	return config, nil
}

// access reads who may come by TCP.
func (h HTTP) access() (access operator.Access, err error) {
	if h.Credentials != "" {
		text, err := os.ReadFile(h.Credentials)
		if err == nil {
			access.Credentials, err = operator.ParseCredentials(text)
		}
		if err != nil {
			return access, fmt.Errorf("--http_credentials: %w", err)
		}
	}
	if h.ACLs != "" {
		text, err := jsonOrFile(h.ACLs)
		if err == nil {
			access.ACLs, err = operator.ParseACLs(text)
		}
		if err != nil {
			return access, fmt.Errorf("--acls: %w", err)
		}
	}
	return access, nil
}

func newHTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader}
}
