package image

import (
	"errors"
	"strings"
	"testing"

	"berth/container"
)

func FuzzMediaTypes(f *testing.F) {
	for _, seed := range append(ManifestTypes(), "", "application/json; charset=utf-8", "text/html", "application/vnd.docker.distribution.manifest.v1+prettyjws",
		"application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", ";", "a/b;=", strings.Repeat("x/", 5000)) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, layerErr := ParseLayerType(s)
		known, err := ManifestType(s)
		for _, err := range []error{err, layerErr} {
			if err != nil && (len(err.Error()) > 1000 || !errors.Is(err, container.ErrInvalid) && !errors.Is(err, container.ErrNotSupported)) {
				t.Errorf("%q: %.300v", s, err)
			}
		}
		if err == nil && known != "" {
			if again, err := ManifestType(known); err != nil || again != known {
				t.Errorf("%q is %q, and that %q, %v", s, known, again, err)
			}
		}
	})
}
