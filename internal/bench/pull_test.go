//go:build linux

package bench

import (
	"strings"
	"testing"

	"berth/internal/testrig"
)

const gib = 1 << 30

// berth returns the command line of a berth with a store of its own.
func berth(program *testrig.Command, dir string, args ...string) []string {
	return append([]string{"env", "BERTH_WORK_DIR=" + dir, "BERTH_RUNTIME_DIR=" + dir + "-run", "BERTH_CGROUPS_ROOT=" + program.CgroupsRoot,
		program.Path}, args...)
}

func podman(dir string, args ...string) []string {
	// runc, because crun of this age knows no hybrid hosts (v1 controllers beside v2).
	return append([]string{"podman", "--runtime", "runc", "--root", dir, "--runroot", dir + "-run", "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs",
		"--events-backend", "file"}, args...)
}

// BenchmarkColdPull pulls and unpacks an image of eight gzip layers and 17 000 files
// into an empty store.
func BenchmarkColdPull(b *testing.B) {
	testrig.RequireRoot(b)
	reg := testrig.Registry(b)
	testrig.LargeDebianImage(b, reg, "debian:1")
	coldPull(b, "Pull of 8 layers, 17 000 files, into an empty store", reg.Direct()+"/debian:1", testrig.LoopFS(b, "ext4", 8<<10))
}

// BenchmarkColdPullOfOneLayer does the same with a single layer of 1.5 GB.
func BenchmarkColdPullOfOneLayer(b *testing.B) {
	testrig.RequireRoot(b)
	reg := testrig.Registry(b)
	testrig.BigLayerImage(b, reg, "big:1", 3*gib/2)
	coldPull(b, "Pull of one layer of 1.5 GB into an empty store", reg.Direct()+"/big:1", testrig.LoopFS(b, "ext4", 16<<10))
}

// BenchmarkColdPullOfZstd does the same as BenchmarkColdPull with layers compressed by zstd.
func BenchmarkColdPullOfZstd(b *testing.B) {
	testrig.RequireRoot(b)
	testrig.RequireTools(b, "skopeo")
	reg := testrig.Registry(b)
	from, to := testrig.LargeDebianImage(b, reg, "debian:1"), reg.Direct()+"/zstd/debian:1"
	testrig.Skopeo(b, "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", "--dest-compress-format=zstd",
		"--format=oci", "docker://"+from, "docker://"+to)
	manifest := testrig.Skopeo(b, "inspect", "--raw", "--tls-verify=false", "docker://"+to)
	if strings.Contains(manifest, "tar+gzip") || !strings.Contains(manifest, "tar+zstd") {
		b.Fatalf("the layers are not compressed by zstd: %s", manifest)
	}
	coldPull(b, "Pull of 8 zstd layers, 17 000 files, into an empty store", to, testrig.LoopFS(b, "ext4", 8<<10))
}

func coldPull(b *testing.B, title, image, disk string) {
	program := testrig.Berth(b)
	ctr, docker := startContainerd(b, disk), startDocker(b, disk)
	ctrPull := ctr("images", "pull", "--plain-http", "--snapshotter", "overlayfs", image)
	ctrRemove := ctr("images", "rm", "--sync", image)
	contest{title: title, disk: disk, contenders: []contender{
		{"berth", nil, func(b *testing.B) (work, func()) {
			dir, clean := freshDir(b, disk, "berth")
			return programs(berth(program, dir, "pull", image)), clean
		}},
		{"berth, trees", nil, func(b *testing.B) (work, func()) {
			dir, clean := freshDir(b, disk, "berth")
			return programs(berth(program, dir, "pull", "--image_provisioner_backend=overlay", image)), clean
		}},
		{"containerd (ctr)", []string{"ctr", "containerd"}, func(b *testing.B) (work, func()) {
			return pulls(b, ctrRemove, ctrPull)
		}},
		{"containerd, synced", []string{"ctr", "containerd"}, func(b *testing.B) (work, func()) {
			return pulls(b, ctrRemove, ctrPull, []string{"sync", "-f", disk})
		}},
		{"docker", []string{"docker", "dockerd"}, func(b *testing.B) (work, func()) {
			return pulls(b, docker("rmi", image), docker("pull", "--quiet", image))
		}},
		{"podman", []string{"podman"}, func(b *testing.B) (work, func()) {
			dir, clean := freshDir(b, disk, "podman")
			return programs(podman(dir, "pull", "--quiet", "--tls-verify=false", image)), clean
		}},
		{"buildah", []string{"buildah"}, func(b *testing.B) (work, func()) {
			dir, clean := freshDir(b, disk, "buildah")
			return programs([]string{"buildah", "--root", dir, "--runroot", dir + "-run", "--storage-driver", "overlay", "pull", "--quiet", "--tls-verify=false", image}), clean
		}},
		{"skopeo+umoci", []string{"skopeo", "umoci"}, func(b *testing.B) (work, func()) {
			dir, clean := freshDir(b, disk, "umoci")
			return programs(
				[]string{"skopeo", "copy", "--quiet", "--src-tls-verify=false", "docker://" + image, "oci:" + dir + "/layout:image"},
				[]string{"umoci", "unpack", "--image", dir + "/layout:image", dir + "/bundle"},
			), clean
		}},
	}}.run(b)
}

// pulls is the work of a daemon, and what removes again what has come of it.
func pulls(b *testing.B, remove []string, commands ...[]string) (do work, clean func()) {
	there := false
	return func() (int64, error) {
			maxRSS, err := programs(commands...)()
			there = err == nil
			return maxRSS, err
		}, func() {
			if there {
				setUp(b, remove)
			}
		}
}
