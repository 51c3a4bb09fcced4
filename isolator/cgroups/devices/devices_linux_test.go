package devices

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/device"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

func dev(path string, read, write, mknod bool) *v1.DeviceAccess {
	return &v1.DeviceAccess{Device: &v1.Device{Path: &path}, Access: &v1.DeviceAccess_Access{Read: &read, Write: &write, Mknod: &mknod}}
}

func asks(devices ...*v1.DeviceAccess) *v1.ContainerConfig {
	return &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{Cgroups: &v1.CgroupSettings{Devices: devices}}}
}

var versions = []cgroup.Version{cgroup.V1, cgroup.V2}

func TestConformance(t *testing.T) {
	for _, version := range versions {
		t.Run(version.String(), func(t *testing.T) {
			groups := isolatortest.NewGroupsOf(t, version, controller)
			good := asks(dev("/dev/kmsg", true, false, false))
			good.Rootfs = proto.String("/rootfs")
			isolatortest.Run(t, New(groups, nil, nil), isolatortest.Requests{Good: good, Fork: groups.Fork, Gone: groups.Gone, Bad: map[string]*v1.ContainerConfig{
				"no such device":    asks(dev("/dev/none", true, true, true)),
				"not a device":      asks(dev("/etc/passwd", true, true, true)),
				"a relative path":   asks(dev("dev/null", true, true, true)),
				"no access":         asks(dev("/dev/null", false, false, false)),
				"neither":           asks(&v1.DeviceAccess{Device: &v1.Device{}, Access: &v1.DeviceAccess_Access{Read: proto.Bool(true)}}),
				"an unknown number": asks(&v1.DeviceAccess{Device: &v1.Device{Number: &v1.Device_Number{MajorNumber: proto.Uint64(4095), MinorNumber: proto.Uint64(1)}}}),
			}})
		})
	}
}

