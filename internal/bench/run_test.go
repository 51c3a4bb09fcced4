//go:build linux

package bench

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"berth/internal/testrig"
)

// starts is how many runs are one measurement: one alone is too short for the noise.
const starts = 10

// BenchmarkRunTrue measures start to exit of `true` from an image that is in the store,
// by the command lines that people use. Those of daemons do little themselves.
func BenchmarkRunTrue(b *testing.B) {
	testrig.RequireRoot(b)
	reg := testrig.Registry(b)
	testrig.BusyboxImage(b, reg, "busybox:1")
	image := reg.Direct() + "/busybox:1"
	disk, run := testrig.LoopFS(b, "ext4", 4<<10), tmpfs(b)
	program := testrig.Berth(b)
	berth := installed(b, program.Path)
	runs := func(command []string) func(*testing.B) (work, func()) {
		return func(*testing.B) (work, func()) {
			return programs(slices.Repeat([][]string{command}, starts)...), nothing
		}
	}
	var contenders []contender
	for _, backend := range []string{"erofs", "overlay"} {
		command := func(name string, args ...string) []string {
			return slices.Concat([]string{berth, name, "--work_dir=" + disk + "/" + backend, "--runtime_dir=" + run + "/" + backend,
				"--image_provisioner_backend=" + backend}, args)
		}
		setUp(b, command("pull", image))
		contenders = append(contenders, contender{"berth run, " + backend, nil,
			runs(command("run", "--cgroups_root="+program.CgroupsRoot, image, "true"))})
	}
	podman := func(args ...string) []string { return podman(disk+"/podman", args...) }
	ctr, docker := startContainerd(b, disk), startDocker(b, disk)
	b.Cleanup(func() { detach(b, disk+"/podman") })
	for program, pull := range map[string][]string{
		"podman": podman("pull", "--quiet", "--tls-verify=false", image),
		"ctr":    ctr("images", "pull", "--plain-http", "--snapshotter", "overlayfs", image),
		"docker": docker("pull", "--quiet", image),
	} {
		if _, err := exec.LookPath(program); err == nil {
			setUp(b, pull)
		}
	}
	contenders = append(contenders,
		contender{"podman run", []string{"podman"},
			runs(podman("run", "--rm", "--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096", image, "true"))},
		contender{"ctr run", []string{"ctr", "containerd"},
			runs(ctr("run", "--rm", "--net-host", "--snapshotter", "overlayfs", image, "bench", "true"))},
		contender{"docker run", []string{"docker", "dockerd"}, runs(docker("run", "--rm", "--network=host", image, "true"))})
	rootfs := testrig.SkopeoUmoci(b, image, disk)
	for _, runtime := range []string{"crun", "runc"} {
		bundle := filepath.Join(disk, runtime+"-bundle")
		if _, err := exec.LookPath(runtime); err == nil {
			makeBundle(b, runtime, bundle, rootfs)
		}
		run := runs([]string{runtime, "--root", run + "/" + runtime, "run", "--bundle", bundle, "bench"})
		contenders = append(contenders, contender{runtime + " of a bundle", []string{runtime}, surroundingsOf(b, runtime).work(run)})
	}
	contest{title: "Start to exit of `true` from an image in the store", disk: disk, per: starts, contenders: contenders}.run(b)
}

// installed copies a program and what lies beside it, as who installs it does. A file that the
// linker has just written is cached in single pages, and every start and end of its program pays for that.
func installed(b *testing.B, program string) string {
	b.Helper()
	dir := b.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Dir(program))); err != nil {
		b.Fatal(err)
	}
	return filepath.Join(dir, filepath.Base(program))
}

// tmpfs makes a directory as /run is: it holds what programs know of what runs.
func tmpfs(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	setUp(b, []string{"mount", "-t", "tmpfs", "berth-bench", dir})
	b.Cleanup(func() { setUp(b, []string{"umount", dir}) })
	return dir
}

// setUp runs a command that is not measured.
func setUp(b *testing.B, args []string) {
	b.Helper()
	if _, err := programs(args)(); err != nil {
		b.Fatal(err)
	}
}

// makeBundle makes an OCI bundle that runs `true`, as the runtime's own default has it
// but for the terminal and the root filesystem.
func makeBundle(b *testing.B, runtime, bundle, rootfs string) {
	b.Helper()
	if err := os.Mkdir(bundle, 0o700); err != nil {
		b.Fatal(err)
	}
	spec := exec.Command(runtime, "spec")
	spec.Dir = bundle
	if out, err := spec.CombinedOutput(); err != nil {
		b.Fatalf("%s spec: %v\n%s", runtime, err, out)
	}
	path := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(data, &config); err != nil {
		b.Fatal(err)
	}
	process := config["process"].(map[string]any)
	process["terminal"] = false
	process["args"] = []string{"true"}
	config["root"] = map[string]any{"path": rootfs, "readonly": true}
	if data, err = json.Marshal(config); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.Fatal(err)
	}
}
