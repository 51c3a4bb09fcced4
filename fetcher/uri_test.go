package fetcher

import (
	"errors"
	"path"
	"strings"
	"testing"

	"berth/container"
)

func TestURIsThatAreRefused(t *testing.T) {
	for value, class := range map[string]error{
		"": container.ErrInvalid, "  ": container.ErrInvalid, "/": container.ErrInvalid, "/a/": container.ErrInvalid, "/a/..": container.ErrInvalid,
		"a\x00b": container.ErrInvalid, "http://": container.ErrInvalid, "http:///a": container.ErrInvalid, "http://h": container.ErrInvalid,
		"http://h/": container.ErrInvalid, "http://h/a/": container.ErrInvalid, "http://h/a/..": container.ErrInvalid, "http://h/%zz": container.ErrInvalid,
		"file://host/a": container.ErrInvalid, "file://": container.ErrInvalid, "file:///": container.ErrInvalid, "file://a": container.ErrInvalid,
		"/a#sha256=": container.ErrInvalid, "/a#sha256=00": container.ErrInvalid, "/a#sha256=" + strings.Repeat("x", 64): container.ErrInvalid,
		"hdfs://h/a": container.ErrNotSupported, "ftp://h/a": container.ErrNotSupported, "s3://b/a": container.ErrNotSupported, "a/b": container.ErrNotSupported,
	} {
		if s, err := parse(value, ""); !errors.Is(err, class) {
			t.Errorf("%q: %+v, %v, want an error of class %v", value, s, err, class)
		}
	}
	if _, err := parse("../a", "/home"); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("a relative path that climbs: %v", err)
	}
}

func FuzzURI(f *testing.F) {
	for _, seed := range []string{"http://u:p@h:1/a/b?q#f", "https://h/a%2fb", "file://localhost/a", "/a/b", "a/b", " /x", "/a#sha256=" + strings.Repeat("0", 64)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		s, err := parse(value, "/home")
		if err != nil {
			return
		}
		if (s.url == nil) == (s.path == "") || s.url == nil && !path.IsAbs(s.path) {
			t.Errorf("%q: both or none of %v and %q", value, s.url, s.path)
		}
		if s.name == "" || s.name == "." || s.name == ".." || strings.ContainsAny(s.name, "/\x00") {
			t.Errorf("%q: name %q", value, s.name)
		}
		if s.url != nil {
			if password, _ := s.url.User.Password(); len(password) > 4 && !strings.Contains(s.url.Host+s.url.Path, password) && strings.Contains(s.shown, password) {
				t.Errorf("%q: shown as %q", value, s.shown)
			}
		}
	})
}
