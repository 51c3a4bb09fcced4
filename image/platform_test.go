package image

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/container"
)

func TestParsePlatform(t *testing.T) {
	for in, want := range map[string]string{
		"linux/amd64":      "linux/amd64",
		"linux/amd64/v1":   "linux/amd64",
		"linux/amd64/v3":   "linux/amd64/v3",
		"Linux/x86_64":     "linux/amd64",
		"linux/aarch64":    "linux/arm64",
		"linux/arm64/v8":   "linux/arm64",
		"linux/arm64/8":    "linux/arm64",
		"linux/arm64/v8.2": "linux/arm64/v8.2",
		"linux/arm":        "linux/arm/v7",
		"linux/arm/6":      "linux/arm/v6",
		"linux/armhf":      "linux/arm/v7",
		"linux/armel":      "linux/arm/v6",
		"linux/i386":       "linux/386",
		"windows/amd64":    "windows/amd64",
		"linux/riscv64":    "linux/riscv64",
	} {
		p, err := ParsePlatform(in)
		if err != nil || p.String() != want {
			t.Errorf("ParsePlatform(%q) = %s, %v; want %s", in, p, err, want)
		}
	}
}

func TestParsePlatformRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"empty":                  "",
		"architecture alone":     "amd64",
		"empty system":           "/amd64",
		"empty variant":          "linux/arm/",
		"four parts":             "linux/arm/v7/x",
		"path traversal":         "../../etc",
		"control character":      "linux/am\nd64",
		"that of an attestation": "unknown/unknown",
		"64 KiB":                 "linux/" + strings.Repeat("a", 1<<16),
	} {
		t.Run(name, func(t *testing.T) {
			if p, err := ParsePlatform(in); !errors.Is(err, container.ErrInvalid) {
				t.Fatalf("ParsePlatform(%q) = %v, %v; want ErrInvalid", in, p, err)
			}
		})
	}
}

func FuzzParsePlatform(f *testing.F) {
	for _, seed := range []string{"linux/amd64", "linux/arm/7", "LINUX/ARMHF/v6", "linux/arm64/v8.2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePlatform(s)
		if err != nil {
			return
		}
		again, err := ParsePlatform(p.String())
		if err != nil || !cmp.Equal(p, again) {
			t.Fatalf("%q is %s, and that %s, %v", s, p, again, err)
		}
	})
}

func TestHostPlatform(t *testing.T) {
	p := HostPlatform()
	if p.OS != runtime.GOOS || p.Architecture != runtime.GOARCH {
		t.Fatalf("HostPlatform = %s", p)
	}
	if !p.Accepts(Platform{OS: p.OS, Architecture: p.Architecture}) && p.Architecture != "arm" {
		t.Fatalf("%s does not accept a plain entry", p)
	}
}

// entry is an entry of an index for the platform; "-" is one without a platform.
func entry(platform string) Descriptor {
	d := Descriptor{MediaType: MediaTypeOCIManifest, Digest: DigestOf([]byte(platform)), Size: 1}
	if platform == "-" {
		return d
	}
	parts := append(strings.Split(platform, "/"), "")
	d.Platform = &Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
	return d
}

func entries(platforms string) []Descriptor {
	var list []Descriptor
	for _, platform := range strings.Fields(platforms) {
		list = append(list, entry(platform))
	}
	return list
}

