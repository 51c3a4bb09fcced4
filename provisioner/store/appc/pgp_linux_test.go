package appc

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"berth/container"
)

// ring writes a key ring of public keys, each in an armor of its own, and reads it.
func ring(t *testing.T, keys ...*openpgp.Entity) *keyring {
	t.Helper()
	var text bytes.Buffer
	for _, key := range keys {
		w, err := armor.Encode(&text, openpgp.PublicKeyType, nil)
		if err == nil {
			err = key.Serialize(w)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString("\n")
	}
	path := filepath.Join(t.TempDir(), "ring.asc")
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := readKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newKey makes a key that signs with a subkey, as those of careful people do.
func newKey(t *testing.T) *openpgp.Entity {
	t.Helper()
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}
	key, err := openpgp.NewEntity("somebody", "", "somebody@example.com", config)
	if err == nil {
		err = key.AddSigningSubkey(config)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

const signed = "what is signed"

func sign(t *testing.T, key *openpgp.Entity) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&out, key, strings.NewReader(signed), nil); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Who puts one exported key behind the other has a ring of both.
func TestAKeyRingOfSeveralArmors(t *testing.T) {
	one, other := newKey(t), newKey(t)
	k := ring(t, one, other)
	for _, key := range []*openpgp.Entity{one, other} {
		if _, err := k.verify(strings.NewReader(signed), sign(t, key)); err != nil {
			t.Error(err)
		}
	}
}

// What a subkey has signed that is revoked meanwhile is not trusted as it was recorded.
func TestASubkeyThatIsRevoked(t *testing.T) {
	key := newKey(t)
	signer, err := ring(t, key).verify(strings.NewReader(signed), sign(t, key))
	if err != nil {
		t.Fatal(err)
	}
	if !ring(t, key).hasKey(signer) {
		t.Error("what was verified just now is not trusted")
	}
	signature := sign(t, key)
	for i := range key.Subkeys {
		if key.Subkeys[i].Sig.FlagSign {
			if err := key.RevokeSubkey(&key.Subkeys[i], packet.KeyCompromised, "", nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	k := ring(t, key)
	if _, err := k.verify(strings.NewReader(signed), signature); err == nil {
		t.Error("a revoked subkey signs")
	}
	if k.hasKey(signer) {
		t.Error("what a revoked subkey has signed is trusted")
	}
}

// Of what has a digest of SHA-1, somebody can make another that has it, too, and a signature
// of a text is one of many files.
func TestWeakSignatures(t *testing.T) {
	home := gpgHome(t)
	gpg := func(args ...string) []byte {
		t.Helper()
		cmd := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", "--armor"}, args...)...)
		cmd.Stdin = strings.NewReader(signed)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("gpg %q: %v", args, err)
		}
		return out
	}
	gpg("--quick-gen-key", "test@example.com", "rsa2048", "sign", "never")
	path := filepath.Join(home, "ring")
	if err := os.WriteFile(path, gpg("--export"), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := readKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	for how, good := range map[string]bool{"--digest-algo=SHA256": true, "--digest-algo=SHA512": true, "--digest-algo=SHA1": false, "--digest-algo=RIPEMD160": false, "--textmode": false} {
		_, err := k.verify(strings.NewReader(signed), gpg(how, "--detach-sign"))
		if good != (err == nil) || !good && !errors.Is(err, container.ErrDenied) {
			t.Errorf("%s: %v", how, err)
		}
	}
}
