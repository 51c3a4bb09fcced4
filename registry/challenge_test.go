package registry

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseChallenges(t *testing.T) {
	type parameters = map[string]string
	type found struct {
		Scheme     string
		Parameters parameters
	}
	for name, c := range map[string]struct {
		in   []string
		want []found
	}{
		"Docker Hub": {[]string{`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull"`},
			[]found{{"bearer", parameters{"realm": "https://auth.docker.io/token", "service": "registry.docker.io", "scope": "repository:library/alpine:pull"}}}},
		"spaces and other letters": {[]string{`BEARER  Realm = "x" , SCOPE="y"`}, []found{{"bearer", parameters{"realm": "x", "scope": "y"}}}},
		"comma and = in quotes":    {[]string{`Bearer scope="repository:a:pull,push=1",realm="r"`}, []found{{"bearer", parameters{"scope": "repository:a:pull,push=1", "realm": "r"}}}},
		"escapes":                  {[]string{`Basic realm="a\"b\\c"`}, []found{{"basic", parameters{"realm": `a"b\c`}}}},
		"no quotes":                {[]string{`Bearer realm=https://auth.example.com/token,service=x`}, []found{{"bearer", parameters{"realm": "https://auth.example.com/token", "service": "x"}}}},
		"two in one line":          {[]string{`Basic realm="b", Bearer realm="t",service="s"`}, []found{{"basic", parameters{"realm": "b"}}, {"bearer", parameters{"realm": "t", "service": "s"}}}},
		"two lines":                {[]string{`Negotiate`, `Basic`}, []found{{"negotiate", parameters{}}, {"basic", parameters{}}}},
		"token68":                  {[]string{`Negotiate abc==, Basic realm="b"`}, []found{{"negotiate", parameters{"abc": "="}}, {"basic", parameters{"realm": "b"}}}},
		"said twice":               {[]string{`Bearer realm="first",realm="second"`}, []found{{"bearer", parameters{"realm": "first"}}}},
		"no closing quote":         {[]string{`Bearer realm="https://auth`}, []found{{"bearer", parameters{"realm": ""}}}},
		"parameters without one":   {[]string{`realm="x"`}, nil},
		"empty":                    {[]string{"", ",, ,"}, nil},
		"a quote":                  {[]string{`"`}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []found
			for _, p := range parseChallenges(c.in) {
				got = append(got, found{p.scheme, p.parameters})
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func FuzzParseChallenge(f *testing.F) {
	for _, seed := range []string{`Bearer realm="a\"b",x=y`, `Negotiate abc==, Basic realm="b"`, `a=b`, `"`, `a "b" =`,
		`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull",error="invalid_token"`,
		`Basic realm="a, Bearer realm=b", Bearer realm=c`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range parseChallenge(s) {
			if c.scheme == "" || c.scheme != strings.ToLower(c.scheme) {
				t.Fatalf("%q has the scheme %q", s, c.scheme)
			}
		}
	})
}
