package image

import (
	"regexp"
	"strings"
	"testing"
)

func TestGrammar(t *testing.T) {
	for _, g := range []struct {
		name    string
		grammar *regexp.Regexp
		is      func(string) bool
	}{
		{"repository", regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`), isRepository},
		{"tag", regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`), isTag},
		{"host", regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*$`), isHost},
		{"part of a platform", regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`), isPlatformPart},
		{"name in a layout", regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:@+/-]*$`), isRef},
	} {
		t.Run(g.name, func(t *testing.T) {
			matching := 0
			check := func(s string) {
				want := g.grammar.MatchString(s)
				if g.is(s) != want {
					t.Fatalf("%q: %v, want %v", s, !want, want)
				}
				if want {
					matching++
				}
			}
			// Every text of up to 5 of these: one of each kind of character that a grammar knows.
			var texts func(begin string)
			texts = func(begin string) {
				check(begin)
				if len(begin) < 5 {
					for _, c := range []byte("aZ._-/:") {
						texts(begin + string(c))
					}
				}
			}
			texts("")
			for c := range rune(0x180) { // each character, in each place
				for _, s := range []string{string(c), string(c) + "a", "a" + string(c), "a" + string(c) + "a"} {
					check(s)
				}
			}
			for _, n := range []int{63, 64, 65, 127, 128, 129} {
				check(strings.Repeat("a", n))
				check(strings.Repeat("a", n) + "é")
			}
			check("a\xff")
			check("a\n")
			if matching < 100 {
				t.Errorf("only %d texts match", matching)
			}
		})
	}
}
