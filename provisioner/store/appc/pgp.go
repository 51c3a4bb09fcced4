package appc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"

	"berth/container"
)

const (
	armorBegin = "-----BEGIN PGP "
	// maxSignature bounds the file of a signature, maxPassphrase that of a passphrase.
	maxSignature  = 64 << 10
	maxPassphrase = 4 << 10
)

// keyring is whose images are trusted.
type keyring struct {
	keys openpgp.EntityList
}

func readKeyring(path string) (*keyring, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	read := openpgp.ReadKeyRing
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte(armorBegin)) {
		read = openpgp.ReadArmoredKeyRing
	}
	keys, err := read(bytes.NewReader(data))
	if err == nil && len(keys) == 0 {
		err = errors.New("it has no key")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w: export one with `gpg --export`", container.ErrInvalid, err)
	}
	return &keyring{keys}, nil
}

func fingerprint(key *openpgp.Entity) string { return fmt.Sprintf("%X", key.PrimaryKey.Fingerprint) }

// verify returns the fingerprint of the key that has signed content. ErrDenied: none of the
// ring has.
func (k *keyring) verify(content io.Reader, signature []byte) (string, error) {
	signer, err := openpgp.CheckArmoredDetachedSignature(k.keys, content, bytes.NewReader(signature), nil)
	if err != nil {
		return "", fmt.Errorf("%w: its signature is not that of a key in --appc_keyring: %w", container.ErrDenied, err)
	}
	return fingerprint(signer), nil
}

// hasKey reports whether a key is in the ring and has neither expired nor been revoked.
func (k *keyring) hasKey(wanted string) bool {
	return slices.ContainsFunc(k.keys, func(key *openpgp.Entity) bool {
		if fingerprint(key) != wanted || key.Revoked(time.Now()) {
			return false
		}
		identity := key.PrimaryIdentity()
		return identity != nil && !key.PrimaryKey.KeyExpired(identity.SelfSignature, time.Now())
	})
}

func readPassphrase(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPassphrase))
	if err != nil {
		return nil, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return nil, fmt.Errorf("%s: %w: its first line is empty", path, container.ErrInvalid)
	}
	return []byte(line), nil
}

// isEncrypted reports whether a file is a message of OpenPGP, armored or not: the first
// packet of one that is encrypted with a passphrase has the tag 3 (RFC 9580, 5.3).
func isEncrypted(r *bufio.Reader) (bool, error) {
	begin, err := r.Peek(len(armorBegin))
	if err != nil && err != io.EOF {
		return false, err
	}
	if len(begin) == 0 {
		return false, nil
	}
	return string(begin) == armorBegin || begin[0]&0xfc == 0x8c || begin[0] == 0xc3, nil
}

var errNoPassphrase = fmt.Errorf("%w: it is encrypted, and --appc_passphrase_file is not set", container.ErrFailedPrecondition)

// decrypt returns the content of a message, whose end proves that nobody has changed it. r
// reads what is stored.
func decrypt(stored *stored, r *bufio.Reader, passphrase []byte) (*decrypted, error) {
	if passphrase == nil {
		return nil, errNoPassphrase
	}
	if begin, _ := r.Peek(len(armorBegin)); string(begin) == armorBegin {
		block, err := armor.Decode(r)
		if err != nil {
			return nil, stored.undecrypted(err)
		}
		r = bufio.NewReader(block.Body)
	}
	if err := checkKey(stored, r); err != nil {
		return nil, err
	}
	asked := false
	details, err := openpgp.ReadMessage(r, openpgp.EntityList{}, func([]openpgp.Key, bool) ([]byte, error) {
		if asked {
			return nil, pgperrors.ErrKeyIncorrect
		}
		asked = true
		return passphrase, nil
	}, nil)
	if err != nil {
		return nil, stored.undecrypted(err)
	}
	return &decrypted{r: details.UnverifiedBody, from: stored}, nil
}

// checkKey accepts a message of the form that gpg --symmetric writes: one packet from which
// the key is made of a passphrase, and then the encrypted data. A stranger could put any
// number of keys in front, and have Argon2 take up to two terabytes of memory for each.
func checkKey(stored *stored, r *bufio.Reader) error {
	const (
		version  = 4 // of RFC 4880
		argon2   = 4
		dataV1   = 18
		dataAEAD = 20
	)
	begin, err := r.Peek(2)
	if err != nil {
		return stored.undecrypted(err)
	}
	length := int(begin[1]) // of one octet in both formats of packets (RFC 9580, 4.2)
	if begin[0] != 0x8c && begin[0] != 0xc3 || length < 4 || length >= 192 {
		return errForm
	}
	packet, err := r.Peek(2 + length + 1)
	if err != nil {
		return stored.undecrypted(err)
	}
	next := packet[2+length]
	tag := next >> 2 & 0xf // of the old format
	if next&0x40 != 0 {
		tag = next & 0x3f
	}
	if packet[2] != version || packet[4] == argon2 || next&0x80 == 0 || tag != dataV1 && tag != dataAEAD {
		return errForm
	}
	return nil
}

var errForm = fmt.Errorf("%w: it is not encrypted as `gpg --symmetric` does it", container.ErrNotSupported)
