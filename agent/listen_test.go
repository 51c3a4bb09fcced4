package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/agent/operator"
	"berth/container"
)

// certify makes a certificate for a name, and its key, signed by the first one made.
func certify(t *testing.T, dir, name string, authority *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: authority == nil, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	if authority == nil {
		authority, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, authority, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name+file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

// listen listens as an agent does whose files stay as they are.
func (h HTTP) listen() (net.Listener, error) {
	config, err := h.tls()
	if err != nil {
		return nil, err
	}
	return h.listenTCP(func() *tls.Config { return config })
}

func TestWhereTheAgentDoesNotListen(t *testing.T) {
	dir := t.TempDir()
	certify(t, dir, "ca", nil, nil)
	credentials := filepath.Join(dir, "credentials")
	if err := os.WriteFile(credentials, []byte(`{"credentials": [{"principal": "ops", "secret": "s"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	certificate := HTTP{CertFile: filepath.Join(dir, "ca.crt"), KeyFile: filepath.Join(dir, "ca.key")}
	for name, c := range map[string]struct {
		HTTP
		words string
	}{
		"everywhere without TLS":      {HTTP{Address: "0.0.0.0:0", Credentials: credentials}, "without TLS only loopback"},
		"all addresses":               {HTTP{Address: ":0", Credentials: credentials}, "without TLS only loopback"},
		"for nobody":                  {HTTP{Address: "127.0.0.1:0"}, "nobody could show who they are"},
		"with TLS for nobody":         {HTTP{Address: "127.0.0.1:0", CertFile: certificate.CertFile, KeyFile: certificate.KeyFile}, "nobody could show"},
		"no port":                     {HTTP{Address: "127.0.0.1", Credentials: credentials}, "HOST:PORT"},
		"no key":                      {HTTP{Address: "127.0.0.1:0", CertFile: certificate.CertFile}, "--tls_key_file"},
		"authorities that are no PEM": {HTTP{Address: "127.0.0.1:0", CertFile: certificate.CertFile, KeyFile: certificate.KeyFile, ClientCA: credentials}, "no certificate in PEM"},
	} {
		l, err := c.listen()
		if !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", name, err)
		}
		if l != nil {
			l.Close()
		}
	}
	if l, err := (HTTP{}).listen(); l != nil || err != nil {
		t.Errorf("without an address: %v, %v", l, err)
	}
	for _, c := range []HTTP{{Credentials: "/no/such/file"}, {ACLs: "/no/such/file"}, {ACLs: "{"}, {ACLs: "x"}, {Credentials: certificate.CertFile}} {
		if _, err := c.access(); err == nil || !strings.HasPrefix(err.Error(), "--") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestClientsByTLS(t *testing.T) {
	dir := t.TempDir()
	ca, caKey := certify(t, dir, "ca", nil, nil)
	certify(t, dir, "ops", ca, caKey)
	_, _ = certify(t, dir, "stranger", nil, nil)
	h := HTTP{Address: "127.0.0.1:0", CertFile: filepath.Join(dir, "ops.crt"), KeyFile: filepath.Join(dir, "ops.key"), ClientCA: filepath.Join(dir, "ca.crt")}
	l, err := h.listen()
	if err != nil {
		t.Fatal(err)
	}
	handler := operator.ByPassword(func() operator.Access { return operator.Access{} },
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	server := newHTTPServer(handler, slog.New(slog.DiscardHandler))
	go server.Serve(l) // ends with Close
	defer server.Close()
	for who, want := range map[string]int{"ops": http.StatusTeapot, "": http.StatusUnauthorized, "stranger": 0} {
		config := &tls.Config{RootCAs: x509.NewCertPool()}
		config.RootCAs.AddCert(ca)
		if who != "" {
			certificate, err := tls.LoadX509KeyPair(filepath.Join(dir, who+".crt"), filepath.Join(dir, who+".key"))
			if err != nil {
				t.Fatal(err)
			}
			// Also what the server has not asked for.
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
		answer, err := client.Get("https://" + l.Addr().String() + "/flags")
		got := 0
		if err == nil {
			got = answer.StatusCode
			answer.Body.Close()
		}
		if got != want {
			t.Errorf("%q gets %d (%v), want %d", who, got, err, want)
		}
	}
}

// Whoever connects and says nothing, or stops in the middle, is not waited for.
func TestSlowClientsAreCutOff(t *testing.T) {
	server := newHTTPServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if server.ReadHeaderTimeout == 0 || server.IdleTimeout == 0 || server.MaxHeaderBytes == 0 {
		t.Errorf("%+v has no bounds", server)
	}
	server.ReadHeaderTimeout = 50 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(l) // ends with Close
	defer server.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("POST /api/v1 HTTP/1.1\r\nHost:")); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("half a request is waited for: %d, %v", n, err)
	}
}
