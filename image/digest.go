package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"berth/container"
)

const sha256Prefix = "sha256:"

// Digest names bytes by their sha256: "sha256:" and 64 lower-case hexadecimal
// digits. A Digest that comes from ParseDigest, DigestOf or a parser of this package
// has that form, so it is safe in a path and in a URL; one that was read from JSON
// has it or is "", which names nothing.
type Digest string

// ParseDigest reads the text form. The error is of class ErrNotSupported for
// sha512, which the OCI specifications allow too, and ErrInvalid otherwise.
func ParseDigest(s string) (Digest, error) {
	hexPart, isSHA256 := strings.CutPrefix(s, sha256Prefix)
	switch {
	case strings.HasPrefix(s, "sha512:"):
		return "", fmt.Errorf("digest %s: %w: sha512 digests, only sha256 is known", quote(s), container.ErrNotSupported)
	case !isSHA256:
		return "", fmt.Errorf("digest %s: %w: it does not begin with %q", quote(s), container.ErrInvalid, sha256Prefix)
	case !isHexSHA256(hexPart):
		return "", fmt.Errorf("digest %s: %w: %q is not followed by 64 lower-case hexadecimal digits",
			quote(s), container.ErrInvalid, sha256Prefix)
	}
	return Digest(s), nil
}

// DigestOf returns the digest of b.
func DigestOf(b []byte) Digest {
	return DigestOfSum(sha256.Sum256(b))
}

// DigestOfSum returns the digest whose sha256 is sum.
func DigestOfSum(sum [sha256.Size]byte) Digest {
	return Digest(sha256Prefix + hex.EncodeToString(sum[:]))
}

// String returns the text form.
func (d Digest) String() string { return string(d) }

// Hex returns the hexadecimal digits alone.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), sha256Prefix) }

// UnmarshalText is ParseDigest, and takes back the "" of a Digest that names nothing.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*d = ""
		return nil
	}
	parsed, err := ParseDigest(string(text))
	*d = parsed
	return err
}

func isHexSHA256(s string) bool {
	if len(s) != hex.EncodedLen(sha256.Size) {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}

// quote prints a string of a stranger inside an error: escaped and cut, so that
// a document can neither flood a log nor steer a terminal.
func quote(s string) string {
	const most = 100
	if len(s) > most {
		return fmt.Sprintf("%q...", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
