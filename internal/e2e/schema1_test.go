//go:build linux

package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/internal/testrig"
)

// What docker-registry serves in the format before 2016 is the image that skopeo makes of it.
func TestSchema1(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	now := testrig.MultiLayerImage(t, reg, "multi:1")
	_, diffIDs := inspected(t, "docker://"+now)
	old := reg.Push(t, "docker://"+strings.Replace(now, reg.Host(), reg.Direct(), 1), "old/multi:1", "--src-tls-verify=false", "--format=v2s1")
	converted := filepath.Join(testrig.TempDir(t), "image")
	testrig.Skopeo(t, "copy", "--quiet", "--src-tls-verify=false", "--format=v2s2", "docker://"+old, "dir:"+converted)
	id, sameDiffIDs := inspected(t, "dir:"+converted)
	if !slices.Equal(diffIDs, sameDiffIDs) {
		t.Fatalf("skopeo made %s of %s", sameDiffIDs, diffIDs)
	}

	b := testrig.Berth(t)
	r := b.Run("pull", old)
	expect(t, r, 0, "warning", "schema 1")
	if r.Stdout != id+"\n" {
		t.Errorf("the image is %s, want %s", r.Stdout, id)
	}
	expect(t, b.Run("run", old, "--", "sh", "-c", "exit 7"), 7)
	expect(t, b.Run("check"), 0)
	flip(t, b, "umoci/opaque/inner/new")
	expect(t, b.Run("check"), 1)
	expect(t, b.Run("repair"), 0)
	expect(t, b.Run("check"), 0)

	// By the digest that the registry states, and once more, which fetches no layer.
	pinned := strings.TrimSuffix(old, ":1") + "@" + digest([]byte(record(t, b, old).Manifest))
	before := len(reg.AccessLog())
	r = b.Run("pull", pinned)
	expect(t, r, 0)
	if r.Stdout != id+"\n" {
		t.Errorf("the image is %s, want %s", r.Stdout, id)
	}
	for _, line := range reg.AccessLog()[before:] {
		if strings.HasPrefix(line, "GET ") && strings.Contains(line, "/blobs/") {
			t.Errorf("asked for %s", line)
		}
	}

	// Run without a pull before it warns, too.
	fresh := testrig.Berth(t)
	expect(t, fresh.Run("run", old, "--", "true"), 0, "warning", "schema 1")

	file := filepath.Join(testrig.TempDir(t), "saved.tar")
	expect(t, b.Run("save", "-o", file, old), 0)
	loader := testrig.Berth(t)
	r = loader.Run("load", "-i", file)
	expect(t, r, 0)
	if r.Stdout != old+" "+id+"\n" {
		t.Errorf("loaded %q", r.Stdout)
	}
	expect(t, b.Run("save", "-o", file, pinned), 0)
	expect(t, testrig.Berth(t).Run("load", "-i", file), 125, "schema 1")
}
