package image

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"berth/container"
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func TestParseDigestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		in    string
		class error
	}{
		"empty":                        {"", container.ErrInvalid},
		"no algorithm":                 {strings.Repeat("a", 64), container.ErrInvalid},
		"upper case, a second name":    {"sha256:" + strings.Repeat("A", 64), container.ErrInvalid},
		"upper-case algorithm":         {"SHA256:" + strings.Repeat("a", 64), container.ErrInvalid},
		"short, half a digest":         {"sha256:abcd", container.ErrInvalid},
		"long":                         {digestA + "a", container.ErrInvalid},
		"path traversal":               {"sha256:../../../../../../../../../../../../../../../../../../etc/passwd/", container.ErrInvalid},
		"newline at the end":           {digestA + "\n", container.ErrInvalid},
		"newline for a digit":          {digestA[:len(digestA)-1] + "\n", container.ErrInvalid},
		"sha512, allowed by OCI":       {"sha512:" + strings.Repeat("a", 128), container.ErrNotSupported},
		"md5, broken":                  {"md5:d41d8cd98f00b204e9800998ecf8427e", container.ErrInvalid},
		"a megabyte, to flood the log": {strings.Repeat("x", 1<<20), container.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := ParseDigest(c.in)
			if !errors.Is(err, c.class) || d != "" {
				t.Fatalf("ParseDigest = %q, %v; want class %v", d, err, c.class)
			}
			if len(err.Error()) > 400 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestDigest(t *testing.T) {
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	d := DigestOf(nil)
	if d.String() != "sha256:"+empty || d.Hex() != empty {
		t.Fatalf("DigestOf(nil) = %s, hex %s", d, d.Hex())
	}
	if parsed, err := ParseDigest(d.String()); err != nil || parsed != d {
		t.Fatalf("ParseDigest = %s, %v", parsed, err)
	}
}

func TestDigestFromJSONIsValid(t *testing.T) {
	var d Digest
	if err := json.Unmarshal([]byte(`"../../etc"`), &d); !errors.Is(err, container.ErrInvalid) || d != "" {
		t.Fatalf("Unmarshal = %q, %v", d, err)
	}
	if err := json.Unmarshal([]byte(`"`+digestA+`"`), &d); err != nil || d != digestA {
		t.Fatalf("Unmarshal = %q, %v", d, err)
	}
}

// A record with a Name that has no digest can be read back.
func TestNameThroughJSON(t *testing.T) {
	for _, s := range []string{"docker.io/library/alpine:3", "docker.io/library/alpine@" + digestA} {
		want, err := ParseName(s)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Name
		if err := json.Unmarshal(text, &got); err != nil || got != want {
			t.Fatalf("%s is read as %v, %v", text, got, err)
		}
	}
}

func FuzzParseDigest(f *testing.F) {
	f.Add(digestA)
	f.Add("sha512:" + strings.Repeat("0", 128))
	f.Add("sha256:")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDigest(s)
		if err != nil {
			return
		}
		if d.String() != s || len(d.Hex()) != 64 {
			t.Fatalf("ParseDigest(%q) = %q", s, d)
		}
	})
}
