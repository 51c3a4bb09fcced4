package image

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"berth/container"
)

func TestParseName(t *testing.T) {
	for in, want := range map[string]string{
		"alpine":                                "docker.io/library/alpine:latest",
		"alpine:3":                              "docker.io/library/alpine:3",
		"library/alpine":                        "docker.io/library/alpine:latest",
		"user/app":                              "docker.io/user/app:latest",
		"docker.io/alpine":                      "docker.io/library/alpine:latest",
		"DOCKER.io/alpine":                      "docker.io/library/alpine:latest",
		"index.docker.io/library/alpine":        "docker.io/library/alpine:latest",
		"alpine@" + digestA:                     "docker.io/library/alpine@" + digestA,
		"alpine:3@" + digestA:                   "docker.io/library/alpine:3@" + digestA,
		"127.0.0.1:5000/a/b:tag":                "127.0.0.1:5000/a/b:tag",
		"127.0.0.1:5000/a":                      "127.0.0.1:5000/a:latest",
		"localhost/a":                           "localhost/a:latest",
		"a:5000":                                "docker.io/library/a:5000",
		"a:5000/b":                              "a:5000/b:latest",
		"[::1]:5000/a":                          "[::1]:5000/a:latest",
		"[0:0:0:0:0:0:0:1]/a":                   "[::1]/a:latest",
		"Registry.Example.COM/team/app:V1":      "registry.example.com/team/app:V1",
		"r.example.com/a__b/c--d/e.f_g:_x":      "r.example.com/a__b/c--d/e.f_g:_x",
		"mydocker.io.example.com/alpine":        "mydocker.io.example.com/alpine:latest",
		"r.example.com:443/a":                   "r.example.com:443/a:latest",
		"registry.example.com/library/x:1.2.3-": "registry.example.com/library/x:1.2.3-",
	} {
		n, err := ParseName(in)
		if err != nil || n.String() != want {
			t.Errorf("ParseName(%q) = %q, %v; want %q", in, n, err, want)
		}
	}
}

func TestParseNameRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"empty":                                "",
		"nothing but a tag":                    ":3",
		"empty tag":                            "alpine:",
		"empty digest":                         "alpine@",
		"two digests":                          "alpine@" + digestA + "@" + digestB,
		"no repository":                        "r.example.com/",
		"upper-case repository":                "Alpine",
		"path traversal in the repository":     "r.example.com/a/../../b",
		"hidden part":                          "r.example.com/.git/config",
		"empty part":                           "r.example.com/a//b",
		"slash at the end":                     "r.example.com/a/",
		"query in the repository":              "r.example.com/a?x=1",
		"percent-encoding":                     "r.example.com/a%2f..",
		"userinfo, the host is what follows @": "r.example.com@evil.example.com/a",
		"userinfo with a password":             "user:secret@evil.example.com/a",
		"newline":                              "alpine\nlatest",
		"space":                                " alpine",
		"NUL":                                  "alp\x00ine",
		"tag with a slash":                     "a:b/../c",
		"tag that begins with a dot":           "alpine:..",
		"tag of 129 bytes":                     "alpine:" + strings.Repeat("t", 129),
		"repository of 256 bytes":              "r.example.com/" + strings.Repeat("a", 256),
		"port out of range":                    "r.example.com:65536/a",
		"port zero":                            "r.example.com:0/a",
		"second spelling of a port":            "r.example.com:080/a",
		"port with a sign":                     "r.example.com:+80/a",
		"empty port":                           "r.example.com:/a",
		"two ports":                            "r.example.com:80:80/a",
		"underscore in the host":               "r_x.example.com/a",
		"empty label in the host":              "r..example.com/a",
		"dot at the end of the host":           "r.example.com./a",
		"IPv6 without brackets":                "::1/a",
		"IPv6 with a zone":                     "[fe80::1%25eth0]/a",
		"IPv4 in brackets":                     "[127.0.0.1]/a",
		"unclosed bracket":                     "[::1/a",
		"unknown transport":                    "https://r.example.com/a",
		"letters that fold to ASCII":           "\u212aernel",
	} {
		t.Run(name, func(t *testing.T) {
			if n, err := ParseName(in); !errors.Is(err, container.ErrInvalid) || !n.IsZero() {
				t.Fatalf("ParseName(%q) = %v, %v; want ErrInvalid", in, n, err)
			}
		})
	}
}

func TestParseNameSHA512(t *testing.T) {
	_, err := ParseName("alpine@sha512:" + strings.Repeat("a", 128))
	if !errors.Is(err, container.ErrNotSupported) {
		t.Fatal(err)
	}
}

// What ParseName accepts means the same to go-containerregistry, but for the
// spelling of Docker Hub and of the host.
func FuzzParseName(f *testing.F) {
	for _, seed := range []string{
		"alpine", "docker.io/alpine:3@" + digestA, "127.0.0.1:5000/a/b:tag", "[::1]:5000/a", "a:5000/b",
		"localhost/x", "index.docker.io/a", "Registry.example.com/a__b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseName(s)
		if err != nil {
			return
		}
		again, err := ParseName(n.String())
		if err != nil || again != n {
			t.Fatalf("%q became %q, and that %q, %v", s, n, again, err)
		}
		theirs, err := name.ParseReference(n.String())
		if err != nil {
			t.Fatalf("go-containerregistry refuses %q: %v", n, err)
		}
		registry := theirs.Context().RegistryStr()
		if registry == hubAlias {
			registry = DefaultRegistry
		}
		identifier := n.Tag
		if n.Digest != "" {
			identifier = n.Digest.String()
		}
		if registry != n.Registry || theirs.Context().RepositoryStr() != n.Repository || theirs.Identifier() != identifier {
			t.Fatalf("%q is %q to us and %q to go-containerregistry", s, n, theirs.Name())
		}
	})
}
