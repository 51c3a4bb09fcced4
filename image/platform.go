package image

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"

	"berth/container"
)

// Platform is what an image runs on, in the words of the image-spec's index:
// Go's names of systems and architectures, and a variant of the processor.
// OSVersion and OSFeatures are used by Windows images only.
type Platform struct {
	OS           string   `json:"os,omitempty"`
	Architecture string   `json:"architecture,omitempty"`
	Variant      string   `json:"variant,omitempty"`
	OSVersion    string   `json:"os.version,omitempty"`
	OSFeatures   []string `json:"os.features,omitempty"`
}

// ParsePlatform reads OS/ARCHITECTURE[/VARIANT], in any case, and returns it
// normalized. The error is of class ErrInvalid.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(strings.ToLower(s), "/")
	if len(parts) != 2 && len(parts) != 3 {
		return Platform{}, fmt.Errorf("platform %s: %w: it is not OS/ARCHITECTURE[/VARIANT], as in linux/arm64", quote(s), container.ErrInvalid)
	}
	for _, part := range parts {
		if !isPlatformPart(part) || part == unknown {
			return Platform{}, fmt.Errorf("platform %s: %w: the part %s", quote(s), container.ErrInvalid, quote(part))
		}
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p.Normalize(), nil
}

// HostPlatform returns the platform of this program, normalized. Its variant is
// the least that the program was built for: what runs it has that variant at least.
func HostPlatform() Platform { return hostPlatform() }

var hostPlatform = sync.OnceValue(func() Platform {
	return Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH, Variant: builtVariant()}.Normalize()
})

func builtVariant() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "GOAMD64" && runtime.GOARCH == "amd64":
			return setting.Value
		case setting.Key == "GOARM" && runtime.GOARCH == "arm":
			level, _, _ := strings.Cut(setting.Value, ",") // "6,softfloat"
			return "v" + level
		}
	}
	return ""
}

// architectures are the other names that images and users have for an architecture.
var architectures = map[string]Platform{
	"x86_64":  {Architecture: "amd64"},
	"x86-64":  {Architecture: "amd64"},
	"i386":    {Architecture: "386"},
	"aarch64": {Architecture: "arm64"},
	"armhf":   {Architecture: "arm", Variant: "v7"},
	"armel":   {Architecture: "arm", Variant: "v6"},
}

// baseVariant is the variant that an entry without one is taken for.
var baseVariant = map[string]string{"amd64": "v1", "arm64": "v8", "arm": "v7"}

// Normalize returns p in the form that platforms are compared in: lower case, one
// name an architecture, "v7" for "7", no variant where it is the architecture's
// first (amd64 v1, arm64 v8), v7 for an arm that states none.
func (p Platform) Normalize() Platform {
	p.OS = strings.ToLower(p.OS)
	p.Architecture = strings.ToLower(p.Architecture)
	p.Variant = strings.ToLower(p.Variant)
	if alias, found := architectures[p.Architecture]; found {
		p.Architecture = alias.Architecture
		if p.Variant == "" {
			p.Variant = alias.Variant
		}
	}
	if p.Variant != "" && p.Variant[0] >= '0' && p.Variant[0] <= '9' {
		p.Variant = "v" + p.Variant
	}
	base := baseVariant[p.Architecture]
	switch {
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = base
	case p.Architecture != "arm" && p.Variant == base:
		p.Variant = ""
	}
	return p
}

// String returns OS/ARCHITECTURE[/VARIANT].
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// check refuses a stranger's platform that could not be printed as it is.
func (p Platform) check() error {
	for _, part := range []string{p.OS, p.Architecture, p.Variant} {
		if part != "" && !isPlatformPart(strings.ToLower(part)) {
			return fmt.Errorf("%w: the platform part %s", container.ErrInvalid, quote(part))
		}
	}
	return nil
}
