//go:build linux

package bench

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"berth/internal/testrig"
)

const gib = 1 << 30

func nothing() {}

// berth returns the command line of a berth with a store of its own.
func berth(b *testing.B, program *testrig.Command, dir string, args ...string) []string {
	return append([]string{"env", "BERTH_WORK_DIR=" + dir, "BERTH_RUNTIME_DIR=" + dir + "-run", "BERTH_CGROUPS_ROOT=" + program.CgroupsRoot,
		program.Path}, args...)
}

// BenchmarkColdPull pulls and unpacks an image of seven gzip layers and 16 000 files
// into an empty store.
func BenchmarkColdPull(b *testing.B) {
	testrig.RequireRoot(b)
	reg := testrig.Registry(b)
	testrig.DebianImage(b, reg, "debian:1")
	coldPull(b, reg.Direct()+"/debian:1", testrig.LoopFS(b, "ext4", 8<<10))
}

// BenchmarkColdPullOfOneLayer does the same with a single layer of 1.5 GB.
func BenchmarkColdPullOfOneLayer(b *testing.B) {
	testrig.RequireRoot(b)
	reg := testrig.Registry(b)
	testrig.BigLayerImage(b, reg, "big:1", 3*gib/2)
	coldPull(b, reg.Direct()+"/big:1", testrig.LoopFS(b, "ext4", 16<<10))
}

func coldPull(b *testing.B, image, disk string) {
	program := testrig.Berth(b)
	contest(b, []contender{
		{"berth", nil, func(b *testing.B) ([][]string, func()) {
			dir, clean := freshDir(b, disk, "berth")
			return [][]string{berth(b, program, dir, "pull", image)}, clean
		}},
		{"podman", []string{"podman"}, func(b *testing.B) ([][]string, func()) {
			dir, clean := freshDir(b, disk, "podman")
			return [][]string{podman(dir, "pull", "--quiet", "--tls-verify=false", image)}, clean
		}},
		{"skopeo+umoci", []string{"skopeo", "umoci"}, func(b *testing.B) ([][]string, func()) {
			dir, clean := freshDir(b, disk, "umoci")
			return [][]string{
				{"skopeo", "copy", "--quiet", "--src-tls-verify=false", "docker://" + image, "oci:" + dir + "/layout:image"},
				{"umoci", "unpack", "--image", dir + "/layout:image", dir + "/bundle"},
			}, clean
		}},
	})
}

func podman(dir string, args ...string) []string {
	// runc, because crun of this age knows no hybrid hosts (v1 controllers beside v2).
	return append([]string{"podman", "--runtime", "runc", "--root", dir, "--runroot", dir + "-run", "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs",
		"--events-backend", "file"}, args...)
}

// BenchmarkRunTrue measures start to exit of `true` from an image that is in the store.
func BenchmarkRunTrue(b *testing.B) {
	testrig.RequireRoot(b)
	reg := testrig.Registry(b)
	testrig.BusyboxImage(b, reg, "busybox:1")
	image := reg.Direct() + "/busybox:1"
	disk := testrig.LoopFS(b, "ext4", 2<<10)
	program := testrig.Berth(b)
	setUp := func(args []string) {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			b.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	setUp(berth(b, program, disk+"/berth", "pull", image))
	contenders := []contender{{"berth", nil, func(b *testing.B) ([][]string, func()) {
		return repeat(berth(b, program, disk+"/berth", "run", image, "true")), nothing
	}}}
	if _, err := exec.LookPath("podman"); err == nil {
		b.Cleanup(func() { detach(b, disk+"/podman") })
		setUp(podman(disk+"/podman", "pull", "--quiet", "--tls-verify=false", image))
		contenders = append(contenders, contender{"podman", nil, func(*testing.B) ([][]string, func()) {
			return repeat(podman(disk+"/podman", "run", "--rm", "--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096", image, "true")), nothing
		}})
	}
	rootfs := testrig.SkopeoUmoci(b, image, disk)
	for _, runtime := range []string{"crun", "runc"} {
		if _, err := exec.LookPath(runtime); err != nil {
			b.Logf("%s does not take part: it is not installed", runtime)
			continue
		}
		bundle := makeBundle(b, runtime, disk, rootfs)
		contenders = append(contenders, contender{runtime + " of a bundle", nil, func(*testing.B) ([][]string, func()) {
			return repeat([]string{runtime, "--root", disk + "/" + runtime + "-state", "run", "--bundle", bundle, "bench"}), nothing
		}})
	}
	contest(b, contenders)
}

// starts is how many runs are one measurement: one alone is too short for the noise.
const starts = 10

func repeat(command []string) (all [][]string) {
	for range starts {
		all = append(all, command)
	}
	return all
}

// makeBundle makes an OCI bundle that runs `true`, as the runtime's own default has it
// but for the terminal and the root filesystem.
func makeBundle(b *testing.B, runtime, disk, rootfs string) string {
	b.Helper()
	bundle := filepath.Join(disk, runtime+"-bundle")
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
	return bundle
}
