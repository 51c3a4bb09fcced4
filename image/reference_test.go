package image

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"berth/container"
)

func TestParseReference(t *testing.T) {
	alpine := Name{Registry: "docker.io", Repository: "library/alpine", Tag: "latest"}
	local := Name{Registry: "127.0.0.1:5000", Repository: "a/b", Tag: "tag"}
	for in, want := range map[string]Reference{
		"alpine":                                      {Transport: Docker, Name: alpine},
		"docker://alpine":                             {Transport: Docker, Name: alpine},
		"docker://docker.io/alpine:latest":            {Transport: Docker, Name: alpine},
		"docker:dind":                                 {Transport: Docker, Name: Name{"docker.io", "library/docker", "dind", ""}},
		"docker://oci:5000/a":                         {Transport: Docker, Name: Name{"oci:5000", "a", "latest", ""}},
		"docker://oci":                                {Transport: Docker, Name: Name{"docker.io", "library/oci", "latest", ""}},
		"docker-archive:/a/b.tar":                     {Transport: DockerArchive, Path: "/a/b.tar"},
		"docker-archive:b.tar:alpine":                 {Transport: DockerArchive, Path: "b.tar", Name: alpine},
		"docker-archive:b.tar:127.0.0.1:5000/a/b:tag": {Transport: DockerArchive, Path: "b.tar", Name: local},
		"docker-archive:/with:colon":                  {Transport: DockerArchive, Path: "/with", Name: Name{"docker.io", "library/colon", "latest", ""}},
		"oci:/layout":                                 {Transport: OCI, Path: "/layout"},
		"oci:/layout:latest":                          {Transport: OCI, Path: "/layout", Ref: "latest"},
		"oci:dir:127.0.0.1:5000/a/b:tag":              {Transport: OCI, Path: "dir", Ref: "127.0.0.1:5000/a/b:tag"},
		"oci:latest":                                  {Transport: OCI, Path: "latest"},
		"oci-archive:../x.tar:v1":                     {Transport: OCIArchive, Path: "../x.tar", Ref: "v1"},
		"oci-archive:/with space and ümlaut.tar":      {Transport: OCIArchive, Path: "/with space and ümlaut.tar"},
		"appc:example.com/a":                          {Transport: Appc, Appc: "example.com/a"},
		"appc:example.com/a,version=1.0.0,os=linux":   {Transport: Appc, Appc: "example.com/a,os=linux,version=1.0.0"},
	} {
		got, err := ParseReference(in)
		if err != nil || got != want {
			t.Errorf("ParseReference(%q) = %+v, %v; want %+v", in, got, err, want)
		}
		again, err := ParseReference(got.String())
		if err != nil || again != got {
			t.Errorf("%q prints as %q, which is %+v, %v", in, got, again, err)
		}
	}
}

func TestParseReferenceRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		in    string
		class error
	}{
		"empty":                   {"", container.ErrInvalid},
		"transport alone":         {"docker://", container.ErrInvalid},
		"empty file":              {"docker-archive:", container.ErrInvalid},
		"empty file with a name":  {"docker-archive::alpine", container.ErrInvalid},
		"empty name after a file": {"docker-archive:a.tar:", container.ErrInvalid},
		"file with two colons, read as file:name": {"docker-archive:/a:b:c:d", container.ErrInvalid},
		"archive by digest":                       {"docker-archive:a.tar:alpine@" + digestA, container.ErrInvalid},
		"empty layout":                            {"oci:", container.ErrInvalid},
		"empty ref":                               {"oci:dir:", container.ErrInvalid},
		"ref with a space":                        {"oci:dir:a b", container.ErrInvalid},
		"ref of a megabyte":                       {"oci:dir:" + strings.Repeat("a", 1<<20), container.ErrInvalid},
		"newline in a path, to forge a record":    {"oci-archive:/a\n/b", container.ErrInvalid},
		"NUL in a path, to end it early":          {"docker-archive:/a\x00.tar", container.ErrInvalid},
		"escape sequence in a path":               {"oci:/\x1b[2J", container.ErrInvalid},
		"bytes that are not UTF-8 in a path":      {"oci:/\xff", container.ErrInvalid},
		"unknown transport":                       {"ftp://r.example.com/a", container.ErrInvalid},
		"appc without a name":                     {"appc:", container.ErrInvalid},
		"appc with a label that is no pair":       {"appc:example.com/a,version", container.ErrInvalid},
		"appc with a label twice":                 {"appc:example.com/a,version=1,version=2", container.ErrInvalid},
		"appc with a path for a version":          {"appc:example.com/a,version=../../etc", container.ErrInvalid},
		"appc with an id that is cut off":         {"appc:example.com/a@sha512-00", container.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := ParseReference(c.in)
			if !errors.Is(err, c.class) {
				t.Fatalf("ParseReference(%q) = %+v, %v; want class %v", c.in, r, err, c.class)
			}
		})
	}
}

// Every Reference, not only those that people type, prints as text that reads as
// the same Reference.
func TestReferenceRoundTrip(t *testing.T) {
	host := rapid.StringMatching(`(localhost|docker\.io|oci|appc|docker-archive|oci-archive|[a-z][a-z0-9]{0,5}\.[a-z]{1,5})(:[1-9][0-9]{0,3})?`).
		Filter(looksLikeHost)
	repository := rapid.StringMatching(`[a-z0-9]{1,8}(/[a-z0-9]{1,8}([._-][a-z0-9]{1,8})?){1,3}`)
	tag := rapid.StringMatching(`[A-Za-z0-9_][A-Za-z0-9._-]{0,20}`)
	path := rapid.StringMatching(`[^:\pC]{1,20}`)
	rapid.Check(t, func(t *rapid.T) {
		n := Name{Registry: host.Draw(t, "host"), Repository: repository.Draw(t, "repository"), Tag: tag.Draw(t, "tag")}
		var r Reference
		switch transport := rapid.SampledFrom([]Transport{Docker, DockerArchive, OCI, OCIArchive}).Draw(t, "transport"); transport {
		case Docker:
			if rapid.Bool().Draw(t, "digest") {
				n.Digest = digestA
			}
			r = Reference{Transport: Docker, Name: n}
		case DockerArchive:
			r = Reference{Transport: transport, Path: path.Draw(t, "path")}
			if rapid.Bool().Draw(t, "named") {
				r.Name = n
			}
		default:
			r = Reference{Transport: transport, Path: path.Draw(t, "path")}
			r.Ref = rapid.OneOf(rapid.Just(""), tag.Filter(isRef), rapid.Just(n.String())).Draw(t, "ref")
		}
		again, err := ParseReference(r.String())
		if err != nil || again != r {
			t.Fatalf("%+v prints as %q, which is %+v, %v", r, r, again, err)
		}
	})
}

func FuzzParseReference(f *testing.F) {
	for _, seed := range []string{
		"alpine", "docker://oci:5000/a", "docker-archive:a.tar:alpine:3", "oci:dir:host:5000/a", "oci-archive:x", "appc:x", "appc:example.com/a,version=1.0.0,os=linux@sha512-00",
		"docker://docker-archive:5000/a@" + digestA,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			return
		}
		again, err := ParseReference(r.String())
		if err != nil || again != r {
			t.Fatalf("%q is %+v, prints as %q, which is %+v, %v", s, r, r, again, err)
		}
	})
}
