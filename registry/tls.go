package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"berth/container"
)

// transports has a transport for each place that has certificates of its own, and one for
// all others.
type transports struct {
	other    http.RoundTripper
	certDirs []string

	mu    sync.Mutex
	plain map[string]bool // hosts that the configuration has plain http spoken to
	made  map[string]http.RoundTripper
}

func newTransports(o Options) *transports {
	t := &transports{other: o.Transport, certDirs: o.CertDirs, plain: make(map[string]bool), made: make(map[string]http.RoundTripper)}
	if t.other == nil {
		t.other = NewTransport()
	}
	return t
}

// learn remembers which hosts plain http is spoken to.
func (t *transports) learn(e endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.base.Scheme == "http" {
		t.plain[e.base.Host] = true
	}
}

// isPlain reports whether a host is one that the configuration has plain http spoken to.
func (t *transports) isPlain(host string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.plain[host]
}

// of returns the transport for a URL to which a place has led, or none (the zero endpoint).
// What the configuration says of the place holds for its host alone, and for nobody else who
// is led to that host. The certificates are read when they are first needed.
func (t *transports) of(u *url.URL, by endpoint) (http.RoundTripper, error) {
	if u.Scheme != "https" {
		return t.other, nil
	}
	at := endpoint{base: u, registry: u.Host}
	if by.base != nil && by.base.Host == u.Host {
		at = by
	}
	at.apart = by.apart
	key := fmt.Sprintf("%q %q %t %t %t %q %q", u.Host, at.registry, at.mirror, at.insecure, at.apart, at.ca, at.pairs)
	t.mu.Lock()
	defer t.mu.Unlock()
	if made, found := t.made[key]; found {
		return made, nil
	}
	made, err := t.make(at)
	if err != nil {
		return nil, fmt.Errorf("certificates for %s: %w", u.Host, err)
	}
	if len(t.made) >= maxSessions { // redirects name hosts, too
		clear(t.made)
	}
	t.made[key] = made
	return made, nil
}

func (t *transports) make(e endpoint) (http.RoundTripper, error) {
	files, err := t.certificates(e)
	if err != nil {
		return nil, err
	}
	other, ok := t.other.(*http.Transport)
	if len(files.ca)+len(files.pairs) == 0 && !e.insecure && !(e.apart && ok) {
		return t.other, nil
	}
	made := NewTransport()
	if ok {
		made = other.Clone()
	}
	if made.TLSClientConfig == nil {
		made.TLSClientConfig = &tls.Config{}
	}
	if e.apart { // a clone may have been told of HTTP/2 in three places
		made.Protocols = new(http.Protocols)
		made.Protocols.SetHTTP1(true)
		made.TLSNextProto, made.TLSClientConfig.NextProtos = nil, nil
	}
	made.TLSClientConfig.InsecureSkipVerify = e.insecure
	if len(files.ca) > 0 {
		if made.TLSClientConfig.RootCAs, err = pool(files.ca); err != nil {
			return nil, err
		}
	}
	for _, pair := range files.pairs {
		certificate, err := tls.LoadX509KeyPair(pair.cert, pair.key)
		if err != nil {
			return nil, fmt.Errorf("client certificate %s with key %s: %w: %w", pair.cert, pair.key, container.ErrInvalid, err)
		}
		made.TLSClientConfig.Certificates = append(made.TLSClientConfig.Certificates, certificate)
	}
	return made, nil
}

// pool is what the system trusts and the authorities in the files.
func pool(files []string) (*x509.CertPool, error) {
	trusted, err := x509.SystemCertPool()
	if err != nil {
		trusted = x509.NewCertPool()
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if !trusted.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s: %w: it has no certificate in PEM", file, container.ErrInvalid)
		}
	}
	return trusted, nil
}

// certificateFiles are those for a place.
type certificateFiles struct {
	ca    []string
	pairs []keyPair
}

// certificates are those that the configuration names and those in the directories
// HOST:PORT and HOST, of which a later one adds to an earlier one.
func (t *transports) certificates(e endpoint) (certificateFiles, error) {
	files := certificateFiles{e.ca, e.pairs}
	for _, dir := range t.dirs(e) {
		if err := files.add(dir); err != nil {
			return files, err
		}
	}
	return files, nil
}

// hasCertificates reports whether there is a directory of certificates for a place, or
// the configuration names some.
func (t *transports) hasCertificates(e endpoint) bool {
	for _, dir := range t.dirs(e) {
		if _, err := os.Stat(dir); err == nil {
			return true
		}
	}
	return len(e.ca)+len(e.pairs) > 0
}

func (t *transports) dirs(e endpoint) (dirs []string) {
	names := []string{e.base.Host}
	if e.registry != e.base.Host && !e.mirror { // docker.io
		names = append(names, e.registry)
	}
	for _, dir := range t.certDirs {
		for _, name := range names {
			dirs = append(dirs, filepath.Join(dir, name))
		}
	}
	return dirs
}

// add reads the names in a directory, which may be missing.
func (f *certificateFiles) add(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		base, suffix := strings.TrimSuffix(path, filepath.Ext(path)), filepath.Ext(path)
		switch suffix {
		case ".crt":
			f.ca = append(f.ca, path)
		case ".cert":
			f.pairs = append(f.pairs, keyPair{path, base + ".key"})
		case ".key":
			if _, err := os.Stat(base + ".cert"); err != nil {
				return fmt.Errorf("key %s: %w: there is no certificate %s.cert beside it; authorities are *.crt, client certificates *.cert",
					path, container.ErrInvalid, filepath.Base(base))
			}
		}
	}
	return nil
}