func TestNodesOfTheRequest(t *testing.T) {
	config := asks(dev("/dev/kmsg", true, false, false), dev("/dev/null", true, true, true), dev("/dev/ptmx", true, true, false), dev("/proc/../dev/kmsg", true, true, true))
	i := New(nil, nil, []*v1.DeviceAccess{dev("/dev/tty0", true, true, true)})
	info, err := i.Prepare(t.Context(), &isolator.Container{Config: config})
	if err != nil || len(info.Nodes) > 0 {
		t.Errorf("without a root filesystem: %+v, %v", info, err)
	}
	config.Rootfs = proto.String("/rootfs")
	info, err = i.Prepare(t.Context(), &isolator.Container{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Nodes) != 1 || info.Nodes[0].Path != "/dev/kmsg" || info.Nodes[0].Mode != syscall.S_IFCHR|0o644 {
		t.Errorf("nodes %+v", info.Nodes)
	}
}

func TestTheProgram(t *testing.T) {
	got := fmt.Sprintf("%v", program([]device.Rule{
		{Device: device.Device{Kind: device.Block, Major: device.Any, Minor: device.Any}, Access: device.Mknod},
		{Device: device.Device{Kind: device.Char, Major: 1, Minor: 3}, Access: device.All},
	}))
	golden, err := os.ReadFile("testdata/program.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(golden), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// Nothing is allowed.
	if got := fmt.Sprintf("%v", program(nil)); !strings.Contains(got, "MovImm dst: r0 imm: 0") || strings.Contains(got, "imm: 1\n") {
		t.Errorf("of no rules:\n%s", got)
	}
}

// within runs a shell script in a cgroup and returns what it prints.
func within(t *testing.T, group *cgroup.Group, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", "read go; "+script)
	cmd.Dir = t.TempDir()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := group.Enter(cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	fmt.Fprintln(stdin)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v: %s", script, err, out.String())
	}
	return out.String()
}

// start isolates a new container.
func start(t *testing.T, groups *isolatortest.Groups, i *Isolator, value string, config *v1.ContainerConfig) (*isolator.Container, *cgroup.Group) {
	t.Helper()
	id, err := container.ParseID(value)
	if err != nil {
		t.Fatal(err)
	}
	groups.Fork(t, id)
	c := &isolator.Container{ID: id, Config: config}
	if err := i.Isolate(t.Context(), c, 1); err != nil {
		t.Fatal(err)
	}
	group, err := groups.Group(id)
	if err != nil {
		t.Fatal(err)
	}
	return c, group
}

// Each line says what may be done with a device of the memory driver.
const tries = `
try() { if (eval "$2") 2>/dev/null; then echo "$1 yes"; else echo "$1 no"; fi; }
mknod null c 1 3; mknod kmsg c 1 11; mknod loop b 7 0
try 'write null' ': > null'
try 'read null' ': < null'
try 'read kmsg' ': < kmsg'
try 'write kmsg' ': > kmsg'
try 'read loop' ': < loop'
`

func TestWhatAContainerMayOpen(t *testing.T) {
	for _, version := range versions {
		t.Run(version.String(), func(t *testing.T) {
			groups := isolatortest.NewGroupsOf(t, version, controller)
			_, group := start(t, groups, New(groups, nil, nil), "plain", &v1.ContainerConfig{})
			if got, want := within(t, group, tries), "write null yes\nread null yes\nread kmsg no\nwrite kmsg no\nread loop no\n"; got != want {
				t.Errorf("by default:\n%s", got)
			}
			// An entry that is in the standard list, too.
			allowed := []*v1.DeviceAccess{dev("/dev/kmsg", true, false, false), dev("/dev/null", true, false, false)}
			c, group := start(t, groups, New(groups, nil, allowed), "more", &v1.ContainerConfig{})
			if got, want := within(t, group, tries), "write null yes\nread null yes\nread kmsg yes\nwrite kmsg no\nread loop no\n"; got != want {
				t.Errorf("with --allowed_devices:\n%s", got)
			}
			// By another process of berth, whose flag says something else.
			c.Config = asks(dev("/dev/kmsg", false, true, false))
			if err := New(groups, nil, nil).Update(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if got, want := within(t, group, tries), "write null yes\nread null yes\nread kmsg no\nwrite kmsg yes\nread loop no\n"; got != want {
				t.Errorf("after an update:\n%s", got)
			}
			if version == cgroup.V2 {
				if n := programs(t, group); n != 1 {
					t.Errorf("after an update the cgroup has %d programs", n)
				}
			}
		})
	}
}

// A container nested in another one has at most the devices of that one.
func TestANestedContainerHasNoMoreThanItsParent(t *testing.T) {
	for _, version := range versions {
		t.Run(version.String(), func(t *testing.T) {
			groups := isolatortest.NewGroupsOf(t, version, controller)
			i := New(groups, nil, nil)
			_, _ = start(t, groups, i, "parent", &v1.ContainerConfig{})
			parent, err := container.ParseID("parent")
			if err != nil {
				t.Fatal(err)
			}
			child, err := parent.Child("child")
			if err != nil {
				t.Fatal(err)
			}
			groups.Fork(t, child)
			group, err := groups.Group(child)
			if err != nil {
				t.Fatal(err)
			}
			err = i.Isolate(t.Context(), &isolator.Container{ID: child, Config: asks(dev("/dev/kmsg", true, true, false))}, 1)
			if version == cgroup.V1 { // the kernel looks when the rule is made, not when it is used
				if !errors.Is(err, container.ErrDenied) || !strings.Contains(err.Error(), "c 1:11 rw") {
					t.Errorf("error %v", err)
				}
				err = i.Isolate(t.Context(), &isolator.Container{ID: child, Config: &v1.ContainerConfig{}}, 1)
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := within(t, group, tries), "write null yes\nread null yes\nread kmsg no\nwrite kmsg no\nread loop no\n"; got != want {
				t.Errorf("by default:\n%s", got)
			}
			// The parent can still be updated.
			if err := i.Update(t.Context(), &isolator.Container{ID: parent, Config: &v1.ContainerConfig{}}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTheFilesOfV1(t *testing.T) {
	dir := t.TempDir()
	write := func(file, text string) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"devices.allow", "devices.deny"} {
		write(file, "")
	}
	rule, err := device.ParseRule("c 1:3 rw")
	if err != nil {
		t.Fatal(err)
	}
	write("devices.list", "c 1:3 r\nb 7:0 rwm\n")
	if err := setV1(cgroup.DirAt(dir, cgroup.V1), []device.Rule{rule}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"devices.allow": "c 1:3 w", "devices.deny": "b 7:0 rwm"} {
		if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", file, got, err, want)
		}
	}
	write("devices.list", "a *:* rwm\n")
	if err := setV1(cgroup.DirAt(dir, cgroup.V1), []device.Rule{rule}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "devices.deny")); err != nil || string(got) != "a" {
		t.Errorf("what allows everything: %q, %v", got, err)
	}
	write("devices.list", "rubbish\n")
	if err := setV1(cgroup.DirAt(dir, cgroup.V1), nil); err == nil {
		t.Error("rubbish was read")
	}
}

// programs counts berth's programs on a cgroup.
func programs(t *testing.T, group *cgroup.Group) (n int) {
	t.Helper()
	dir, err := group.Dir(controller)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(dir.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for {
		p, err := attached(file)
		if err != nil {
			t.Fatal(err)
		}
		if p == nil {
			return n
		}
		n++
		if err := detach(file, p); err != nil {
			t.Fatal(err)
		}
	}
}

func detach(group *os.File, p *ebpf.Program) error {
	err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(group.Fd()), Program: p, Attach: ebpf.AttachCGroupDevice})
	return errors.Join(err, p.Close())
}

func TestProbe(t *testing.T) {
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	isolatortest.NewGroupsOf(t, cgroup.V2, controller) // or skip
	for _, version := range versions {
		if err := New(nil, host.Only(version), nil).Probe(t.Context()); err != nil {
			t.Errorf("%s: %v", version, err)
		}
	}
}
