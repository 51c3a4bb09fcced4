package appc

import (
	"fmt"

	"berth/container"
)

// System is what an image runs on, in Appc's words.
type System struct {
	OS, Arch string
}

func (s System) labels() []Label { return []Label{{OS, s.OS}, {Arch, s.Arch}} }

// architectures has Appc's names for those of Go on Linux ("Image Manifest Schema",
// labels).
var architectures = map[string]string{
	"amd64": "amd64", "386": "i386", "arm64": "aarch64", "ppc64": "ppc64", "ppc64le": "ppc64le", "s390x": "s390x",
	"arm": "armv7l", "arm/v6": "armv6l", "arm/v7": "armv7l",
}

// NewSystem translates Go's names of a system and an architecture, and the variant of the
// latter. ErrNotSupported where Appc has no name for it.
func NewSystem(os, architecture, variant string) (System, error) {
	arch, ok := architectures[architecture+"/"+variant]
	if !ok {
		arch, ok = architectures[architecture]
	}
	if os != "linux" || !ok {
		return System{}, fmt.Errorf("platform %s/%s: %w: Appc has no such images", os, architecture, container.ErrNotSupported)
	}
	return System{OS: os, Arch: arch}, nil
}
