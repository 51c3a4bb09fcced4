package testrig

import (
	"path/filepath"
	"testing"
)

// SkopeoUmoci is the oracle: it copies the image with skopeo and unpacks it
// with umoci below dir, and returns the path of the root filesystem.
func SkopeoUmoci(tb testing.TB, ref, dir string) (rootfs string) {
	tb.Helper()
	RequireRoot(tb)
	RequireTools(tb, "skopeo", "umoci")
	image := filepath.Join(dir, "oci") + ":image"
	bundle := filepath.Join(dir, "bundle")
	Skopeo(tb, "copy", "--quiet", "--src-tls-verify=false", "docker://"+ref, "oci:"+image)
	t := imageTool(tb)
	t.run(tb, "umoci", "unpack", "--image", image, bundle)
	return filepath.Join(bundle, "rootfs")
}

// UnnamedRoot excuses the root directory's own time. buildah, like Docker,
// writes no tar entry for the root; umoci then gives it the time 0 (and root's
// 0755), and another program may leave what mkdir gave. It is the only
// exception for umoci: in all other respects, the times of directories that
// later layers changed included, umoci makes what the layers say. The tests of
// this package prove that against a model of the specification.
var UnnamedRoot = Exception{
	Field:  MTime,
	Path:   func(path string) bool { return path == "." },
	Reason: "no layer has an entry for the root directory",
}
