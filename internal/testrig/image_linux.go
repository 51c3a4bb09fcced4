package testrig

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// imagePath is the PATH that the images' configurations set.
const imagePath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Skopeo runs skopeo and returns its standard output. It sees neither the
// user's credentials nor the host's list of mirrors nor what earlier runs
// learned.
func Skopeo(tb testing.TB, args ...string) string {
	tb.Helper()
	RequireTools(tb, "skopeo")
	args = append([]string{"skopeo", "--insecure-policy"}, args...)
	if os.Geteuid() == 0 {
		args = append([]string{"unshare", "--mount", "sh", "-c", hideBlobCache, "sh"}, args...)
	}
	return imageTool(tb).run(tb, args[0], args[1:]...)
}

// hideBlobCache runs a program in a mount namespace of its own where
// /var/lib/containers/cache is empty. Root's skopeo remembers there which blobs
// it has seen where, and has no option against it: asked for a zstd layer, it
// would take a gzip layer of the same content that another test has pushed.
const hideBlobCache = `cache=/var/lib/containers/cache
mkdir -p $cache && mount -t tmpfs tmpfs $cache && exec "$@"`

// imageTool is how skopeo, umoci and buildah are run: with temporary files of
// their own and without the configuration of the host.
func imageTool(tb testing.TB) tool {
	tb.Helper()
	dir := TempDir(tb)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			tb.Fatalf("write %s: %v", name, err)
		}
		return path
	}
	return tool{dir: dir, env: []string{
		"TMPDIR=" + dir,
		"XDG_DATA_HOME=" + dir, // where a user's skopeo remembers blobs
		"REGISTRY_AUTH_FILE=" + write("auth.json", "{}"),
		"CONTAINERS_REGISTRIES_CONF=" + write("registries.conf", ""),
		"CONTAINERS_CONF=" + write("containers.conf", ""),
		"CONTAINERS_STORAGE_CONF=" + write("storage.conf", "[storage]\ndriver = \"overlay\"\n"), // flags say otherwise
	}}
}

// BusyboxImage pushes an image of one layer, which umoci packed: the static
// busybox of the host with a hard link for each applet (as Docker's own busybox
// image has them), /etc/passwd with root and app (uid 1000), /etc/group, /tmp,
// and the empty directories that a container mounts over. It runs "sh".
//
// config holds further arguments for "umoci config", for instance
// "--config.user=app", "--config.entrypoint=/bin/echo", "--config.env=A=b".
func BusyboxImage(tb testing.TB, reg *RegistryServer, name string, config ...string) (ref string) {
	tb.Helper()
	RequireRoot(tb)
	RequireTools(tb, "umoci", "skopeo", "busybox")
	// umoci reads each of the 300 names when it packs them, which takes a
	// second: too long for something that every test wants.
	packed := cached(tb, "busybox", busyboxVersion(tb), func(dir string) { packBusybox(tb, dir) })
	layout := filepath.Join(TempDir(tb), "oci")
	if err := os.CopyFS(layout, os.DirFS(packed)); err != nil {
		tb.Fatalf("copy the image: %v", err)
	}
	image := layout + ":busybox"
	imageTool(tb).run(tb, "umoci", append([]string{"config", "--image", image,
		"--config.cmd=sh", "--config.env=" + imagePath}, config...)...)
	return reg.Push(tb, "oci:"+image, name)
}

// busyboxRecipe changes whenever populateBusybox does.
const busyboxRecipe = "2"

// busyboxVersion follows the recipe and the host's busybox.
func busyboxVersion(tb testing.TB) string {
	tb.Helper()
	digest, err := fileDigest(staticBusybox(tb))
	if err != nil {
		tb.Fatalf("read busybox: %v", err)
	}
	return busyboxRecipe + "-" + digest[:12]
}

func packBusybox(tb testing.TB, layout string) {
	tb.Helper()
	image, bundle := layout+":busybox", filepath.Join(TempDir(tb), "bundle")
	t := imageTool(tb)
	if err := os.Remove(layout); err != nil { // umoci makes it itself
		tb.Fatal(err)
	}
	t.run(tb, "umoci", "init", "--layout", layout)
	t.run(tb, "umoci", "new", "--image", image)
	t.run(tb, "umoci", "unpack", "--image", image, bundle)
	populateBusybox(tb, filepath.Join(bundle, "rootfs"))
	t.run(tb, "umoci", "repack", "--image", image, bundle)
}

