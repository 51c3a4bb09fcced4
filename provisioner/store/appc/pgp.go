package appc

import (
	"bufio"
	"bytes"
	"crypto/sha256"
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
	"github.com/ProtonMail/go-crypto/openpgp/packet"

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
	keys, err := readKeys(data)
	if err == nil && len(keys) == 0 {
		err = errors.New("it has no key")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w: export one with `gpg --export`", container.ErrInvalid, err)
	}
	return &keyring{keys}, nil
}

// readKeys reads keys, armored or not. Several armors may follow each other, as those of keys
// do that were exported one by one.
func readKeys(data []byte) (openpgp.EntityList, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte(armorBegin)) {
		return openpgp.ReadKeyRing(bytes.NewReader(data))
	}
	var all openpgp.EntityList
	text := bufio.NewReader(bytes.NewReader(data))
	for {
		block, err := armor.Decode(text)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		keys, err := openpgp.ReadKeyRing(block.Body)
		if err != nil {
			return nil, err
		}
		all = append(all, keys...)
	}
}

func fingerprint(key *packet.PublicKey) string { return fmt.Sprintf("%X", key.Fingerprint) }

// verify returns the fingerprint of the key, or subkey, that has signed content. ErrDenied:
// none of the ring has.
func (k *keyring) verify(content io.Reader, signature []byte) (string, error) {
	signer, err := k.signer(content, signature)
	if err != nil {
		return "", fmt.Errorf("%w: its signature is not that of a key in --appc_keyring: %w", container.ErrDenied, err)
	}
	return signer, nil
}

// signer is whose signature it is. The library has a look at everything but what one is made
// of: of SHA-1, and of a text whose ends of lines do not count, others have the same.
func (k *keyring) signer(content io.Reader, signature []byte) (string, error) {
	block, err := armor.Decode(bytes.NewReader(signature))
	if err != nil {
		return "", err
	}
	if block.Type != openpgp.SignatureType {
		return "", fmt.Errorf("it is a %.40q", block.Type)
	}
	made, by, err := openpgp.VerifyDetachedSignature(k.keys, content, block.Body, nil)
	if err != nil {
		return "", err
	}
	if made.SigType != packet.SigTypeBinary || made.Hash.Size() < sha256.Size224 {
		return "", fmt.Errorf("it signs a text, or with %s: sign again with `gpg --digest-algo SHA256 --armor --detach-sign`", made.Hash)
	}
	for _, sub := range by.Subkeys {
		if sub.PublicKey.KeyId == *made.IssuerKeyId {
			return fingerprint(sub.PublicKey), nil
		}
	}
	return fingerprint(by.PrimaryKey), nil
}

// hasKey reports whether a key or subkey is in the ring and has neither expired nor been
// revoked.
func (k *keyring) hasKey(wanted string) bool {
	return slices.ContainsFunc(k.keys, func(key *openpgp.Entity) bool {
		return isValid(key, time.Now()) && (fingerprint(key.PrimaryKey) == wanted || slices.ContainsFunc(key.Subkeys, func(sub openpgp.Subkey) bool {
			return fingerprint(sub.PublicKey) == wanted && !sub.Revoked(time.Now()) && !sub.PublicKey.KeyExpired(sub.Sig, time.Now())
		}))
	})
}

func isValid(key *openpgp.Entity, now time.Time) bool {
	self, identity := key.PrimarySelfSignature()
	return self != nil && !key.Revoked(now) && (identity == nil || !identity.Revoked(now)) && !key.PrimaryKey.KeyExpired(self, now)
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
