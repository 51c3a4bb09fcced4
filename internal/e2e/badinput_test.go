//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"berth/internal/testrig"
)

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// fakeRegistry serves documents and blobs as they are given, right or wrong.
type fakeRegistry struct {
	*httptest.Server

	mu        sync.Mutex
	blobs     map[string]http.HandlerFunc // by digest
	manifests map[string]http.HandlerFunc // by tag or digest
}

func (r *fakeRegistry) setBlob(digest string, handler http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[digest] = handler
}

func (r *fakeRegistry) setManifest(tag string, handler http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifests[tag] = handler
}

// handler returns what answers for /v2/bad/KIND/NAME, or nil.
func (r *fakeRegistry) handler(path string) http.HandlerFunc {
	r.mu.Lock()
	defer r.mu.Unlock()
	serve := map[string]map[string]http.HandlerFunc{"blobs": r.blobs, "manifests": r.manifests}
	parts := strings.Split(strings.TrimPrefix(path, "/v2/"), "/")
	if len(parts) != 3 {
		return func(http.ResponseWriter, *http.Request) {}
	}
	return serve[parts[1]][parts[2]]
}

func newFakeRegistry(t *testing.T) *fakeRegistry {
	r := &fakeRegistry{blobs: map[string]http.HandlerFunc{}, manifests: map[string]http.HandlerFunc{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if handler := r.handler(req.URL.Path); handler != nil {
			handler(w, req)
			return
		}
		http.NotFound(w, req)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *fakeRegistry) image(tag string) string {
	return strings.TrimPrefix(r.URL, "http://") + "/bad:" + tag
}

func content(mediaType string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		w.Write(body)
	}
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// publish makes an image of one layer under tag and returns the layer's digest.
func (r *fakeRegistry) publish(t *testing.T, tag string, blob []byte) string {
	t.Helper()
	plain := blob
	if z, err := gzip.NewReader(bytes.NewReader(blob)); err == nil {
		// A stream that is cut off has no whole content, and needs no right digest.
		plain, _ = io.ReadAll(io.LimitReader(z, 64<<20))
	}
	config := marshal(t, map[string]any{"os": "linux", "architecture": "amd64",
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(plain)}}})
	describe := func(mediaType string, b []byte) map[string]any {
		return map[string]any{"mediaType": mediaType, "digest": digest(b), "size": len(b)}
	}
	manifest := marshal(t, map[string]any{"schemaVersion": 2, "mediaType": manifestType,
		"config": describe(configType, config), "layers": []any{describe(layerType, blob)}})
	r.setBlob(digest(config), content(configType, config))
	r.setBlob(digest(blob), content("application/octet-stream", blob))
	r.setManifest(tag, content(manifestType, manifest))
	return digest(blob)
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func archive(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, hdr := range entries {
		if hdr.Mode == 0 {
			hdr.Mode = 0o755
		}
		if err := w.WriteHeader(&hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeros{}, hdr.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func compress(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// bomb is a gzip stream of a tar with a file of zeros of the given size, a multiple of
// 64 MiB: one piece of it, compressed once, over and over.
func bomb(t *testing.T, size int64) []byte {
	t.Helper()
	var header bytes.Buffer
	if err := tar.NewWriter(&header).WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: size}); err != nil {
		t.Fatal(err)
	}
	const piece = 64 << 20
	member := compress(t, make([]byte, piece))
	return append(compress(t, header.Bytes()), bytes.Repeat(member, int(size/piece))...)
}

// hugePAX is a tar that begins with 64 MiB of extended header, which archive/tar would
// not write.
func hugePAX(t *testing.T) []byte {
	t.Helper()
	b := archive(t, tar.Header{Name: "PaxHeaders/f", Typeflag: tar.TypeReg, Size: 64 << 20})
	const typeflag, checksum = 156, 148
	copy(b[checksum:], fmt.Sprintf("%06o\x00 ", sum(b[:512])-'0'+'x'))
	b[typeflag] = 'x'
	return b
}

// sum is the checksum of a tar header, whose own field counts as blanks.
func sum(header []byte) (sum int) {
	for i, c := range header {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int(c)
	}
	return sum
}

// TestHostileLayers: whatever a layer holds, berth says what is wrong with it, exits
// with 125 and leaves nothing behind, in its directories or on the host.
func TestHostileLayers(t *testing.T) {
	testrig.RequireRoot(t)
	canary := filepath.Join(testrig.TempDir(t), "canary")
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 3} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	device := func(major, minor int64) tar.Header {
		return tar.Header{Name: "node", Typeflag: tar.TypeChar, Devmajor: major, Devminor: minor}
	}
	whole := archive(t, dir("etc/"), file("etc/file"))
	tests := []struct {
		name  string
		layer []byte
		words []string
	}{
		{"not a tar", []byte(strings.Repeat("this is no tar archive\n", 100)), []string{"not a tar"}},
		{"dot dot", archive(t, file("../../../../../.."+canary)), []string{`".."`}},
		{"dot dot inside", archive(t, dir("a/"), file("a/../b")), []string{`".."`, "a/../b"}},
		{"absolute name", archive(t, file(canary)), []string{"absolute"}},
		{"file through a symbolic link", archive(t, link("out", filepath.Dir(canary)), file("out/canary")), []string{"symbolic link", "out"}},
		{"file through a relative link", archive(t, dir("real/"), link("alias", "real"), file("alias/file")), []string{"symbolic link"}},
		{"hard link to outside", archive(t, hard("passwd", "../../../etc/passwd")), []string{`".."`}},
		{"hard link to an absolute name", archive(t, hard("passwd", "/etc/passwd")), []string{"hard link", "absolute"}},
		{"hard link through a symbolic link", archive(t, link("etc", "/etc"), hard("passwd", "etc/passwd")), []string{"hard link", "does not have"}},
		{"hard link to nothing", archive(t, hard("a", "b")), []string{"hard link", "does not have"}},
		{"two files of one name", archive(t, file("a"), file("a")), []string{"same name"}},
		{"a file where a directory is", archive(t, dir("a/"), file("a")), []string{"same name"}},
		{"device 0:0", archive(t, device(0, 0)), []string{"0:0"}},
		{"device out of range", archive(t, device(1<<20, 1)), []string{"out of range"}},
		{"10 000 directories deep", archive(t, file(strings.Repeat("d/", 10_000)+"f")), []string{"bytes"}},
		{"a name too long", archive(t, file(strings.Repeat("n", 300))), []string{"255"}},
		{"huge PAX header", hugePAX(t), []string{"header field too long"}},
		{"gzip bomb", bomb(t, 3<<30), []string{"bomb"}},
		{"gzip stream cut off", compress(t, whole)[:60], []string{"gzip"}},
		{"tar cut off", archive(t, tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: 4096})[:1024], []string{"unexpected EOF"}},
		{"the root is a link", archive(t, link("./", "/etc")), []string{"root of the layer"}},
		{"whiteout of dot dot", archive(t, tar.Header{Name: ".wh...", Typeflag: tar.TypeReg}), []string{"whiteout"}},
	}
	reg := newFakeRegistry(t)
	b := testrig.Berth(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tag := strings.ReplaceAll(test.name, " ", "-")
			tag = strings.ReplaceAll(tag, ":", "-")
			layer := reg.publish(t, tag, test.layer)
			r := b.Run("run", reg.image(tag), "--", "true")
			expect(t, r, 125, append(test.words, "berth: pull "+reg.image(tag), "layer "+layer)...)
			wantNothing(t, b)
			if _, err := os.Lstat(canary); err == nil {
				t.Error("the canary outside of the layer was written")
			}
		})
	}
	t.Run("attributes of overlayfs are dropped", func(t *testing.T) {
		layer := archive(t, tar.Header{Name: "hidden/", Typeflag: tar.TypeDir, Format: tar.FormatPAX, PAXRecords: map[string]string{
			"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.user.kept": "yes"}})
		reg.publish(t, "attributes", layer)
		expect(t, b.Run("pull", "--image_provisioner_backend=overlay", reg.image("attributes")), 0)
		found, err := filepath.Glob(b.WorkDir + "/store/layers/*/tree/fs/hidden")
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		entries, err := testrig.Manifest(found[0])
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(entries[0].Xattrs); !strings.Contains(got, "user.kept") || strings.Contains(got, "overlay") {
			t.Errorf("attributes %s", got)
		}
	})
}