func TestChoose(t *testing.T) {
	for name, c := range map[string]struct{ want, offered, chosen string }{
		"the only one":                     {"linux/amd64", "linux/amd64", "linux/amd64"},
		"among architectures":              {"linux/arm64", "linux/amd64 linux/arm64/v8 linux/arm/v7", "linux/arm64/v8"},
		"arm v7 prefers v7":                {"linux/arm/v7", "linux/arm/v5 linux/arm/v6 linux/arm/v7 linux/arm/v8", "linux/arm/v7"},
		"arm v7 then v6":                   {"linux/arm/v7", "linux/arm/v5 linux/arm/v6 linux/arm/v8", "linux/arm/v6"},
		"arm v7 then v5":                   {"linux/arm/v7", "linux/arm/v5 linux/arm/v8", "linux/arm/v5"},
		"arm without a variant is v7":      {"linux/arm/v7", "linux/arm linux/arm/v6", "linux/arm"},
		"arm64 v8 is none":                 {"linux/arm64", "linux/arm64/v8 linux/arm64/v9", "linux/arm64/v8"},
		"arm64 v9 prefers v9":              {"linux/arm64/v9", "linux/arm64 linux/arm64/v8.2 linux/arm64/v9", "linux/arm64/v9"},
		"arm64 v9 then v8.2":               {"linux/arm64/v9", "linux/arm64 linux/arm64/v8.2", "linux/arm64/v8.2"},
		"plain amd64 never takes v3":       {"linux/amd64", "linux/amd64/v3 linux/amd64", "linux/amd64"},
		"amd64 v3 prefers v3":              {"linux/amd64/v3", "linux/amd64 linux/amd64/v2 linux/amd64/v3 linux/amd64/v4", "linux/amd64/v3"},
		"amd64 v3 then plain":              {"linux/amd64/v3", "linux/amd64 linux/amd64/v4", "linux/amd64"},
		"other names of the architecture":  {"linux/amd64", "linux/x86_64 linux/aarch64", "linux/x86_64"},
		"attestations beside it":           {"linux/amd64", "unknown/unknown linux/amd64", "linux/amd64"},
		"no platform comes last":           {"linux/amd64", "- linux/amd64", "linux/amd64"},
		"no platform is better than none":  {"linux/amd64", "linux/arm64 -", "-"},
		"a strange variant, asked for":     {"linux/amd64/odd", "linux/amd64/odd linux/amd64", "linux/amd64/odd"},
		"a strange variant, not there":     {"linux/amd64/odd", "linux/amd64/v2 linux/amd64", "linux/amd64"},
		"a strange variant, not asked for": {"linux/amd64", "linux/amd64/odd linux/amd64", "linux/amd64"},
	} {
		t.Run(name, func(t *testing.T) {
			want, err := ParsePlatform(c.want)
			if err != nil {
				t.Fatal(err)
			}
			offered := entries(c.offered)
			for range 20 { // moby#37647: the choice depended on the order
				rand.Shuffle(len(offered), func(i, j int) { offered[i], offered[j] = offered[j], offered[i] })
				d, err := Choose(want, offered)
				if err != nil || d.Digest != entry(c.chosen).Digest {
					t.Fatalf("Choose = %v, %v; want %s", d.Platform, err, c.chosen)
				}
			}
		})
	}
}

func TestChooseTakesTheFirstOfEquals(t *testing.T) {
	first, second := entry("linux/amd64"), entry("linux/amd64")
	second.Digest = digestB // for example the same image, compressed with zstd
	d, err := Choose(Platform{OS: "linux", Architecture: "amd64"}, []Descriptor{first, second})
	if err != nil || d.Digest != first.Digest {
		t.Fatalf("Choose = %v, %v", d, err)
	}
}

func TestChooseRefuses(t *testing.T) {
	disguised := entry("linux/amd64")
	disguised.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	artifact := entry("linux/amd64")
	artifact.MediaType = "application/vnd.example.sbom"
	needsFeature := entry("linux/amd64")
	needsFeature.Platform.OSFeatures = []string{"win32k"}
	for name, c := range map[string]struct {
		offered []Descriptor
		says    string
	}{
		"empty index":                       {nil, "offers no image"},
		"only attestations":                 {entries("unknown/unknown"), "offers no image"},
		"attestation with a real platform":  {[]Descriptor{disguised}, "offers no image"},
		"not a manifest":                    {[]Descriptor{artifact}, "offers no image"},
		"other architectures":               {entries("linux/arm64 linux/s390x"), "linux/arm64, linux/s390x"},
		"other system":                      {entries("windows/amd64"), "windows/amd64"},
		"a feature that the host lacks":     {[]Descriptor{needsFeature}, "linux/amd64"},
		"only a variant that would crash":   {entries("linux/amd64/v4"), "linux/amd64/v4"},
		"ten thousand, to flood the screen": {manyPlatforms(10000), "and 9980 more"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Choose(Platform{OS: "linux", Architecture: "amd64"}, c.offered)
			if !errors.Is(err, container.ErrNotFound) {
				t.Fatalf("Choose = %v, %v; want ErrNotFound", d, err)
			}
			if !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "linux/amd64") || len(err.Error()) > 1000 {
				t.Errorf("the error is %q", err)
			}
		})
	}
}

func manyPlatforms(count int) []Descriptor {
	var list []Descriptor
	for i := range count {
		list = append(list, entry(fmt.Sprintf("linux/cpu%d", i)))
	}
	return list
}
