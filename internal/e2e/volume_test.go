//go:build linux

package e2e

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth/internal/testrig"
)

func TestImageVolumes(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	data := testrig.MultiLayerImage(t, reg, "layers:1")
	other := testrig.BusyboxImage(t, reg, "other:1", "--config.env=OF_VOLUME=yes", "--config.cmd=false")
	b := testrig.Berth(t)
	host := testrig.TempDir(t)
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("of the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		args   []string
		code   int
		stdout string // exact
		stderr string // contained
	}{
		{"in a read-only one", []string{"--image-volume", data + ":/a:ro", "--image_volume=" + other + ":/b", "--image-volume", data + ":/a/c/d:ro", image,
			"sh", "-c", "ls -d /a/dev /b/bin/busybox /a/c/d/dev; touch /b/x && echo ${OF_VOLUME-unset}"}, 125, "", "read-only"},
		{"several at once, one in another", []string{"--image-volume", data + ":/a:ro", "--image_volume=" + other + ":/b", "--image-volume", data + ":/b/c/d:ro", image,
			"sh", "-c", "ls -d /b/bin/busybox; touch /b/x && echo ${OF_VOLUME-unset}"}, 0, "/b/bin/busybox\nunset\n", ""},
		{"the same image three times", []string{"--image-volume", image + ":/a", "--image-volume", image + ":/b:ro", image,
			"sh", "-c", "echo x >/a/etc/passwd; cmp /etc/passwd /b/etc/passwd && cat /a/etc/passwd"}, 0, "x\n", ""},
		{"a path of the host", []string{"-v", host + ":/v", image, "sh", "-c", "echo x >/v/new; cat /v/file"}, 0, "of the host\n", ""},
		{"a path of the host, read-only", []string{"--volume=" + host + ":/v:ro", image, "sh", "-c", "cat /v/new; echo x >/v/x"}, 1, "x\n", "Read-only file system"},
		{"read-only", []string{"--image-volume", other + ":/v:ro", image, "sh", "-c", "echo x >/v/x"}, 1, "", "Read-only file system"},
		{"a part", []string{"--image-volume", other + ":/v:ro:subpath=home", image, "ls", "/v"}, 0, "app\n", ""},
		{"a file", []string{"--image-volume", other + ":/v/passwd:subpath=/etc/passwd", image, "head", "-c", "4", "/v/passwd"}, 0, "root", ""},
		{"no such part", []string{"--image-volume", other + ":/v:subpath=no/such", image, "true"}, 125, "", "no/such"},
		{"with a read-only root filesystem", []string{"--read-only", "--image-volume", other + ":/v", image, "sh", "-c", "touch /v/x && ! touch /x 2>/dev/null"}, 0, "", ""},
		{"without an image", []string{"--container_info", `{"type": "MESOS", "volumes": [{"container_path": "v", "mode": "RO", "image":
			{"type": "DOCKER", "docker": {"name": "` + other + `"}}}]}`, "--", "sh", "-c", "ls -d v/bin/busybox; ! touch v/x"}, 0, "v/bin/busybox\n", "Read-only file system"},
		{"without an image, at no place of the host", []string{"--image-volume", other + ":/no/such/place", "--", "true"}, 125, "", "must exist"},
		{"no such image", []string{"--image-volume", other + "-missing:/v", image, "true"}, 125, "", "other:1-missing"},
		{"never pulled", []string{"--pull=never", "--image-volume", reg.Host() + "/none:1:/v", image, "true"}, 125, "", "--pull=never"},
		{"no place", []string{"--image-volume", other, image, "true"}, 125, "", "IMAGE:DST"},
		{"a place that climbs", []string{"--image-volume", other + ":/a/../../b", image, "true"}, 125, "", `".."`},
		{"an option that is none", []string{"--image-volume", other + ":/v:readonly", image, "true"}, 125, "", "readonly"},
		{"a file in its place", []string{"--image-volume", other + ":/etc/passwd", image, "true"}, 125, "", "directory"},
		{"the kernel's place", []string{"--image-volume", other + ":/proc", image, "true"}, 125, "", "hide"},
		{"no isolator", []string{"--isolation=namespaces/pid", "--image-volume", other + ":/etc", "--", "true"}, 125, "", "--isolation"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := b.Run(append([]string{"run"}, test.args...)...)
			expect(t, r, test.code, test.stderr)
			if test.stdout != "" && r.Stdout != test.stdout {
				t.Errorf("stdout %q, want %q", r.Stdout, test.stdout)
			}
			if left := leftBy(t, b); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
	if r := b.Run("run", "--help"); r.ExitCode != 0 || !strings.Contains(r.Stdout, "--image_volume IMAGE:DST") {
		t.Errorf("the help of run: %d, %s%s", r.ExitCode, r.Stdout, r.Stderr)
	}
	// Nothing of all that reached the images.
	expect(t, b.Run("check"), 0)
}

// A volume keeps its image as the container does, and both go with it.
func TestAnImageVolumeUsesItsImage(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	data := testrig.MultiLayerImage(t, reg, "layers:1")
	b := testrig.Berth(t)
	scope := b.Scope()
	expect(t, b.Run("pull", image), 0)
	expect(t, b.Run("pull", data), 0)
	before := testrig.HostState(t, scope)
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		p := b.Start("run", "--name", "user", "--image-volume", data+":/v", "--image-volume", data+":/w:ro", image, "sh", "-c", "touch /v/x; echo ready; sleep 60")
		await(t, func() bool { out, _ := p.Output(); return strings.Contains(out, "ready") })
		expect(t, b.Run("rmi", data), 125, "user uses it")
		expect(t, b.Run("prune"), 0)
		p.Signal(end)
		p.Wait()
		// Whatever the killed one left, the next one removes.
		expect(t, b.Run("run", "--pull=never", "--image-volume", data+":/v:ro", image, "sh", "-c", "! ls /v/x 2>/dev/null"), 0)
		for _, line := range before.Diff(testrig.HostState(t, scope)) {
			t.Errorf("after %v: %s", end, line)
		}
	}
	expect(t, b.Run("rmi", data, image), 0)
}

// presented is the container of the talk that introduced filesystem isolation, as it
// was shown.
const presented = `{ "type" : "MESOS", "mesos" : { "image" : { "type" : "APPC", "appc" : { "name" : "acme.biz/appc/ubuntu1510", "labels" : { "labels": [{"key" : "version", "value" : "0.0.1"}] } } } }, "volumes": [ {"container_path" : "/tmp", "host_path" : "tmp", "mode" : "RW"}, {"container_path" : "/root", "host_path" : "/root", "mode" : "RW"}, {"container_path" : "/etc", "host_path" : "/etc", "mode" : "RO"}, {"container_path" : "/var/run", "host_path" : "/var/run", "mode" : "RW"}, {"container_path" : "/var/tmp", "host_path" : "/var/tmp", "mode" : "RW"} ] }`

func TestTheFiveVolumesOfTheTalk(t *testing.T) {
	testrig.RequireRoot(t)
	w := &appcWorld{ACIServer: testrig.NewACIServer(t)}
	const name, version = "acme.biz/appc/ubuntu1510", "0.0.1"
	aci := testrig.ACI(t, w.manifest(name, version, nil), testrig.BusyboxRootfs(t)...)
	w.Put(aciName(name, version), testrig.Compress(t, "gzip", aci))
	file := filepath.Join(testrig.TempDir(t), "info.json")
	if err := os.WriteFile(file, []byte(presented), 0o644); err != nil {
		t.Fatal(err)
	}
	b := testrig.Berth(t)
	mark := filepath.Base(filepath.Dir(b.WorkDir))
	written := []string{"/root/" + mark, "/var/run/" + mark, "/var/tmp/" + mark}
	t.Cleanup(func() {
		for _, path := range written {
			os.Remove(path)
		}
	})
	script := `stat -c %a /tmp && test -d /etc/apt && ! touch /etc/` + mark + ` && touch /tmp/` + mark + ` $MESOS_SANDBOX/tmp/second ` + strings.Join(written, " ") + ` && ls /tmp`
	r := b.Run("run", "--appc_simple_discovery_uri_prefix="+w.Prefix, "--container_info", file, "--", "sh", "-c", script)
	expect(t, r, 0, "Read-only file system")
	if want := "1777\n" + mark + "\nsecond\n"; r.Stdout != want {
		t.Errorf("stdout %q, want %q", r.Stdout, want)
	}
	for _, path := range written {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("written in the container: %v", err)
		}
	}
	for _, path := range []string{"/tmp/" + mark + "/second", "/tmp/second", "/etc/" + mark} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("the container wrote the host's %s", path)
		}
	}
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestAnImageWithoutLayersAsAVolume(t *testing.T) { eachWay(t, testAnImageWithoutLayersAsAVolume) }

