//go:build linux

package bench

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/engine"
	"berth/internal/testrig"
)

// BenchmarkLaunch measures a launch through the library, from the call to the moment when
// nothing of the container is left, beside a C program that makes the same namespaces,
// mounts and cgroups (bench/floor.c), and runtimes that run a prepared bundle.
func BenchmarkLaunch(b *testing.B) {
	s := newLaunches(b)
	s.contest(b, "Launch to exit of `true`", starts, func(do func() error) error {
		for range starts {
			if err := do(); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkLaunchInParallel is what one costs when so many are launched at a time: a second
// by that is the rate at which they are.
func BenchmarkLaunchInParallel(b *testing.B) {
	const parallel = 100
	s := newLaunches(b)
	s.contest(b, fmt.Sprintf("Launch to exit of `true`, %d in parallel", parallel), parallel, func(do func() error) error {
		errs := make([]error, parallel)
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() { errs[i] = do() })
		}
		all.Wait()
		return cmp.Or(errs...) // one is enough
	})
}

// launches are the ways to launch `true` from one image.
type launches struct {
	disk, rootfs, floor string
	run                 string // a tmpfs, as /run is: what runtimes know of their containers
	backend             string // of the root filesystems
	image               *v1.Image
	berth               *engine.Engine
	count               atomic.Int64
}

func newLaunches(b *testing.B) *launches {
	testrig.RequireRoot(b)
	reg := testrig.Registry(b)
	testrig.BusyboxImage(b, reg, "busybox:1")
	name := reg.Direct() + "/busybox:1"
	s := &launches{disk: testrig.LoopFS(b, "ext4", 2<<10), run: tmpfs(b), backend: "overlay"} // as the floor has it
	s.rootfs = testrig.SkopeoUmoci(b, name, s.disk)
	s.buildFloor(b)
	binaries, err := testrig.Binaries()
	if err != nil {
		b.Fatal(err)
	}
	config := engine.DefaultConfig()
	config.WorkDir, config.RuntimeDir, config.LauncherDir = s.disk+"/work", s.run+"/berth", binaries
	config.CgroupsRoot = "berth-bench"
	config.ImageProvisionerBackend = s.backend
	config.UsernsRange = "3000000000:13107200" // of 200 containers
	if s.berth, err = engine.Open(b.Context(), config); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.berth.Close(); err != nil {
			b.Error(err)
		}
	})
	if s.image, err = engine.ParseImage(name, ""); err != nil {
		b.Fatal(err)
	}
	return s
}

func (s *launches) buildFloor(b *testing.B) {
	s.floor = filepath.Join(b.TempDir(), "floor")
	setUp(b, []string{"gcc", "-O2", "-static", "-o", s.floor, "../../bench/floor.c"})
}

func (s *launches) contest(b *testing.B, title string, per int, all func(do func() error) error) {
	contenders := []contender{
		{"berth, the library", nil, s.preparing(all, s.launch)},
		{"berth with --userns auto", nil, s.preparing(all, s.launchMapped)},
		{"floor", nil, s.preparing(all, s.program(func(int64) []string {
			return append([]string{s.floor, s.rootfs, s.disk}, cgroups(b)...)
		}))},
	}
	for _, runtime := range []string{"crun", "runc"} {
		bundle := filepath.Join(s.disk, runtime+"-bundle")
		if _, err := exec.LookPath(runtime); err == nil {
			makeBundle(b, runtime, bundle, s.rootfs)
		}
		around := surroundingsOf(b, runtime)
		start := s.program(func(n int64) []string {
			return []string{runtime, "--root", s.run + "/" + runtime, "run", "--bundle", bundle, fmt.Sprintf("bench-%d", n)}
		})
		contenders = append(contenders, contender{runtime + " of a bundle", []string{runtime}, s.preparing(all, func() error { return around(start) })})
	}
	contest{title: title, disk: s.disk, per: per, rounds: 9, contenders: contenders}.run(b)
}

func (s *launches) preparing(all func(func() error) error, one func() error) func(*testing.B) (work, func()) {
	return func(*testing.B) (work, func()) {
		return func() (int64, error) { return 0, all(one) }, nothing
	}
}

// program runs a command, which is told how many were before it.
func (s *launches) program(args func(n int64) []string) func() error {
	return func() error {
		line := args(s.count.Add(1))
		cmd := exec.Command(line[0], line[1:]...)
		var output bytes.Buffer
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(line, " "), err, output.String())
		}
		return nil
	}
}

// launch is one through the library.
func (s *launches) launch() error { return s.launchIn(nil) }

// launchMapped is one in a user namespace.
func (s *launches) launchMapped() error {
	return s.launchIn(&v1.LinuxInfo{UserNamespace: &v1.UserNamespaceInfo{}})
}

func (s *launches) launchIn(linux *v1.LinuxInfo) error {
	id, err := container.ParseID(fmt.Sprintf("bench-%d", s.count.Add(1)))
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	info := &v1.ContainerInfo{Type: v1.ContainerInfo_MESOS.Enum(), Mesos: &v1.ContainerInfo_MesosInfo{Image: s.image}, LinuxInfo: linux,
		NetworkInfos: []*v1.NetworkInfo{{Name: proto.String("none")}}}
	ctx := context.Background()
	if err := s.berth.Launch(ctx, id, containerizer.Request{Config: &v1.ContainerConfig{ContainerInfo: info, ImageArguments: []string{"true"}},
		Stdio: [3]*os.File{null, null, null}, Keeper: containerizer.Foreground}); err != nil {
		return err
	}
	ended, err := s.berth.Wait(ctx, id)
	if err == nil && ended.ExitCode() != 0 {
		err = fmt.Errorf("exit code %d", ended.ExitCode())
	}
	return err
}

// cgroups are the hierarchies in which berth gives such a container a cgroup.
func cgroups(b *testing.B) (dirs []string) {
	b.Helper()
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		options := strings.Split(fields[3], ",")
		needed := slices.ContainsFunc(options, func(o string) bool {
			return slices.Contains([]string{"cpu", "cpuacct", "memory", "pids", "freezer"}, o)
		})
		if fields[2] == "cgroup2" || fields[2] == "cgroup" && needed {
			dirs = append(dirs, fields[1])
		}
	}
	return dirs
}
