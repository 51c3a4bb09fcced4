//go:build linux

package e2e

import (
	"encoding/json"
	"testing"

	"berth/internal/testrig"
)

// linksOfTheLayer excuses a number that overlayfs takes from the layer below.
var linksOfTheLayer = testrig.Exception{
	Field:  testrig.Links,
	Path:   func(path string) bool { return path == "links/pair2" },
	Reason: "an upper layer removes one of two links: overlayfs still counts it, as the layer does",
}

// TestTreeEqualsThatOfOtherTools compares what berth provisions with what skopeo and
// umoci make of the same image, entry by entry.
func TestTreeEqualsThatOfOtherTools(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	images := map[string]string{
		"debian with python3 and perl":    testrig.DebianImage(t, reg, "debian:1"),
		"everything that layers can hold": testrig.MultiLayerImage(t, reg, "layers:1"),
	}
	for name, image := range images {
		t.Run(name, func(t *testing.T) {
			want := testrig.SkopeoUmoci(t, image, testrig.TempDir(t))
			for _, backend := range []string{"erofs", "overlay", "copy"} {
				t.Run(backend, func(t *testing.T) {
					b := testrig.Berth(t)
					r := b.Run("provision", "--id", "tree", "--image_provisioner_backend="+backend, image)
					expect(t, r, 0)
					var made struct{ Rootfs string }
					if err := json.Unmarshal([]byte(r.Stdout), &made); err != nil {
						t.Fatal(err)
					}
					except := []testrig.Exception{testrig.UnnamedRoot}
					if backend != "copy" {
						except = append(except, linksOfTheLayer)
					}
					testrig.CompareTrees(t, want, made.Rootfs, except...)
					expect(t, b.Run("destroy", "tree"), 0)
					expect(t, b.Run("check"), 0)
				})
			}
		})
	}
}
