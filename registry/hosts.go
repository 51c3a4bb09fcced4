package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"berth/container"
	"berth/image"
)

const maxConfig = 1 << 20

// hostsFile is containerd's hosts.toml ("Registry Configuration - Introduction" in its
// documentation), as far as pulling is concerned.
type hostsFile struct {
	Server string `toml:"server"`
	hostsEntry
	Hosts map[string]hostsEntry `toml:"host"`

	order []string // of Hosts
}

type hostsEntry struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // a path or several
	Client       any            `toml:"client"` // a path, several, or pairs of paths
	SkipVerify   bool           `toml:"skip_verify"`
	OverridePath bool           `toml:"override_path"`
	Header       map[string]any `toml:"header"` // a value or several
}

// hostsEndpoints reads what a directory of configurations says of a registry: nothing when
// it has no hosts.toml for it.
func hostsEndpoints(dir string, n image.Name) ([]endpoint, error) {
	for _, name := range hostsNames(n.Registry) {
		path := filepath.Join(dir, name, "hosts.toml")
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var all []endpoint
		if err == nil {
			all, err = parseHosts(string(text), filepath.Dir(path), n)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return all, nil
	}
	return nil, nil
}

// hostsNames are the directories of a registry, as containerd looks for them.
func hostsNames(registry string) (names []string) {
	if at := strings.LastIndexByte(registry, ':'); at > 0 {
		names = append(names, registry[:at]+"_"+registry[at+1:]+"_")
	}
	return append(names, registry, "_default")
}

// parseHosts returns the places of n in their order. Relative paths begin at dir.
func parseHosts(text, dir string, n image.Name) ([]endpoint, error) {
	file, err := decodeHosts(text)
	if err != nil {
		return nil, err
	}
	var all []endpoint
	for _, host := range file.order {
		e, err := file.Hosts[host].endpoint(host, dir, n)
		if err != nil {
			return nil, fmt.Errorf("host %.200q: %w", host, err)
		}
		e.mirror = e.base.Host != hostOf(n.Registry)
		if e.mirror {
			// So that one mirror can serve several registries.
			e.base.RawQuery = url.Values{"ns": {n.Registry}}.Encode()
		}
		all = append(all, e)
	}
	server := file.Server
	if server == "" {
		server = "https://" + hostOf(n.Registry)
	}
	file.hostsEntry.Capabilities = nil // the last resort has them all
	last, err := file.hostsEntry.endpoint(server, dir, n)
	if err != nil {
		return nil, fmt.Errorf("server %.200q: %w", server, err)
	}
	if last.base.Host == hostOf(n.Registry) {
		last.registry = n.Registry
	}
	return append(all, last), nil
}

func decodeHosts(text string) (*hostsFile, error) {
	if len(text) > maxConfig {
		return nil, fmt.Errorf("%w: it has more than %d bytes", container.ErrInvalid, maxConfig)
	}
	var file hostsFile
	meta, err := toml.Decode(text, &file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", container.ErrInvalid, err)
	}
	for _, key := range meta.Keys() {
		if len(key) >= 2 && key[0] == "host" && !slices.Contains(file.order, key[1]) {
			file.order = append(file.order, key[1])
		}
	}
	return &file, nil
}

func (h hostsEntry) endpoint(address, dir string, n image.Name) (endpoint, error) {
	base, err := parseAddress(address)
	if err != nil {
		return endpoint{}, err
	}
	e := endpoint{registry: base.Host, repository: n.Repository, insecure: h.SkipVerify}
	if base.Host == hostOf(n.Registry) {
		e.registry = n.Registry
	}
	if h.OverridePath {
		e.base = base.JoinPath(n.Repository)
	} else {
		base.Path = strings.TrimSuffix(base.Path, "/v2")
		e.base = base.JoinPath("v2", n.Repository)
	}
	e.byTag = h.Capabilities == nil || slices.Contains(h.Capabilities, "resolve")
	e.byDigest = h.Capabilities == nil || slices.Contains(h.Capabilities, "pull")
	if e.ca, err = paths(h.CA, dir); err != nil {
		return e, fmt.Errorf("ca: %w", err)
	}
	if e.pairs, err = pairs(h.Client, dir); err != nil {
		return e, fmt.Errorf("client: %w", err)
	}
	e.header, err = headers(h.Header)
	return e, err
}

// parseAddress reads [SCHEME://]HOST[:PORT][/PATH].
func parseAddress(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("%w: it is not [http://|https://]HOST[:PORT][/PATH]", container.ErrInvalid)
	}
	u.Host, u.Fragment = strings.ToLower(u.Host), ""
	u.Path = strings.TrimSuffix(u.Path, "/")
	u.RawPath = ""
	return u, nil
}

// paths reads a path or a list of paths.
func paths(v any, dir string) (all []string, err error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{resolved(dir, v)}, nil
	case []any:
		for _, entry := range v {
			path, ok := entry.(string)
			if !ok {
				return nil, fmt.Errorf("%w: it is not a list of paths", container.ErrInvalid)
			}
			all = append(all, resolved(dir, path))
		}
		return all, nil
	}
	return nil, fmt.Errorf("%w: it is neither a path nor a list of paths", container.ErrInvalid)
}

func resolved(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// pairs reads a path of a file with certificate and key, a list of those, or a list of
// pairs of paths.
func pairs(v any, dir string) (all []keyPair, err error) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, entry := range list {
		files, err := paths(entry, dir)
		switch {
		case err != nil:
			return nil, err
		case len(files) == 1 || len(files) == 2 && files[1] == dir: // the key may be ""
			all = append(all, keyPair{files[0], files[0]})
		case len(files) == 2:
			all = append(all, keyPair{files[0], files[1]})
		case len(files) > 2:
			return nil, fmt.Errorf("%w: a pair has %d files", container.ErrInvalid, len(files))
		}
	}
	return all, nil
}

func headers(fields map[string]any) (http.Header, error) {
	header := http.Header{}
	for name, v := range fields {
		values, ok := v.([]any)
		if !ok {
			values = []any{v}
		}
		for _, value := range values {
			text, ok := value.(string)
			if !ok || strings.ContainsAny(name+text, "\r\n\x00") || name == "" {
				return nil, fmt.Errorf("header %.100q: %w: its value is not a line of text", name, container.ErrInvalid)
			}
			header.Add(name, text)
		}
	}
	return header, nil
}
