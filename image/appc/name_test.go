package appc

import (
	"regexp"
	"testing"
)

func TestIdentifiers(t *testing.T) {
	grammar := regexp.MustCompile(`^[a-z0-9]+([-._~/][a-z0-9]+)*$`)
	check := func(s string) {
		if want := grammar.MatchString(s); isIdentifier(s) != want {
			t.Fatalf("%q: %v, want %v", s, !want, want)
		}
	}
	var texts func(begin string)
	texts = func(begin string) { // every one of up to 5 of these
		check(begin)
		if len(begin) < 5 {
			for _, c := range []byte("a0Z.~-/") {
				texts(begin + string(c))
			}
		}
	}
	texts("")
	for c := range rune(0x180) {
		check("a" + string(c) + "a")
		check(string(c))
	}
}
