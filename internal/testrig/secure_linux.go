package testrig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// SecureUser and SecurePassword open a registry's secure door.
const (
	SecureUser     = "bob"
	SecurePassword = "secret-of-bob"
	secureHash     = "$2a$05$abcdefghijklmnopqrstuulNbVcQ.fGMp0r/EKBz3VCJyG3dmHNda" // by bcrypt
)

// Secure starts a second real registry on the storage of r, with TLS and a password, and
// returns its address and the file with the authority to trust.
func (r *RegistryServer) Secure(tb testing.TB) (host, ca string) {
	tb.Helper()
	dir := TempDir(tb)
	ca, key, users := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "users")
	cert, keyText, err := selfSigned()
	if err != nil {
		tb.Fatalf("make a certificate: %v", err)
	}
	for path, text := range map[string][]byte{ca: cert, key: keyText, users: fmt.Appendf(nil, "%s:%s\n", SecureUser, secureHash)} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	host = startRegistry(tb, r.storage, fmt.Sprintf(", tls: {certificate: %q, key: %q}", ca, key),
		fmt.Sprintf("auth: {htpasswd: {realm: testrig, path: %q}}\n", users), loggedAddress)
	return host, ca
}

// selfSigned makes a certificate for the loopback, and its key, both in PEM.
func selfSigned() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "testrig"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}