// wantNothing fails the test unless berth's store is as it was made.
func wantNothing(t *testing.T, b *testrig.Command) {
	t.Helper()
	left := leftBy(t, b)
	for _, pattern := range []string{"/store/layers/*", "/store/docker/images/*"} {
		found, err := filepath.Glob(b.WorkDir + pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestLyingRegistries: nothing that a registry says is believed.
func TestLyingRegistries(t *testing.T) {
	testrig.RequireRoot(t)
	reg := newFakeRegistry(t)
	b := testrig.Berth(t)
	whole := archive(t, tar.Header{Name: "file", Typeflag: tar.TypeReg, Size: 100_000})
	good := func(tag string) string { return reg.publish(t, tag, whole) }
	tests := []struct {
		name  string
		set   func(tag string)
		words []string
	}{
		{"unknown tag", func(string) {}, []string{"not found", "check the name and the tag"}},
		{"credentials wanted", func(tag string) {
			reg.setManifest(tag, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
				w.WriteHeader(http.StatusUnauthorized)
			})
		}, []string{"access denied", "config.json"}},
		{"wrong bytes", func(tag string) {
			wrong := bytes.Clone(whole)
			wrong[600] ^= 1
			reg.setBlob(good(tag), content("", wrong))
		}, []string{"invalid", "digest"}},
		{"truncated body", func(tag string) {
			reg.setBlob(good(tag), func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(len(whole)))
				w.Write(whole[:len(whole)/2])
			})
		}, []string{"unavailable"}},
		{"too few bytes", func(tag string) { reg.setBlob(good(tag), content("", whole[:len(whole)/2])) }, []string{digest(whole)}},
		{"endless body", func(tag string) {
			reg.setBlob(good(tag), func(w http.ResponseWriter, _ *http.Request) {
				w.Write(whole)
				io.Copy(w, zeros{})
			})
		}, []string{"invalid"}},
		{"redirect loop", func(tag string) {
			reg.setBlob(good(tag), func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) })
		}, []string{"redirect"}},
		{"server error", func(tag string) {
			reg.setManifest(tag, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
		}, []string{"unavailable", "500"}},
		{"a page where a manifest should be", func(tag string) { reg.setManifest(tag, content("text/html", []byte("<html>"))) }, []string{"HTML page"}},
		{"manifest and index at once", func(tag string) {
			reg.setManifest(tag, content(manifestType, marshal(t, map[string]any{"schemaVersion": 2, "config": map[string]any{}, "layers": []any{}, "manifests": []any{}})))
		}, []string{"manifests", "index"}},
		{"index without this platform", func(tag string) {
			reg.setManifest(tag, content(indexType, marshal(t, map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []any{
				map[string]any{"mediaType": manifestType, "digest": digest(whole), "size": 1, "platform": map[string]any{"os": "plan9", "architecture": "mips"}}}})))
		}, []string{"plan9/mips", "linux/"}},
		{"wrong content", func(tag string) {
			reg.publish(t, tag, whole)
			config := marshal(t, map[string]any{"os": "linux", "architecture": "amd64",
				"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest([]byte("another"))}}})
			reg.setBlob(digest(config), content("", config))
			reg.setManifest(tag, content(manifestType, marshal(t, map[string]any{"schemaVersion": 2,
				"config": map[string]any{"mediaType": configType, "digest": digest(config), "size": len(config)},
				"layers": []any{map[string]any{"mediaType": layerType, "digest": digest(whole), "size": len(whole)}}})))
		}, []string{digest([]byte("another")), digest(whole)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tag := strings.ReplaceAll(test.name, " ", "-")
			test.set(tag)
			r := b.Run("run", reg.image(tag), "--", "true")
			expect(t, r, 125, append(test.words, reg.image(tag))...)
			wantNothing(t, b)
		})
	}
	t.Run("unreachable", func(t *testing.T) {
		closed := httptest.NewServer(http.NotFoundHandler())
		closed.Close()
		r := b.Run("run", strings.TrimPrefix(closed.URL, "http://")+"/image:1", "--", "true")
		expect(t, r, 125, "unavailable", "connection refused", "does a registry listen there")
		wantNothing(t, b)
	})
}

