//go:build linux

package mesos

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/capability"
	"berth/internal/secretdir"
	"berth/isolator/environmentsecret"
	"berth/isolator/linux/capabilities"
	cgroupns "berth/isolator/namespaces/cgroup"
)

// withCapabilities puts the isolator into a world.
func withCapabilities(t *testing.T) func(*parts) {
	t.Helper()
	held, err := capability.Held()
	if err != nil {
		t.Fatal(err)
	}
	i, err := capabilities.New(capabilities.Options{Held: held})
	if err != nil {
		t.Fatal(err)
	}
	return func(p *parts) { p.isolators = append(p.isolators, i) }
}

// sets are the five sets of a process, in the order of /proc/PID/status.
type sets struct{ inheritable, permitted, effective, bounding, ambient capability.Set }

func (s sets) String() string {
	return fmt.Sprintf("%016x %016x %016x %016x %016x", uint64(s.inheritable), uint64(s.permitted), uint64(s.effective), uint64(s.bounding), uint64(s.ambient))
}

const printSets = `echo $(grep ^Cap /proc/self/status | cut -f2)`

func asked(script string, user string, linux *v1.LinuxInfo, security *v1.SecurityOptions) *v1.ContainerConfig {
	request := shell(script)
	request.ContainerInfo.LinuxInfo = linux
	request.Security = security
	if user != "" {
		request.User = proto.String(user)
	}
	return request
}

