package linux

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher"
	"berth/launcher/plan"
)

var options = Options{SandboxDirectory: "/mnt/mesos/sandbox"}

func config(rootfs string, readOnly bool) *v1.ContainerConfig {
	c := &v1.ContainerConfig{Directory: proto.String("/work/containers/c"), ReadOnlyRootfs: proto.Bool(readOnly)}
	if rootfs != "" {
		c.Rootfs = proto.String(rootfs)
	}
	return c
}

func TestConformance(t *testing.T) {
	isolatortest.Run(t, New(options), isolatortest.Requests{
		Good: config("/rootfs", true),
		Bad:  map[string]*v1.ContainerConfig{"the host's file system, read-only": config("", true)},
	})
}

func prepare(t *testing.T, o Options, c *v1.ContainerConfig) *isolator.LaunchInfo {
	t.Helper()
	info, err := New(o).Prepare(t.Context(), &isolator.Container{Config: c})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestOnTheHostsFileSystem(t *testing.T) {
	want := &isolator.LaunchInfo{Namespaces: []launcher.Namespace{launcher.Mount}, WorkingDir: "/work/containers/c",
		Env: []string{"MESOS_SANDBOX=/work/containers/c"}}
	if diff := cmp.Diff(want, prepare(t, options, config("", false))); diff != "" {
		t.Error(diff)
	}
}

func TestInARootFilesystem(t *testing.T) {
	info := prepare(t, options, config("/rootfs", false))
	if diff := cmp.Diff([]string{"MESOS_SANDBOX=/mnt/mesos/sandbox"}, info.Env); diff != "" {
		t.Error(diff)
	}
	var targets []string
	for _, m := range info.Mounts {
		targets = append(targets, m.Target)
		kernels := m.Target != options.SandboxDirectory
		if m.Fixed != kernels || (m.Type != "") != kernels {
			t.Errorf("mount %+v: the kernel's file systems have fixed places, the sandbox has not", m)
		}
		if m.Flags&plan.NoSuid == 0 {
			t.Errorf("mount %s honours set-user-id files", m.Target)
		}
		if device := m.Target == "/dev" || m.Target == "/dev/pts"; device == (m.Flags&plan.NoDev != 0) {
			t.Errorf("mount %s: devices work in /dev and nowhere else", m.Target)
		}
		if sys := m.Target == "/sys" || m.Target == "/sys/fs/cgroup"; sys != (m.Flags&plan.ReadOnly != 0) {
			t.Errorf("mount %s: read-only is %v", m.Target, !sys)
		}
	}
	if diff := cmp.Diff([]string{"/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/mnt/mesos/sandbox"}, targets); diff != "" {
		t.Error(diff)
	}
	for _, path := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"} {
		if !slices.Contains(info.Masked, path) {
			t.Errorf("%s shows the host", path)
		}
	}
	for _, path := range []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus"} {
		if !slices.Contains(info.ReadOnly, path) {
			t.Errorf("%s steers the host", path)
		}
	}
}

func TestShm(t *testing.T) {
	o := options
	o.Shm = true
	has := func(info *isolator.LaunchInfo) bool {
		return slices.ContainsFunc(info.Mounts, func(m plan.Mount) bool { return m.Target == "/dev/shm" })
	}
	if !has(prepare(t, o, config("/rootfs", false))) || has(prepare(t, o, config("", false))) || has(prepare(t, options, config("/rootfs", false))) {
		t.Error("/dev/shm is there when asked for, in a root filesystem")
	}
}

// What a request asks for by the name of what every container has is there already; a second
// node in its place could not be made.
func TestNoDeviceIsMadeTwice(t *testing.T) {
	info := prepare(t, options, config("/rootfs", false))
	var places []string
	for _, n := range info.Nodes {
		places = append(places, n.Path)
	}
	for _, l := range info.Links {
		places = append(places, l.Path)
	}
	read := &v1.DeviceAccess_Access{Read: proto.Bool(true)}
	for _, place := range places {
		nodes, err := isolator.DeviceNodes([]*v1.DeviceAccess{{Device: &v1.Device{Path: proto.String(place)}, Access: read}})
		if len(nodes) > 0 || err != nil && !errors.Is(err, container.ErrInvalid) { // no device of this host
			t.Errorf("%s: %+v, %v", place, nodes, err)
		}
	}
}