// TestOddManifests: what the specifications do not exclude works, or is refused by name.
func TestOddManifests(t *testing.T) {
	testrig.RequireRoot(t)
	reg := newFakeRegistry(t)
	one := archive(t, tar.Header{Name: "dir/", Typeflag: tar.TypeDir}, tar.Header{Name: "dir/one", Typeflag: tar.TypeReg, Size: 7})
	other := archive(t, tar.Header{Name: "dir/", Typeflag: tar.TypeDir}, tar.Header{Name: "dir/other", Typeflag: tar.TypeReg, Size: 8})
	// image publishes an image of these layers whose configuration names these diffIDs.
	image := func(tag string, layers, diffIDs [][]byte) {
		ids, descriptors := []string{}, []any{}
		for _, l := range diffIDs {
			ids = append(ids, digest(l))
		}
		for _, l := range layers {
			reg.setBlob(digest(l), content("", l))
			descriptors = append(descriptors, map[string]any{"mediaType": layerType, "digest": digest(l), "size": len(l)})
		}
		config := marshal(t, map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
		reg.setBlob(digest(config), content(configType, config))
		reg.setManifest(tag, content(manifestType, marshal(t, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "layers": descriptors,
			"config": map[string]any{"mediaType": configType, "digest": digest(config), "size": len(config)}})))
	}
	layers := func(l ...[]byte) [][]byte { return l }
	image("twice", layers(one, other, one), layers(one, other, one))
	image("none", nil, nil)
	image("fewer-ids", layers(one, other), layers(one))
	image("more-ids", layers(one), layers(one, other))
	image("other-order", layers(one, other), layers(other, one))
	// Indexes of indexes, five of them.
	endless := marshal(t, map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []any{
		map[string]any{"mediaType": indexType, "digest": digest(one), "size": 1}}})
	for range 5 {
		reg.setManifest(digest(endless), content(indexType, endless))
		reg.setManifest("nested", content(indexType, endless))
		endless = marshal(t, map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []any{
			map[string]any{"mediaType": indexType, "digest": digest(endless), "size": len(endless)}}})
	}
	b := testrig.Berth(t)
	for _, test := range []struct {
		tag   string
		words []string
	}{
		{"none", []string{"no layers"}},
		{"fewer-ids", []string{"invalid", "2 layers"}},
		{"more-ids", []string{"invalid", "1 layer"}},
		{"other-order", []string{digest(one), digest(other)}},
		{"nested", []string{"nested more than 3 deep"}},
	} {
		t.Run(test.tag, func(t *testing.T) { expect(t, b.Run("run", reg.image(test.tag), "--", "true"), 125, test.words...) })
	}
	r := b.Run("provision", "--id", "twice", reg.image("twice"))
	expect(t, r, 0)
	var made struct{ Rootfs string }
	if err := json.Unmarshal([]byte(r.Stdout), &made); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dir/one", "dir/other"} {
		if _, err := os.Stat(filepath.Join(made.Rootfs, name)); err != nil {
			t.Error(err)
		}
	}
	expect(t, b.Run("destroy", "twice"), 0)
}

