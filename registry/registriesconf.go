package registry

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"

	"berth/container"
	"berth/image"
)

// registriesConf is the file registries.conf, version 2 (containers-registries.conf(5)), and
// what its directory registries.conf.d adds. It is read once; short names are no concern
// of berth's, whose names are complete.
type registriesConf struct {
	once    sync.Once
	entries []registryEntry
	err     error
}

type registriesFile struct {
	Registries []registryEntry `toml:"registry"`
}

// registryEntry is a table [[registry]].
type registryEntry struct {
	Prefix             string        `toml:"prefix"`
	Location           string        `toml:"location"`
	Insecure           bool          `toml:"insecure"`
	Blocked            bool          `toml:"blocked"`
	MirrorByDigestOnly bool          `toml:"mirror-by-digest-only"`
	Mirrors            []mirrorEntry `toml:"mirror"`
}

// mirrorEntry is a table [[registry.mirror]].
type mirrorEntry struct {
	Location       string `toml:"location"`
	Insecure       bool   `toml:"insecure"`
	PullFromMirror string `toml:"pull-from-mirror"`
}

// endpoints returns the places of n, or nothing when the file does not speak of it.
func (r *registriesConf) endpoints(path string, n image.Name) ([]endpoint, error) {
	r.once.Do(func() { r.entries, r.err = readRegistries(path) })
	if r.err != nil {
		return nil, r.err
	}
	full := n.Registry + "/" + n.Repository
	var best *registryEntry
	length := -1
	for i, e := range r.entries {
		if covered := e.covers(full); covered > length {
			best, length = &r.entries[i], covered
		}
	}
	if best == nil {
		return nil, nil
	}
	all, err := best.endpoints(full, length)
	if err != nil {
		return nil, fmt.Errorf("%s: registry %q: %w", path, best.Prefix, err)
	}
	return all, nil
}

// readRegistries reads the file and then those beside it, of which a later one replaces
// what an earlier one says of the same prefix.
func readRegistries(path string) (entries []registryEntry, err error) {
	files, err := filepath.Glob(filepath.Join(path+".d", "*.conf"))
	if err != nil {
		return nil, err
	}
	for _, file := range append([]string{path}, files...) {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var more []registryEntry
		if err == nil {
			more, err = parseRegistries(string(text))
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, e := range more {
			entries = slices.DeleteFunc(entries, func(old registryEntry) bool { return old.Prefix == e.Prefix })
			entries = append(entries, e)
		}
	}
	return entries, nil
}

func parseRegistries(text string) ([]registryEntry, error) {
	if len(text) > maxConfig {
		return nil, fmt.Errorf("%w: it has more than %d bytes", container.ErrInvalid, maxConfig)
	}
	var file registriesFile
	// Version 1 has "registries" where nothing of version 2 is, so it says nothing here.
	if _, err := toml.Decode(text, &file); err != nil {
		return nil, fmt.Errorf("%w: %w", container.ErrInvalid, err)
	}
	for i := range file.Registries {
		if err := file.Registries[i].check(); err != nil {
			return nil, fmt.Errorf("registry %d: %w", i+1, err)
		}
	}
	return file.Registries, nil
}

func (e *registryEntry) check() error {
	e.Location = strings.TrimSuffix(e.Location, "/")
	e.Prefix = strings.TrimSuffix(cmp.Or(e.Prefix, e.Location), "/")
	if e.Prefix == "" {
		return fmt.Errorf("%w: it has neither a prefix nor a location", container.ErrInvalid)
	}
	for i := range e.Mirrors {
		m := &e.Mirrors[i]
		m.Location = strings.TrimSuffix(m.Location, "/")
		if m.Location == "" {
			return fmt.Errorf("%w: a mirror of %q has no location", container.ErrInvalid, e.Prefix)
		}
		if !slices.Contains([]string{"", "all", "digest-only", "tag-only"}, m.PullFromMirror) {
			return fmt.Errorf("%w: pull-from-mirror of a mirror of %q is %.40q; known are all, digest-only and tag-only",
				container.ErrInvalid, e.Prefix, m.PullFromMirror)
		}
	}
	return nil
}

// covers returns how much of a name the prefix is, or -1.
func (e registryEntry) covers(full string) int {
	if wildcard, ok := strings.CutPrefix(e.Prefix, "*."); ok {
		host, _, _ := strings.Cut(full, "/")
		if rest, ok := strings.CutSuffix(host, "."+wildcard); ok && rest != "" {
			return len(host)
		}
		return -1
	}
	rest, ok := strings.CutPrefix(full, e.Prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return -1
	}
	return len(e.Prefix)
}

// endpoints are the mirrors in their order and the registry at last.
func (e registryEntry) endpoints(full string, covered int) (all []endpoint, err error) {
	if e.Blocked {
		return nil, fmt.Errorf("%w: it is blocked", container.ErrDenied)
	}
	rest := full[covered:]
	for _, m := range e.Mirrors {
		place, err := located(m.Location+rest, m.Insecure)
		if err != nil {
			return nil, err
		}
		place.mirror = true
		place.byTag = m.PullFromMirror != "digest-only" && !e.MirrorByDigestOnly
		place.byDigest = m.PullFromMirror != "tag-only"
		all = append(all, place)
	}
	location := full
	if e.Location != "" {
		location = e.Location + rest
	}
	place, err := located(location, e.Insecure)
	return append(all, place), err
}

// located is the place HOST[:PORT]/REPOSITORY. What would be short for something else, as names
// of Docker Hub are, is refused: whoever writes the name of a host without a dot does not mean
// a stranger there.
func located(location string, insecure bool) (endpoint, error) {
	name, err := image.ParseName(location)
	if err == nil && name.Registry+"/"+name.Repository != location {
		err = fmt.Errorf("%.200q: %w: it is not HOST[:PORT]/REPOSITORY; a HOST has a dot or a port, or is localhost", location, container.ErrInvalid)
	}
	if err != nil {
		return endpoint{}, fmt.Errorf("location: %w", err)
	}
	e := endpoint{registry: name.Registry, repository: name.Repository, insecure: insecure, byTag: true, byDigest: true}
	e.base = (&url.URL{Scheme: "https", Host: hostOf(name.Registry)}).JoinPath("v2", name.Repository)
	return e, nil
}
