package appc

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"berth/container"
)

const maxName = 255

// isIdentifier reports whether a text is of the "AC Identifier Type" or the "AC Name Type" of
// the specification: words with one character between them. Neither has room for "..",
// "//", "%" or "?", so that a name is safe in a URL and in a path.
func isIdentifier(s string) bool {
	const letters, separators = "abcdefghijklmnopqrstuvwxyz0123456789", "-._~/"
	for {
		rest := strings.TrimLeft(s, letters)
		if rest == s || rest == "" {
			return rest != s
		}
		if strings.IndexByte(separators, rest[0]) < 0 {
			return false
		}
		s = rest[1:]
	}
}

// CheckIdentifier refuses what is no name of an image: ErrInvalid.
func CheckIdentifier(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: the name is empty", container.ErrInvalid)
	case len(s) > maxName:
		return fmt.Errorf("%w: the name has %d bytes, at most %d are allowed", container.ErrInvalid, len(s), maxName)
	case s != strings.ToLower(s):
		return fmt.Errorf("%w: the name %s has upper-case letters, names of Appc images are lower case", container.ErrInvalid, quote(s))
	case !isIdentifier(s):
		return fmt.Errorf("%w: the name %s is not made of lower-case letters and digits with single '-', '.', '_', '~' or '/' between them",
			container.ErrInvalid, quote(s))
	}
	return nil
}

// quote makes what a stranger wrote fit to print: escaped and cut.
func quote(s string) string {
	const most = 100
	if len(s) > most {
		return fmt.Sprintf("%q...", s[:most])
	}
	return fmt.Sprintf("%q", s)
}

// isText reports whether a string can stand in a record and in a log: JSON cannot hold
// bytes that are not UTF-8, and a NUL would end it early in the kernel.
func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
