package image

import "strings"

// Names are checked by hand. As regular expressions, which the test has, they took
// each start of berth half a millisecond to compile.

const (
	lower = "abcdefghijklmnopqrstuvwxyz0123456789"
	upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// begins reports whether a text is not empty, begins with one of first, and goes on with
// these and those of rest.
func begins(s, first, rest string) bool {
	return s != "" && strings.IndexByte(first, s[0]) >= 0 && strings.TrimLeft(s, first+rest) == ""
}

// The grammar of the distribution-spec ("Pulling manifests") leaves no room
// for "..", "//", "%" or "?", so that a name is safe in a URL and in a path.

func isRepository(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if !isRepositoryPart(part) {
			return false
		}
	}
	return true
}

// isRepositoryPart reports whether a text is made of words with separators between them: one
// dot, one or two underscores, or any number of dashes.
func isRepositoryPart(s string) bool {
	for {
		rest := strings.TrimLeft(s, lower)
		if rest == s || rest == "" {
			return rest != s
		}
		s = strings.TrimLeft(rest, "._-")
		switch separator := rest[:len(rest)-len(s)]; separator {
		case "":
			return false
		case ".", "_", "__":
		default:
			if strings.Trim(separator, "-") != "" {
				return false
			}
		}
	}
}

func isTag(s string) bool { return len(s) <= 128 && begins(s, lower+upper+"_", ".-") }

// isHost reports whether a text is made of labels of letters, digits, and dashes inside.
func isHost(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if !begins(label, lower, "-") || strings.HasSuffix(label, "-") {
			return false
		}
	}
	return true
}

func isPlatformPart(s string) bool { return len(s) <= 64 && begins(s, lower, "._-") }

// isRef allows the charset of the grammar that the image-spec gives for the annotation
// org.opencontainers.image.ref.name ("Pre-Defined Annotation Keys"); its rule about
// separators is a SHOULD that real layouts break.
func isRef(s string) bool { return begins(s, lower+upper, "._:@+/-") }
