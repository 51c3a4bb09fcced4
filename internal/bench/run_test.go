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

// BenchmarkRunTrue measures start to exit of `true` from an image that is in the store.
func BenchmarkRunTrue(b *testing.B) {
	testrig.RequireRoot(b)
	reg := testrig.Registry(b)
	testrig.BusyboxImage(b, reg, "busybox:1")
	image := reg.Direct() + "/busybox:1"
	disk := testrig.LoopFS(b, "ext4", 2<<10)
	program := testrig.Berth(b)
	runs := func(command []string) func(*testing.B) (work, func()) {
		return func(*testing.B) (work, func()) {
			return programs(slices.Repeat([][]string{command}, starts)...), nothing
		}
	}
	setUp(b, berth(program, disk+"/berth", "pull", image))
	contenders := []contender{{"berth", nil, runs(berth(program, disk+"/berth", "run", image, "true"))}}
	if _, err := exec.LookPath("podman"); err == nil {
		b.Cleanup(func() { detach(b, disk+"/podman") })
		setUp(b, podman(disk+"/podman", "pull", "--quiet", "--tls-verify=false", image))
	}
	contenders = append(contenders, contender{"podman", []string{"podman"},
		runs(podman(disk+"/podman", "run", "--rm", "--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096", image, "true"))})
	rootfs := testrig.SkopeoUmoci(b, image, disk)
	for _, runtime := range []string{"crun", "runc"} {
		bundle := filepath.Join(disk, runtime+"-bundle")
		if _, err := exec.LookPath(runtime); err == nil {
			makeBundle(b, runtime, bundle, rootfs)
		}
		contenders = append(contenders, contender{runtime + " of a bundle", []string{runtime},
			runs([]string{runtime, "--root", disk + "/" + runtime + "-state", "run", "--bundle", bundle, "bench"})})
	}
	contest{title: "Start to exit of `true`", disk: disk, per: starts, contenders: contenders}.run(b)
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