func TestTheFiveSetsAfterTheExecution(t *testing.T) {
	r := newRigWith(t, "overlay", withCapabilities(t))
	raw := &v1.CapabilityInfo{Capabilities: []v1.CapabilityInfo_Capability{v1.CapabilityInfo_NET_RAW}}
	rawAndChown := &v1.CapabilityInfo{Capabilities: []v1.CapabilityInfo_Capability{v1.CapabilityInfo_NET_RAW, v1.CapabilityInfo_CHOWN}}
	all, one, two := capabilities.Default, capability.Of("NET_RAW"), capability.Of("NET_RAW", "CHOWN")
	for _, c := range []struct {
		name, user string
		linux      *v1.LinuxInfo
		security   *v1.SecurityOptions
		want       sets
	}{
		{"root", "", nil, nil, sets{0, all, all, all, 0}},
		{"another user", "1000:1000", nil, nil, sets{0, 0, 0, all, 0}},
		{"root with one", "", &v1.LinuxInfo{EffectiveCapabilities: raw}, nil, sets{0, one, one, one, 0}},
		{"another user with one", "1000", &v1.LinuxInfo{EffectiveCapabilities: raw}, nil, sets{one, one, one, one, one}},
		{"root with less than the bound", "", &v1.LinuxInfo{EffectiveCapabilities: raw, BoundingCapabilities: rawAndChown}, nil, sets{one, one, one, two, one}},
		{"root with none", "", nil, &v1.SecurityOptions{DropCapabilities: []string{"ALL"}}, sets{}},
		{"another user with one more", "1000", nil, &v1.SecurityOptions{AddCapabilities: []string{"NET_ADMIN"}},
			sets{1 << 12, 1 << 12, 1 << 12, all | 1<<12, 1 << 12}},
	} {
		if got := strings.TrimSpace(r.output(asked(printSets, c.user, c.linux, c.security))); got != c.want.String() {
			t.Errorf("%s: has %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestNoNewPrivileges(t *testing.T) {
	r := newRigWith(t, "overlay", withCapabilities(t))
	for set, want := range map[bool]string{false: "NoNewPrivs: 0", true: "NoNewPrivs: 1"} {
		security := &v1.SecurityOptions{NoNewPrivileges: proto.Bool(set)}
		if got := strings.TrimSpace(r.output(asked("echo $(grep ^NoNewPrivs /proc/self/status)", "", nil, security))); got != want {
			t.Errorf("%v: %s", set, got)
		}
	}
}

// What a user may not read or execute stays so while its capabilities are set.
func TestTheUserExecutesOnlyWhatItMay(t *testing.T) {
	r := newRigWith(t, "overlay", withCapabilities(t))
	img := r.image(imageWith("", ""), pack(file("roots", 0o700, "#!/bin/sh\n")))
	request := config(img, "/roots")
	request.User = proto.String("1000")
	if o := r.run(request); o.err == nil || !strings.Contains(o.err.Error(), "permission denied") {
		t.Errorf("%+v", o)
	}
}

// Who looks into a container has no more than that, whatever the agent is configured to by
// then.
func TestADebugContainerHasWhatItsParentHas(t *testing.T) {
	r := newRigWith(t, "overlay", withCapabilities(t))
	request := asked("echo up; exec cat", "1000", nil, &v1.SecurityOptions{DropCapabilities: []string{"NET_RAW"}, NoNewPrivileges: proto.Bool(true)})
	c := r.start(request)
	c.says("up")
	bound := capabilities.Default &^ capability.Of("NET_RAW")
	for user, want := range map[string]sets{"": {0, 0, 0, bound, 0}, "0": {0, bound, bound, bound, 0}} {
		request := debug(printSets + "; grep ^NoNewPrivs /proc/self/status")
		if user != "" {
			request.User = proto.String(user)
		}
		got := c.runIn("look"+user, request).stdout
		if !strings.HasPrefix(got, want.String()) || !strings.Contains(got, "NoNewPrivs:\t1") {
			t.Errorf("user %q has %s\nwant %s and no new privileges", user, got, want)
		}
	}
}

// A container with a cgroup namespace does not learn where it is on the host.
func TestACgroupNamespace(t *testing.T) {
	r := newRigWith(t, "overlay", func(p *parts) { p.isolators = append(p.isolators, cgroupns.New()) })
	for line := range strings.Lines(r.sh("cat /proc/self/cgroup")) {
		if controller := strings.SplitN(line, ":", 3); r.inGroup(controller[1]) && controller[2] != "/\n" {
			t.Errorf("/proc/self/cgroup says %q", line)
		}
	}
}

// inGroup reports whether the launcher has brought a container into a cgroup of its own for
// these controllers: all of the rig's, and the v2 tree.
func (r *rig) inGroup(controllers string) bool {
	for _, controller := range []string{"cpu", "memory", "pids"} {
		if slices.Contains(strings.Split(controllers, ","), controller) {
			return true
		}
	}
	return controllers == ""
}

// A variable that is a secret is where it belongs, and nowhere else while the container runs.
func TestSecretsOfTheEnvironment(t *testing.T) {
	dir, value := t.TempDir(), "s"+rand.Text()
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
	logged := &bytes.Buffer{}
	r := newRigWith(t, "overlay", func(p *parts) {
		p.isolators = append(p.isolators, environmentsecret.New(secretdir.Dir(dir)))
		p.log = slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	request := shell("echo $A-$B; exec cat")
	request.CommandInfo = &v1.CommandInfo{Environment: &v1.Environment{Variables: []*v1.Environment_Variable{
		{Name: proto.String("A"), Type: v1.Environment_Variable_SECRET.Enum(), Secret: &v1.Secret{Type: v1.Secret_VALUE.Enum(), Value: &v1.Secret_Value{Data: []byte(value)}}},
		{Name: proto.String("B"), Type: v1.Environment_Variable_SECRET.Enum(), Secret: &v1.Secret{Type: v1.Secret_REFERENCE.Enum(), Reference: &v1.Secret_Reference{Name: proto.String("password")}}},
	}}}
	c := r.start(request)
	c.says(value + "-" + value)
	found, err := exec.Command("grep", "-rl", value, r.world.Work, r.world.Runtime).CombinedOutput()
	if len(found) > 0 {
		t.Errorf("it is in %s, %v", found, err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(lines) == 0 {
		t.Fatal(lines, err)
	}
	for _, name := range lines {
		if data, _ := os.ReadFile(name); bytes.Contains(data, []byte(value)) {
			t.Errorf("%s has it: %q", name, data)
		}
	}
	if strings.Contains(logged.String(), value) {
		t.Errorf("it was logged: %s", logged)
	}
	if got := c.runIn("look", debug("echo -$A-$B-")).stdout; got != "---\n" {
		t.Errorf("who looks into the container gets %q", got)
	}
}
