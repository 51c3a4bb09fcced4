//go:build linux

package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/internal/testrig"
)

// pair is a certificate with its key.
type pair struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

// certify makes one for a name and 127.0.0.1, signed by another or by itself.
func certify(t *testing.T, name string, by *pair) *pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: by == nil,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if by == nil {
		by = &pair{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.Certificate, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &pair{certificate, key}
}

// write writes it into files in PEM.
func (p *pair) write(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err == nil {
		err = os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Raw}), 0o600)
	}
	if err == nil {
		err = os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// connection is one by TLS that stays open between requests.
type connection struct {
	*tls.Conn
	reader *bufio.Reader
}

// connectTLS connects to an agent whose certificates ca signs, and shows one, if any.
func connectTLS(t *testing.T, address string, ca, shows *pair) *connection {
	t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AddCert(ca.Certificate)
	if shows != nil {
		// Also what the agent has not asked for.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{shows.Raw}, PrivateKey: shows.key}, nil
		}
	}
	c, err := tls.Dial("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &connection{c, bufio.NewReader(c)}
}

func (c *connection) shown() *x509.Certificate { return c.ConnectionState().PeerCertificates[0] }

// flags asks for the flags of the agent; 0: it does not speak to this client.
func (c *connection) flags() (status int) {
	if _, err := c.Write([]byte("GET /flags HTTP/1.1\r\nHost: agent\r\n\r\n")); err != nil {
		return 0
	}
	answer, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return 0
	}
	return answer.StatusCode
}

// At SIGHUP who connects meets the new certificate, and authorities; who is connected stays;
// and files that are wrong leave those in force that are.
func TestTheAgentReadsItsCertificatesAgain(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	dir := testrig.TempDir(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	ca, clients, others := certify(t, "ca", nil), certify(t, "clients", nil), certify(t, "others", nil)
	client, other := certify(t, "ops", clients), certify(t, "ops", others)
	first, second := certify(t, "first", ca), certify(t, "second", ca)
	first.write(t, file("agent.crt"), file("agent.key"))
	clients.write(t, file("clients.crt"), file("clients.key"))

	address := "127.0.0.1:" + freePort(t)
	agent := startAgent(t, b, "--http_address="+address, "--tls_cert_file="+file("agent.crt"), "--tls_key_file="+file("agent.key"),
		"--tls_client_ca_file="+file("clients.crt"), `--acls={"permissive": true}`)
	reload := func(says ...string) {
		t.Helper()
		_, before := agent.Output()
		agent.Signal(syscall.SIGHUP)
		await(t, func() bool {
			_, log := agent.Output()
			for _, words := range says {
				if !strings.Contains(log[len(before):], words) {
					return false
				}
			}
			return true
		})
	}
	meets := func(want *pair, status, otherStatus int) {
		t.Helper()
		if c := connectTLS(t, address, ca, client); !c.shown().Equal(want.Certificate) || c.flags() != status {
			t.Errorf("who connects meets the certificate of %v; want that of %s, and the status %d", c.shown().Subject, want.Subject, status)
		}
		if got := connectTLS(t, address, ca, other).flags(); got != otherStatus {
			t.Errorf("a client of the other authority gets %d, want %d", got, otherStatus)
		}
	}
	old := connectTLS(t, address, ca, client)
	if got := old.flags(); got != 200 {
		t.Fatalf("at first: %d", got)
	}
	meets(first, 200, 0)

	second.write(t, file("agent.crt"), file("agent.key"))
	reload("reloaded")
	meets(second, 200, 0)

	for name, text := range map[string]string{"half a key": "-----BEGIN PRIVATE KEY-----\nMIG", "the key of another": "", "nothing": "\n"} {
		if text == "" {
			first.write(t, file("unused.crt"), file("agent.key"))
		} else if err := os.WriteFile(file("agent.key"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		reload("nothing has changed", "--tls_cert_file, --tls_key_file")
		meets(second, 200, 0)
	}
	second.write(t, file("agent.crt"), file("agent.key"))
	if err := os.Remove(file("clients.crt")); err != nil {
		t.Fatal(err)
	}
	reload("nothing has changed", "--tls_client_ca_file", "no such file")
	meets(second, 200, 0)

	others.write(t, file("clients.crt"), file("others.key"))
	reload("reloaded")
	meets(second, 0, 200)
	if got := old.flags(); got != 200 || !old.shown().Equal(first.Certificate) {
		t.Errorf("who was connected before gets %d", got)
	}
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
}