func testAnImageWithoutLayersAsAVolume(t *testing.T, b *testrig.Command) {
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	bad := newFakeRegistry(t)
	config := marshal(t, map[string]any{"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": []string{}}})
	manifest := marshal(t, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "layers": []any{},
		"config": map[string]any{"mediaType": configType, "digest": digest(config), "size": len(config)}})
	bad.setBlob(digest(config), content(configType, config))
	bad.setManifest("empty", content(manifestType, manifest))
	bad.publish(t, "dirs", archive(t, tar.Header{Typeflag: tar.TypeDir, Name: "d/"}))
	expect(t, b.Run("run", "--image-volume", bad.image("dirs")+":/v", image, "sh", "-c", "ls /v; touch /v/d/x"), 0)
	expect(t, b.Run("run", "--image-volume", bad.image("empty")+":/v", image, "true"), 125, "volume/image", "no layers")
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// Model weights and the like: what is in a registry and is no image.
func TestTheFilesOfAnArtifactAsAVolume(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	image := testrig.BusyboxImage(t, reg, "busybox:1")
	model := newFakeRegistry(t)
	describe := func(mediaType, title string, body []byte) map[string]any {
		model.setBlob(digest(body), content("application/octet-stream", body))
		return map[string]any{"mediaType": mediaType, "digest": digest(body), "size": len(body), "annotations": map[string]string{"org.opencontainers.image.title": title}}
	}
	publish := func(tag string, layers ...any) {
		model.setManifest(tag, content(manifestType, marshal(t, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "artifactType": "application/x.model",
			"config": describe("application/vnd.oci.empty.v1+json", "", []byte("{}")), "layers": layers})))
	}
	publish("1", describe("application/x.weights", "weights/small.bin", []byte("0123456789")),
		describe("application/x.weights", "weights/more/big.bin", make([]byte, 3<<20)), describe("text/plain", "LICENSE", []byte("free\n")))
	publish("climbs", describe("text/plain", "../../etc/passwd", []byte("x")))
	b := testrig.Berth(t)
	for _, backend := range []string{"erofs", "overlay", "copy"} {
		r := b.Run("run", "--image_provisioner_backend="+backend, "-u", "app", "--image-volume", model.image("1")+":/m:ro", "--image-volume", model.image("1")+":/w:subpath=weights/more",
			image, "sh", "-c", "cd /m && find . -type f | sort && cat LICENSE weights/small.bin && stat -c ' %a %u %s' /w/big.bin && ! echo x >LICENSE")
		expect(t, r, 0, "Read-only file system")
		if want := "./LICENSE\n./weights/more/big.bin\n./weights/small.bin\nfree\n0123456789 644 0 3145728\n"; r.Stdout != want {
			t.Errorf("%s: stdout %q, want %q", backend, r.Stdout, want)
		}
	}
	agent := startAgent(t, b)
	if r := b.Run("run", "--image-volume", model.image("1")+":/m:ro", image, "cat", "/m/LICENSE"); r.ExitCode != 0 || r.Stdout != "free\n" {
		t.Errorf("by the agent: %+v", r)
	}
	agent.Signal(syscall.SIGTERM)
	expect(t, agent.Wait(), 0)
	expect(t, b.Run("run", "--image-volume", model.image("climbs")+":/m", image, "true"), 125, "../../etc/passwd")
	expect(t, b.Run("run", model.image("1"), "true"), 127, "not found")
	expect(t, b.Run("check"), 0)
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	// Saved, it is an image like any other.
	saved := filepath.Join(testrig.TempDir(t), "model.tar")
	expect(t, b.Run("save", model.image("1"), "-o", saved), 0)
	other := testrig.Berth(t)
	expect(t, other.Run("load", "-i", saved), 0)
	if r := other.Run("run", "--image-volume", "oci-archive:"+saved+":/m:ro", "--image-volume", model.image("1")+":/n", image, "sh", "-c", "cmp /m/weights/small.bin /n/weights/small.bin && cat /m/LICENSE"); r.ExitCode != 0 || r.Stdout != "free\n" {
		t.Errorf("saved and loaded: %d, %s%s", r.ExitCode, r.Stdout, r.Stderr)
	}
	expect(t, b.Run("rmi", model.image("1"), image), 0)
	if layers, _ := filepath.Glob(b.WorkDir + "/store/layers/*"); len(layers) > 0 {
		t.Errorf("layers of a removed artifact: %q", layers)
	}
}