// populateBusybox makes root a small system around busybox.
func populateBusybox(tb testing.TB, root string) {
	tb.Helper()
	w := writer{tb, root}
	w.dir(".", 0o755)
	for _, d := range []string{"bin", "dev", "etc", "home", "mnt", "mnt/mesos", "mnt/mesos/sandbox", "proc", "sys", "usr", "usr/bin", "var"} {
		w.dir(d, 0o755)
	}
	w.dir("root", 0o700)
	w.dir("tmp", 0o1777)
	w.dir("home/app", 0o750)
	w.own("home/app", 1000, 1000)
	w.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n")
	w.file("etc/group", 0o644, "root:x:0:\ntty:x:5:\napp:x:1000:\n")

	host := staticBusybox(tb)
	binary, err := os.ReadFile(host)
	if err != nil {
		tb.Fatalf("read busybox: %v", err)
	}
	w.file("bin/busybox", 0o755, string(binary))
	for applet := range strings.Lines(tool{}.run(tb, host, "--list")) {
		if applet = strings.TrimSpace(applet); applet != "busybox" {
			w.link("bin/busybox", "bin/"+applet)
		}
	}
	w.symlink("/bin/env", "usr/bin/env")
}

// staticBusybox finds the busybox that also runs in a root without libraries.
func staticBusybox(tb testing.TB) string {
	tb.Helper()
	path, err := toolPath("busybox")
	if err != nil {
		tb.Fatal(err)
	}
	f, err := elf.Open(path)
	if err != nil {
		tb.Fatalf("read busybox: %v", err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			tb.Fatalf("%s needs shared libraries: install busybox-static in its place", path)
		}
	}
	return path
}

// BigLayerImage pushes an image whose only layer is a gzip stream of about size
// bytes uncompressed, and takes little memory for it. The layer has eight files
// of equal size; every second one is random, the others compress to little.
func BigLayerImage(tb testing.TB, reg *RegistryServer, name string, size int64) (ref string) {
	tb.Helper()
	layer := writeBigLayer(tb, filepath.Join(TempDir(tb), "layer.tar.gz"), size)
	image, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer)
	if err == nil {
		image, err = mutate.Config(mutate.ConfigMediaType(image, types.OCIConfigJSON), v1.Config{Env: []string{imagePath}})
	}
	if err != nil {
		tb.Fatalf("make an image of the layer: %v", err)
	}
	return reg.pushImage(tb, image, name)
}

// pushImage pushes an image that no tool holds in a layout.
func (r *RegistryServer) pushImage(tb testing.TB, image v1.Image, to string) (ref string) {
	tb.Helper()
	to = withTag(to)
	target, err := name.ParseReference(r.direct+"/"+to, name.Insecure)
	if err != nil {
		tb.Fatalf("parse the reference: %v", err)
	}
	if err := remote.Write(target, image); err != nil {
		tb.Fatalf("push %s: %v", to, err)
	}
	return r.proxy + "/" + to
}

// bigLayer is a gzip file as a layer. Its digests were taken while the file was
// written: go-containerregistry would read it twice more to find them.
type bigLayer struct {
	path         string
	size         int64
	digest, diff v1.Hash
}

var _ partial.CompressedLayer = bigLayer{}

func (l bigLayer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l bigLayer) DiffID() (v1.Hash, error)            { return l.diff, nil }
func (l bigLayer) Size() (int64, error)                { return l.size, nil }
func (l bigLayer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (l bigLayer) Compressed() (io.ReadCloser, error)  { return os.Open(l.path) }

func writeBigLayer(tb testing.TB, path string, size int64) v1.Layer {
	tb.Helper()
	file, err := os.Create(path)
	if err != nil {
		tb.Fatalf("make the layer: %v", err)
	}
	defer file.Close()
	digest, diff := sha256.New(), sha256.New()
	buffered := bufio.NewWriterSize(file, 1<<20)
	zip, err := gzip.NewWriterLevel(io.MultiWriter(buffered, digest), gzip.BestSpeed)
	if err == nil {
		err = writeBigTar(io.MultiWriter(zip, diff), size)
	}
	if err == nil {
		err = zip.Close()
	}
	if err == nil {
		err = buffered.Flush()
	}
	if err != nil {
		tb.Fatalf("write the layer: %v", err)
	}
	info, err := file.Stat()
	if err != nil {
		tb.Fatalf("stat the layer: %v", err)
	}
	layer, err := partial.CompressedToLayer(bigLayer{path, info.Size(), hash(digest.Sum(nil)), hash(diff.Sum(nil))})
	if err != nil {
		tb.Fatalf("describe the layer: %v", err)
	}
	return layer
}

func hash(sum []byte) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum)}
}

func writeBigTar(out io.Writer, size int64) error {
	const files = 8
	random := rand.NewChaCha8([32]byte{})
	text := bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog.\n"), 1<<14)
	block := make([]byte, 1<<20)
	w := tar.NewWriter(out)
	for i := range files {
		left := size / files
		header := &tar.Header{Name: fmt.Sprintf("big%d", i), Mode: 0o644, Size: left, ModTime: time.Unix(1e9, 0)}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		for left > 0 {
			part := text[:min(int64(len(text)), left)]
			if i%2 == 1 {
				part = block[:min(int64(len(block)), left)]
				_, _ = random.Read(part) // never fails
			}
			if _, err := w.Write(part); err != nil {
				return err
			}
			left -= int64(len(part))
		}
	}
	return w.Close()
}