func TestArchiveCutInHalf(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	dir := testrig.TempDir(t)
	saved := filepath.Join(dir, "saved.tar")
	testrig.Skopeo(t, "copy", "--src-tls-verify=false", "docker://"+image, "docker-archive:"+saved+":a/b:1")
	info, err := os.Stat(saved)
	if err != nil {
		t.Fatal(err)
	}
	b := testrig.Berth(t)
	if err := os.Truncate(saved, info.Size()/2); err != nil {
		t.Fatal(err)
	}
	expect(t, b.Run("run", "docker-archive:"+saved, "true"), 125, saved, "cut off")
	wantNothing(t, b)
	expect(t, b.Run("run", "docker-archive:"+dir+"/none.tar", "true"), 125, "none.tar", "not found")
}

func TestDiskFull(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BigLayerImage(t, reg, "big:1", 100<<20)
	b := testrig.Berth(t)
	b.WorkDir = filepath.Join(testrig.LoopFS(t, "ext4", 32), "work")
	r := b.Run("run", image, "--", "true")
	expect(t, r, 125, "no space left on device", "berth rmi")
	wantNothing(t, b)
}

// TestWorkDirOnOverlay: a container in a container has its files on an overlay, which
// cannot hold the upper directory of another one.
func TestWorkDirOnOverlay(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	base := testrig.TempDir(t)
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", base)
	if out, err := exec.Command("mount", "-t", "overlay", "overlay", "-o", options, base+"/merged").CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	b := testrig.Berth(t)
	b.WorkDir = filepath.Join(base, "merged/work")
	r := b.Run("run", "--image_provisioner_backend=overlay", image, "--", "true")
	if r.ExitCode != 0 { // some kernels can
		expect(t, r, 125, "overlay", "--image_provisioner_backend=copy")
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	// Unasked, berth takes what works.
	expect(t, b.Run("run", image, "--", "sh", "-c", "exit 7"), 7)
}

func TestNotRoot(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	program := filepath.Join(testrig.TempDir(t), "berth")
	data, err := os.ReadFile(b.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Dir(program), filepath.Dir(b.WorkDir)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(program, data, 0o755); err != nil {
		t.Fatal(err)
	}
	expect(t, b.Run("images"), 0) // makes the directories
	for name, dirs := range map[string][]string{
		"directories of root's": {"BERTH_WORK_DIR=" + b.WorkDir, "BERTH_RUNTIME_DIR=" + b.RuntimeDir},
		"none yet":              {"BERTH_WORK_DIR=/var/lib/berth-none", "BERTH_RUNTIME_DIR=/run/berth-none"},
	} {
		t.Run(name, func(t *testing.T) {
			run := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "run", "image")
			run.Env = append(os.Environ(), dirs...)
			out, err := run.CombinedOutput()
			if code := run.ProcessState.ExitCode(); code != 125 || !strings.Contains(string(out), "needs root") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
