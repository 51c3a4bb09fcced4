package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"berth/container"
)

// Who connects is met with the certificate of now; who is connected already stays.
func TestACertificateIsReplaced(t *testing.T) {
	dir := t.TempDir()
	ca, caKey := certify(t, dir, "ca", nil, nil)
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	a := &agent{Options: Options{HTTP: HTTP{Address: "127.0.0.1:0", Credentials: "credentials",
		CertFile: filepath.Join(dir, "agent.crt"), KeyFile: filepath.Join(dir, "agent.key")}}}
	renew := func() *x509.Certificate {
		t.Helper()
		certificate, _ := certify(t, dir, "agent", ca, caKey)
		next, err := a.read(Options{})
		if err != nil {
			t.Fatal(err)
		}
		a.settings.Store(next)
		return certificate
	}
	first := renew()
	l, err := a.listenTCP()
	if err != nil {
		t.Fatal(err)
	}
	server := newHTTPServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	go server.Serve(l) // ends with Close
	defer server.Close()
	shown := func() *x509.Certificate {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
		answer, err := client.Get("https://" + l.Addr().String() + "/")
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.TLS.PeerCertificates[0]
	}
	if !shown().Equal(first) {
		t.Error("at first another certificate is shown")
	}
	if second := renew(); !shown().Equal(second) {
		t.Error("after a new one is there, another certificate is shown")
	}
	if err := os.WriteFile(a.HTTP.KeyFile, []byte("half a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := a.read(Options{}); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("with a key that is none: %v", err)
	}
}
