package appc

import (
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"strings"

	"berth/container"
)

const idPrefix = "sha512-"

// ID names an image: "sha512-" and the hexadecimal sha512 of its uncompressed tar.
type ID string

// ParseID accepts a whole ID in lower case; the specification allows to shorten it, but
// what is to be verified has to be whole. The error is of class ErrInvalid.
func ParseID(s string) (ID, error) {
	hexes, found := strings.CutPrefix(s, idPrefix)
	if !found || len(hexes) != 2*sha512.Size || strings.Trim(hexes, "0123456789abcdef") != "" {
		return "", fmt.Errorf("image id %s: %w: it is not %q and %d hexadecimal digits in lower case", quote(s), container.ErrInvalid, idPrefix, 2*sha512.Size)
	}
	return ID(s), nil
}

// IDOfSum is the ID of a tar with this sha512.
func IDOfSum(sum [sha512.Size]byte) ID { return ID(idPrefix + hex.EncodeToString(sum[:])) }

// IDOf is the ID of an uncompressed image.
func IDOf(tar []byte) ID { return IDOfSum(sha512.Sum512(tar)) }

func (id ID) String() string { return string(id) }
