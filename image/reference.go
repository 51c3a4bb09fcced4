package image

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"berth/container"
	"berth/image/appc"
)

// Transport says where an image comes from.
type Transport string

// The transports, by the names that skopeo and podman give them.
const (
	Docker        Transport = "docker"         // a registry
	DockerArchive Transport = "docker-archive" // a file as `docker save` writes it
	OCI           Transport = "oci"            // a directory with an OCI image layout
	OCIArchive    Transport = "oci-archive"    // a tar file with an OCI image layout
	Appc          Transport = "appc"           // what the discovery of Appc images finds
)

const (
	dockerPrefix = "docker://"
	appcPrefix   = "appc:"
	maxRef       = 512
)

// Reference is what a user names an image by. References are comparable and may
// be map keys; two spellings of one image are equal.
type Reference struct {
	Transport Transport
	// Path is the file or directory of the image, as the user wrote it; "" for Docker.
	Path string
	// Name is the image's name in the registry (Docker) or in the archive
	// (DockerArchive, where it may be zero: the archive's only image).
	Name Name
	// Ref selects an image of an OCI layout (OCI, OCIArchive): it equals the
	// annotation org.opencontainers.image.ref.name of its descriptor, which need not be
	// a Name ("latest" is usual). "" is the layout's only image.
	Ref string
	// Appc is an appc.Request in its canonical form: name, labels and id (Appc).
	Appc string
}

// ParseReference reads what a user typed:
//
//	[docker://]NAME             an image in a registry, see ParseName
//	docker-archive:FILE[:NAME]  one image of a `docker save` file
//	oci:DIR[:REF]               one image of an OCI layout
//	oci-archive:FILE[:REF]      the same, in a tar file
//	appc:NAME[,LABEL=VALUE...][@sha512-HEX]  an Appc image, see appc.ParseRequest
//
// As with skopeo, the first colon after the transport ends FILE or DIR: everything
// after it is NAME or REF, in which a host:port may occur. So a path cannot contain
// a colon, even where NAME is left out; such a file has to be renamed or linked.
//
// A docker NAME that looks like another transport ("oci:5000/a", where oci is the
// registry's host) needs its docker:// in front.
//
// The error is of class ErrInvalid; ErrNotSupported for digests other than sha256.
func ParseReference(s string) (Reference, error) {
	if request, found := strings.CutPrefix(s, appcPrefix); found {
		parsed, err := appc.ParseRequest(request)
		if err != nil {
			return Reference{}, err
		}
		return Reference{Transport: Appc, Appc: parsed.String()}, nil
	}
	if transport, rest, found := cutLocal(s); found {
		reference, err := parseLocal(transport, rest)
		if err != nil {
			return Reference{}, fmt.Errorf("image %s: %w", quote(s), err)
		}
		return reference, nil
	}
	name, err := ParseName(strings.TrimPrefix(s, dockerPrefix))
	if err != nil {
		return Reference{}, err
	}
	return Reference{Transport: Docker, Name: name}, nil
}

// cutLocal recognises the transports of images on this machine.
func cutLocal(s string) (transport Transport, rest string, found bool) {
	before, after, found := strings.Cut(s, ":")
	switch t := Transport(before); t {
	case DockerArchive, OCI, OCIArchive:
		return t, after, found
	}
	return "", "", false
}

func parseLocal(transport Transport, s string) (Reference, error) {
	path, ref, hasRef := strings.Cut(s, ":")
	if err := checkPath(path); err != nil {
		return Reference{}, err
	}
	reference := Reference{Transport: transport, Path: path}
	switch {
	case !hasRef:
		return reference, nil
	case transport == DockerArchive:
		name, err := ParseName(ref)
		if err == nil && name.Digest != "" {
			err = fmt.Errorf("%w: a docker-archive knows its images by tag, not by digest", container.ErrInvalid)
		}
		reference.Name = name
		return reference, err
	case len(ref) > maxRef || !isRef(ref):
		return Reference{}, fmt.Errorf("%w: %s cannot be the name of an image in an OCI layout", container.ErrInvalid, quote(ref))
	}
	reference.Ref = ref
	return reference, nil
}

// checkPath refuses what would not survive in a record or a log: JSON cannot hold
// bytes that are not UTF-8.
func checkPath(path string) error {
	switch {
	case path == "":
		return fmt.Errorf("%w: the path is empty", container.ErrInvalid)
	case !utf8.ValidString(path) || strings.ContainsFunc(path, unicode.IsControl):
		return fmt.Errorf("%w: the path has control characters or is not UTF-8", container.ErrInvalid)
	}
	return nil
}

// String returns the canonical form: docker names without docker:// unless they
// need it. ParseReference reads it back as the same Reference.
func (r Reference) String() string {
	if r.Transport == Appc {
		return appcPrefix + r.Appc
	}
	if r.Path == "" {
		return dockerString(r.Name.String())
	}
	s := string(r.Transport) + ":" + r.Path
	switch {
	case !r.Name.IsZero():
		s += ":" + r.Name.String()
	case r.Ref != "":
		s += ":" + r.Ref
	}
	return s
}

func dockerString(name string) string {
	if _, _, local := cutLocal(name); local || strings.HasPrefix(name, appcPrefix) {
		return dockerPrefix + name
	}
	return name
}
