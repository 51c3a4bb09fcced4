package testrig

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// buildah builds an image layer by layer in a storage of its own. Each layer is
// made by changing the mounted root filesystem from outside: unlike "buildah
// run" that needs no OCI runtime and no network.
type buildah struct {
	tb    testing.TB
	tool  tool
	flags []string
	from  string // the image so far
	count int
}

func newBuildah(tb testing.TB) *buildah {
	tb.Helper()
	RequireRoot(tb)
	RequireTools(tb, "buildah", "skopeo")
	dir := TempDir(tb)
	return &buildah{tb: tb, tool: imageTool(tb), from: "scratch", flags: []string{
		"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"),
		"--storage-driver", storageDriver(tb, dir),
	}}
}

// storageDriver is overlay (it alone writes opaque directories), or vfs where
// the temporary directory is itself on an overlay, as in a container.
func storageDriver(tb testing.TB, dir string) string {
	tb.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		tb.Fatalf("statfs %s: %v", dir, err)
	}
	if fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "vfs"
	}
	return "overlay"
}

func (b *buildah) run(command string, args ...string) string {
	b.tb.Helper()
	out := b.tool.run(b.tb, "buildah", append(append([]string{command}, b.flags...), args...)...)
	return strings.TrimSpace(out)
}

// layer adds one layer: what change does to the root filesystem below root.
// config goes to "buildah config", for instance "--cmd=sh".
func (b *buildah) layer(change func(root string), config ...string) {
	b.tb.Helper()
	container := b.run("from", "--pull-never", b.from)
	change(b.run("mount", container))
	if len(config) > 0 {
		b.run("config", append(config, container)...)
	}
	b.count++
	b.from = "localhost/layer" + strconv.Itoa(b.count)
	b.run("commit", "--quiet", "--format=oci", container, b.from)
	b.run("umount", container)
}

// save writes the image as an OCI layout with gzip layers.
func (b *buildah) save(dir, tag string) {
	b.tb.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.tb.Fatalf("make the layout: %v", err)
	}
	b.run("push", "--quiet", "--format=oci", "--compression-format=gzip", b.from, "oci:"+dir+":"+tag)
}
