package fetcher

import (
	"encoding/hex"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"strings"

	"berth/container"
)

// source is where a file comes from: either of url and path is set.
type source struct {
	url    *url.URL // without fragment
	path   string   // absolute
	digest string   // sha256 in hexadecimal; empty: any content will do
	name   string   // of the file, unless somebody wants another one
	shown  string   // for errors: without credentials
}

const digestMark = "#sha256="

// parse reads a URI. home is the directory of relative paths; empty: there are none.
// ErrInvalid: what is malformed; ErrNotSupported: schemes and forms that are not known.
// Errors show no credentials.
func parse(value, home string) (source, error) {
	var s source
	text := strings.TrimLeft(value, " \t\r\n")
	if at := strings.LastIndex(text, digestMark); at >= 0 {
		s.digest = strings.ToLower(text[at+len(digestMark):])
		text = text[:at]
		if sum, err := hex.DecodeString(s.digest); err != nil || len(sum) != 32 {
			return source{}, fmt.Errorf("URI: %w: %s is followed by 64 hexadecimal digits", container.ErrInvalid, digestMark)
		}
	}
	if text == "" || strings.ContainsRune(text, 0) {
		return source{}, fmt.Errorf("URI: %w: it is empty or has a NUL", container.ErrInvalid)
	}
	scheme, rest, ok := strings.Cut(text, "://")
	var err error
	switch scheme = strings.ToLower(scheme); {
	case !ok:
		err = s.local(text, home)
	case scheme == "file":
		if rest = strings.TrimPrefix(rest, "localhost"); !path.IsAbs(rest) {
			err = fmt.Errorf("URI file://...: %w: after file:// comes an absolute path", container.ErrInvalid)
		}
		s.path, s.shown, s.name = rest, text, path.Base(rest)
	case scheme == "http" || scheme == "https":
		err = s.web(text)
	default:
		err = fmt.Errorf("URI of scheme %.20q: %w: known are http, https, file and paths", scheme, container.ErrNotSupported)
	}
	if err != nil {
		return source{}, err
	}
	if s.name == "" || s.name == "." || s.name == ".." || s.name == "/" || strings.HasSuffix(s.path, "/") {
		return source{}, fmt.Errorf("URI %q: %w: its path names no file", s.shown, container.ErrInvalid)
	}
	return s, nil
}

// local takes a path.
func (s *source) local(text, home string) error {
	s.shown, s.path, s.name = text, text, path.Base(text)
	if path.IsAbs(text) {
		return nil
	}
	if home == "" {
		return fmt.Errorf("URI %q: %w: a relative path is below --frameworks_home, which is not set", text, container.ErrNotSupported)
	}
	if !filepath.IsLocal(text) {
		return fmt.Errorf("URI %q: %w: it leads out of --frameworks_home", text, container.ErrInvalid)
	}
	s.path = filepath.Join(home, text)
	return nil
}

// web takes a URL. Errors of package url repeat what they could not read.
func (s *source) web(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		scheme, _, _ := strings.Cut(text, "://")
		return fmt.Errorf("URI %s://...: %w: it is no URL with a host", scheme, container.ErrInvalid)
	}
	u.Fragment, u.RawFragment = "", ""
	if s.name = path.Base(u.EscapedPath()); strings.HasSuffix(u.Path, "/") {
		s.name = ""
	}
	s.url, s.shown = u, shown(u)
	return nil
}

// shown is a URL without what may be a credential: user, password, and the query, which
// signs URLs of object stores.
func shown(u *url.URL) string {
	bare := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	if u.RawQuery != "" {
		bare.RawQuery = "..."
	}
	return bare.String()
}
