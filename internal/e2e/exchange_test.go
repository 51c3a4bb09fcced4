//go:build linux

package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/internal/testrig"
)

// inspected is what skopeo says of an image's configuration.
func inspected(t *testing.T, name string) (id string, diffIDs []string) {
	t.Helper()
	raw := testrig.Skopeo(t, "inspect", "--raw", "--config", "--tls-verify=false", name)
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal([]byte(raw), &config); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return digest([]byte(raw)), config.RootFS.DiffIDs
}

// podman runs podman with a storage of its own.
func podman(t *testing.T, storage string, args ...string) string {
	t.Helper()
	own := []string{"--root", storage + "/root", "--runroot", storage + "/run", "--storage-driver", "vfs"}
	cmd := exec.CommandContext(t.Context(), "podman", append(own, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Env = append(os.Environ(), "TMPDIR="+storage)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("podman %q: %v: %s", args, err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// record is what the store has of an image.
func record(t *testing.T, b *testrig.Command, reference string) (rec struct{ Manifest, Config string }) {
	t.Helper()
	paths, err := filepath.Glob(b.WorkDir + "/store/docker/images/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), fmt.Sprintf("%q", reference)) {
			if err := json.Unmarshal(data, &rec); err != nil {
				t.Fatal(err)
			}
			return rec
		}
	}
	t.Fatalf("no record of %s", reference)
	return rec
}

func TestSavedImagesAreWhatTheyWere(t *testing.T) {
	testrig.RequireRoot(t)
	testrig.RequireTools(t, "podman", "skopeo")
	reg := testrig.Registry(t)
	image := testrig.MultiLayerImage(t, reg, "multi:1")
	id, diffIDs := inspected(t, "docker://"+image)
	saver := testrig.Berth(t)
	expect(t, saver.Run("pull", image), 0)
	original := record(t, saver, image)
	for _, format := range []string{"docker-archive", "oci-archive"} {
		t.Run(format, func(t *testing.T) {
			dir := testrig.TempDir(t)
			file := filepath.Join(dir, "saved.tar")
			expect(t, saver.Run("save", image, "-o", file, "--format", format), 0)
			again := filepath.Join(dir, "again.tar")
			expect(t, saver.Run("save", "-o", again, "--format", format, image), 0)
			if !sameContent(t, file, again) {
				t.Error("saved twice, the archives differ")
			}

			if gotID, gotDiffs := inspected(t, format+":"+file); gotID != id || !slices.Equal(gotDiffs, diffIDs) {
				t.Errorf("skopeo finds %s with %v, want %s with %v", gotID, gotDiffs, id, diffIDs)
			}
			testrig.Skopeo(t, "inspect", format+":"+file)

			storage := testrig.TempDir(t)
			podman(t, storage, "load", "-i", file)
			if got := podman(t, storage, "image", "inspect", "--format", "{{.Id}} {{.RootFS.Layers}}", image); got != strings.TrimPrefix(id, "sha256:")+" "+fmt.Sprint(diffIDs) {
				t.Errorf("podman finds %s", got)
			}

			loader := testrig.Berth(t)
			r := loader.Run("load", "-i", file)
			expect(t, r, 0)
			if r.Stdout != image+" "+id+"\n" {
				t.Errorf("loaded %q", r.Stdout)
			}
			if got := record(t, loader, image); got != original {
				t.Errorf("the record is\n%+v, was\n%+v", got, original)
			}
			requests := reg.Requests()
			expect(t, loader.Run("run", image, "--", "sh", "-c", "exit 7"), 7)
			expect(t, loader.Run("check"), 0)
			if n := reg.Requests() - requests; n != 0 {
				t.Errorf("%d requests for an image that was loaded", n)
			}
			// Its layers have the names that they have in the registry.
			flip(t, loader, "umoci/opaque/inner/new")
			expect(t, loader.Run("repair"), 0)
			expect(t, loader.Run("check"), 0)
			if left := leftBy(t, loader); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func sameContent(t *testing.T, a, b string) bool {
	t.Helper()
	one, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(one, other)
}

// A name with a digest is proven without the registry, or refused.
func TestPinnedImagesOffline(t *testing.T) {
	testrig.RequireRoot(t)
	testrig.RequireTools(t, "skopeo", "podman", "zstd")
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	pinned := strings.TrimSuffix(image, ":1") + "@" + strings.TrimSpace(testrig.Skopeo(t, "inspect", "--tls-verify=false", "--format={{.Digest}}", "docker://"+image))
	saver := testrig.Berth(t)
	expect(t, saver.Run("pull", pinned), 0)
	expect(t, saver.Run("pull", image), 0)
	file := filepath.Join(testrig.TempDir(t), "saved.tar")
	expect(t, saver.Run("save", pinned, image, "-o", file), 0)
	reg.Fail(503)

	storage := testrig.TempDir(t)
	podman(t, storage, "load", "-i", file)

	for _, compress := range []string{"gzip", "zstd"} {
		if out, err := exec.CommandContext(t.Context(), compress, "-k", file).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", compress, err, out)
		}
	}
	for _, archive := range []string{file, file + ".gz", file + ".zst"} {
		b := testrig.Berth(t)
		expect(t, b.Run("load", "-i", archive), 0)
		expect(t, b.Run("run", pinned, "--", "sh", "-c", "exit 7"), 7)
		expect(t, b.Run("run", image, "--", "sh", "-c", "exit 8"), 8)
	}

	// The same with another digest in the name.
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Replace(content, []byte(`"berth.name":"`+pinned), []byte(`"berth.name":"`+pinned[:len(pinned)-8]+"00000000"), 1)
	if bytes.Equal(forged, content) {
		t.Fatal("the name is not in the archive")
	}
	if err := os.WriteFile(file, forged, 0o600); err != nil {
		t.Fatal(err)
	}
	b := testrig.Berth(t)
	expect(t, b.Run("load", "-i", file), 125, "00000000", "nothing here has the digest in its name")
	if names := recorded(t, b); slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, "@") }) {
		t.Errorf("recorded are %q", names)
	}
}

func TestLoadOfOtherToolsArchives(t *testing.T) {
	testrig.RequireRoot(t)
	testrig.RequireTools(t, "skopeo", "podman")
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	dir := testrig.TempDir(t)
	testrig.Skopeo(t, "copy", "--src-tls-verify=false", "docker://"+image, "docker-archive:"+dir+"/skopeo.tar:example.com/app:1")
	testrig.Skopeo(t, "copy", "--src-tls-verify=false", "docker://"+image, "oci-archive:"+dir+"/oci.tar:example.com/app:1")
	testrig.Skopeo(t, "copy", "--src-tls-verify=false", "docker://"+image, "oci-archive:"+dir+"/tag.tar:1")
	podman(t, dir, "load", "-i", dir+"/skopeo.tar")
	podman(t, dir, "tag", "example.com/app:1", "example.com/other:2")
	podman(t, dir, "save", "-o", dir+"/podman.tar", "--multi-image-archive", "example.com/app:1", "example.com/other:2")
	podman(t, dir, "save", "-o", dir+"/podman-oci.tar", "--format=oci-archive", "example.com/app:1")
	for file, names := range map[string][]string{
		"skopeo.tar":     {"example.com/app:1"},
		"oci.tar":        {"example.com/app:1"},
		"podman.tar":     {"example.com/app:1", "example.com/other:2"},
		"podman-oci.tar": {"example.com/app:1"},
	} {
		ask := "docker-archive:" + dir + "/" + file + ":" + names[0]
		if strings.Contains(file, "oci") {
			ask = "oci-archive:" + dir + "/" + file
		}
		id, _ := inspected(t, ask) // podman may write another configuration than it has read
		b := testrig.Berth(t)
		r := b.Run("load", "--json", "-i", filepath.Join(dir, file))
		expect(t, r, 0)
		var got []string
		for _, rec := range decode[[]struct{ Reference, ID string }](t, r) {
			got = append(got, rec.Reference)
			if rec.ID != id {
				t.Errorf("%s: %s is %s, want %s", file, rec.Reference, rec.ID, id)
			}
		}
		if !slices.Equal(got, names) {
			t.Errorf("%s: loaded %q, want %q", file, got, names)
		}
		expect(t, b.Run("run", names[0], "--", "sh", "-c", "exit 7"), 7)
	}
	b := testrig.Berth(t)
	expect(t, b.Run("load", "-i", dir+"/tag.tar"), 125, "no name to be recorded under", "oci-archive:FILE")
	expect(t, b.Run("load", "-i", dir+"/none.tar"), 125, "none.tar")
	expect(t, b.Run("load"), 125, "read archive")
}

// An archive may come through a pipe, compressed or not; one that ends too early is none.
func TestLoadFromAPipe(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	file := filepath.Join(testrig.TempDir(t), "saved.tar")
	b := testrig.Berth(t)
	expect(t, b.Run("pull", image), 0)
	expect(t, b.Run("save", image, "-o", file), 0)
	plain, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(plain); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	load := func(data []byte) testrig.Result {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer read.Close()
		go func() {
			write.Write(data) // an error is for those who do not read all of it
			write.Close()
		}()
		b.Stdin = read
		defer func() { b.Stdin = nil }()
		return b.Run("load")
	}
	for _, data := range [][]byte{plain, zipped.Bytes()} {
		expect(t, b.Run("rmi", image), 0)
		expect(t, load(data), 0, image)
		expect(t, b.Run("run", image, "--", "sh", "-c", "exit 7"), 7)
	}
	expect(t, b.Run("rmi", image), 0)
	expect(t, load(plain[:len(plain)/2]), 125, "read archive")
	if names := recorded(t, b); len(names) > 0 {
		t.Errorf("recorded are %q", names)
	}
}

// A save that fails leaves what was there.
func TestAFailedSaveLeavesTheFile(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	b := testrig.Berth(t)
	dir := testrig.TempDir(t)
	file := filepath.Join(dir, "saved.tar")
	if err := os.WriteFile(file, []byte("what was there"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, b.Run("save", image, "-o", file), 125, image, "not found in the store", "berth pull")
	expect(t, b.Run("pull", image), 0)
	expect(t, b.Run("save", image, "-o", file, "--format=rar"), 125, "rar", "docker-archive", "oci-archive")
	expect(t, b.Run("save", image), 125, "-o FILE")
	flip(t, b, "etc/group")
	expect(t, b.Run("save", image, "-o", file), 125, "it is broken", "berth repair")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "what was there" {
		t.Errorf("the file has %q, %v", content, err)
	}
	expect(t, b.Run("repair"), 0)
	expect(t, b.Run("save", image, "-o", file), 0)
	if r := b.Run("save", image, "-o", "-"); r.ExitCode != 0 || !sameAs(t, file, r.Stdout) {
		t.Errorf("on the standard output: exit code %d, %d bytes", r.ExitCode, len(r.Stdout))
	}
}

func sameAs(t *testing.T, file, content string) bool {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data) == content
}
