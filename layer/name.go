package layer

import (
	"fmt"
	"strings"

	"berth/container"
)

// splitName checks the name of a tar entry and splits it into its directory and
// its last component; both are empty for the root of the layer. Names are relative
// to the root; "." and empty components mean nothing and are dropped.
//
// What cannot be understood in one way only is refused: absolute names and "..",
// which tools resolve differently, and what the kernel would refuse later.
func splitName(name string, depth int) (dir, base string, err error) {
	switch {
	case strings.HasPrefix(name, "/"):
		return "", "", fmt.Errorf("%w: the name is absolute", container.ErrInvalid)
	case len(name) > maxName:
		return "", "", fmt.Errorf("%w: the name has %d bytes, at most %d are allowed", container.ErrInvalid, len(name), maxName)
	case strings.IndexByte(name, 0) >= 0:
		return "", "", fmt.Errorf("%w: the name contains a NUL byte", container.ErrInvalid)
	}
	// The usual spellings of a name, ./a/b and a/b/, need no copy.
	name = strings.TrimPrefix(strings.TrimSuffix(name, "/"), "./")
	clean, components := true, 0
	for component := range strings.SplitSeq(name, "/") {
		switch {
		case component == "" || component == ".":
			clean = false
			continue
		case component == "..":
			return "", "", fmt.Errorf(`%w: the name contains ".."`, container.ErrInvalid)
		case len(component) > maxComponent:
			return "", "", fmt.Errorf("%w: a component of the name has %d bytes, at most %d are allowed", container.ErrInvalid, len(component), maxComponent)
		}
		if components++; components > depth {
			return "", "", fmt.Errorf("%w: the name is more than %d directories deep", container.ErrInvalid, depth)
		}
	}
	if !clean {
		name = dropEmpty(name)
	}
	dir, base = cut(name)
	return dir, base, nil
}

// dropEmpty removes the components of name that mean nothing.
func dropEmpty(name string) string {
	var kept []string
	for component := range strings.SplitSeq(name, "/") {
		if component != "" && component != "." {
			kept = append(kept, component)
		}
	}
	return strings.Join(kept, "/")
}

func cut(clean string) (dir, base string) {
	if slash := strings.LastIndexByte(clean, '/'); slash >= 0 {
		return clean[:slash], clean[slash+1:]
	}
	return "", clean
}

func join(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

// The markers of the OCI image specification (and of aufs before it).
const (
	markerPrefix = ".wh."
	markerOpaque = ".wh..wh..opq"
	markerMeta   = ".wh..wh." // aufs's own files; they carry nothing of the image
)

// marker is what a file name means beside being a file.
type marker int

const (
	noMarker marker = iota
	opaque          // the directory hides what lower layers have in it
	whiteout        // the name after the prefix is hidden
	metadata        // to be ignored
)

// position says where a tar entry belongs and what it means there.
type position struct {
	kind marker
	dir  string
	// base is the last component; for a whiteout, the name that it hides. It is
	// empty for the root of the layer and for an opaque marker.
	base string
}

func (p position) path() string { return join(p.dir, p.base) }

// locate reads the name of a tar entry.
func locate(name string, depth int) (position, error) {
	dir, base, err := splitName(name, depth)
	if err != nil {
		return position{}, err
	}
	switch belowMarker(dir) {
	case noMarker:
	case metadata:
		return position{kind: metadata}, nil
	default:
		return position{}, fmt.Errorf("%w: it lies below a whiteout", container.ErrInvalid)
	}
	hidden, isMarker := strings.CutPrefix(base, markerPrefix)
	switch {
	case !isMarker:
		return position{dir: dir, base: base}, nil
	case base == markerOpaque:
		return position{kind: opaque, dir: dir}, nil
	case strings.HasPrefix(base, markerMeta):
		return position{kind: metadata}, nil
	case hidden == "" || hidden == "." || hidden == "..":
		return position{}, fmt.Errorf("%w: a whiteout of %q", container.ErrInvalid, hidden)
	}
	return position{kind: whiteout, dir: dir, base: hidden}, nil
}

// belowMarker returns what the first directory in dir with a marker's name marks.
func belowMarker(dir string) marker {
	if !strings.HasPrefix(dir, markerPrefix) && !strings.Contains(dir, "/"+markerPrefix) {
		return noMarker
	}
	for component := range strings.SplitSeq(dir, "/") {
		switch {
		case component == markerOpaque:
			return opaque
		case strings.HasPrefix(component, markerMeta):
			return metadata
		case strings.HasPrefix(component, markerPrefix):
			return whiteout
		}
	}
	return noMarker
}
