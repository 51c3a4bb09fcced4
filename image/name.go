package image

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"berth/container"
)

const (
	// DefaultRegistry is the registry of names that state none: Docker Hub.
	DefaultRegistry = "docker.io"
	// DefaultTag is the tag of names that state neither a tag nor a digest.
	DefaultTag = "latest"

	// hubAlias is what older configurations call Docker Hub.
	hubAlias = "index.docker.io"
	// hubLibrary is where Docker Hub keeps repositories whose name has one part.
	hubLibrary = "library/"

	maxRepository = 255
)

// Name names an image in a registry. One that comes from ParseName is complete:
// it has a Registry, a Repository and a Tag or a Digest or both; with both, the
// digest decides what is fetched and the tag is what people call it.
//
// Names are comparable and may be map keys. The zero Name names no image.
type Name struct {
	// Registry is a lower-case host with an optional port; Docker Hub is "docker.io".
	Registry string
	// Repository is the path in the registry: "library/alpine".
	Repository string
	Tag        string
	Digest     Digest
}

// ParseName reads [REGISTRY/]REPOSITORY[:TAG][@DIGEST].
//
// The first part is a registry if it contains a dot or a colon or is "localhost";
// a colon after the last slash begins the tag. So "a:5000" is the tag 5000 of a,
// and "a:5000/b" is b in the registry a:5000. What is not stated is what Docker
// takes: the registry docker.io, "library/" in front of its one-part names, the tag
// "latest".
//
// The error is of class ErrInvalid, or ErrNotSupported for a digest that is not sha256.
func ParseName(s string) (Name, error) {
	name, err := parseName(s)
	if err != nil {
		return Name{}, fmt.Errorf("image name %s: %w", quote(s), err)
	}
	return name, nil
}

func parseName(s string) (n Name, err error) {
	if scheme, _, found := strings.Cut(s, "://"); found {
		return Name{}, fmt.Errorf("%w: %s is no transport that berth knows", container.ErrInvalid, quote(scheme+"://"))
	}
	rest, digest, hasDigest := strings.Cut(s, "@")
	if hasDigest {
		if n.Digest, err = ParseDigest(digest); err != nil {
			return Name{}, err
		}
	}
	rest, tag, hasTag := cutTag(rest)
	switch {
	case hasTag && !isTag(tag):
		return Name{}, fmt.Errorf("%w: the tag %s is not 1 to 128 letters, digits, '_', '.' and '-'", container.ErrInvalid, quote(tag))
	case !hasTag && !hasDigest:
		tag = DefaultTag
	}
	n.Tag = tag
	n.Registry, n.Repository, err = parseRepository(rest)
	return n, err
}

// cutTag splits at the colon after the last slash; an earlier one belongs to a port.
func cutTag(s string) (rest, tag string, found bool) {
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 || strings.ContainsRune(s[colon:], '/') {
		return s, "", false
	}
	return s[:colon], s[colon+1:], true
}

func parseRepository(s string) (registry, repository string, err error) {
	registry, repository = DefaultRegistry, s
	if first, rest, found := strings.Cut(s, "/"); found && looksLikeHost(first) {
		if registry, err = parseRegistry(first); err != nil {
			return "", "", err
		}
		repository = rest
	}
	if registry == DefaultRegistry && repository != "" && !strings.Contains(repository, "/") {
		repository = hubLibrary + repository
	}
	if err := checkRepository(repository); err != nil {
		return "", "", err
	}
	return registry, repository, nil
}

func looksLikeHost(s string) bool {
	return strings.ContainsAny(s, ".:") || strings.EqualFold(s, "localhost")
}

func checkRepository(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: it names no repository", container.ErrInvalid)
	case len(s) > maxRepository:
		return fmt.Errorf("%w: the repository has %d bytes, at most %d are allowed", container.ErrInvalid, len(s), maxRepository)
	case s != strings.ToLower(s):
		return fmt.Errorf("%w: the repository %s has upper-case letters, repositories are lower case", container.ErrInvalid, quote(s))
	case !isRepository(s):
		return fmt.Errorf("%w: the repository %s is not made of parts of letters and digits, with single '.', '_', '__' or '-' inside them",
			container.ErrInvalid, quote(s))
	}
	return nil
}

// parseRegistry brings HOST[:PORT] into the one form that it is compared in: host
// names do not distinguish case, and an IPv6 address has many spellings.
func parseRegistry(s string) (string, error) {
	if strings.EqualFold(s, hubAlias) {
		return DefaultRegistry, nil
	}
	host, port, err := splitPort(s)
	if err != nil {
		return "", err
	}
	if host, err = parseHost(host); err != nil {
		return "", err
	}
	return host + port, nil
}

// splitPort returns the port with its colon, or "" without one.
func splitPort(s string) (host, port string, err error) {
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 || strings.HasSuffix(s, "]") {
		return s, "", nil
	}
	host, port = s[:colon], s[colon+1:]
	number, err := strconv.ParseUint(port, 10, 16)
	// The second half refuses "+80" and "080", further spellings of one port.
	if err != nil || number == 0 || strconv.FormatUint(number, 10) != port {
		return "", "", fmt.Errorf("%w: %s is not a port", container.ErrInvalid, quote(port))
	}
	return host, ":" + port, nil
}

func parseHost(s string) (string, error) {
	if inner, found := strings.CutPrefix(s, "["); found {
		address, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !strings.HasSuffix(inner, "]") || !address.Is6() || address.Zone() != "" {
			return "", fmt.Errorf("%w: %s is not an IPv6 address in brackets", container.ErrInvalid, quote(s))
		}
		return "[" + address.String() + "]", nil
	}
	host := strings.ToLower(s)
	if len(host) > 253 || !isHost(host) {
		return "", fmt.Errorf("%w: %s is not a host name", container.ErrInvalid, quote(s))
	}
	return host, nil
}

// String returns the canonical form, with registry, repository, tag and digest
// spelled out; ParseName reads it back as the same Name. It is "" for the zero Name.
func (n Name) String() string {
	if n == (Name{}) {
		return ""
	}
	s := n.Registry + "/" + n.Repository
	if n.Tag != "" {
		s += ":" + n.Tag
	}
	if n.Digest != "" {
		s += "@" + n.Digest.String()
	}
	return s
}

// IsZero reports whether n names no image.
func (n Name) IsZero() bool { return n == Name{} }
