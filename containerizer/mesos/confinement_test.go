//go:build linux

package mesos

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/capability"
	"berth/isolator/linux/capabilities"
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
