package engine

import (
	"errors"
	"slices"
	"strings"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/isolator"
)

// picky is an isolator that says what it supports.
type picky struct {
	silent
	support isolator.Support
}

func (p *picky) Supports() isolator.Support { return p.support }

// chosenBeside are silent isolators of these names, beside one that is always there.
func chosenBeside(names ...string) (chosen []NamedIsolator) {
	for _, name := range append([]string{"filesystem/linux"}, names...) {
		chosen = append(chosen, NamedIsolator{name, &silent{}})
	}
	return chosen
}

func asking(t *testing.T, text string) *isolator.Container {
	t.Helper()
	config := &v1.ContainerConfig{}
	if err := v1.Unmarshal([]byte(text), config); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return &isolator.Container{Config: config}
}

func TestWhatNobodyWouldCarryOutIsRefused(t *testing.T) {
	tried := make(map[int]bool)
	for _, c := range []struct {
		request, name string
		by            []string
	}{
		{`{"container_info": {"type": "MESOS", "hostname": "web"}}`, "hostname", []string{"namespaces/uts"}},
		{`{"container_info": {"type": "MESOS", "network_infos": [{"name": "none"}]}}`, "network_infos", []string{"network/cni"}},
		{`{"container_info": {"type": "MESOS", "hostname": "web", "network_infos": [{"name": "none"}]}}`, "network_infos", []string{"network/cni"}},
		{`{"container_info": {"type": "MESOS", "linux_info": {"effective_capabilities": {}}}}`, "capabilities", []string{"linux/capabilities"}},
		{`{"container_info": {"type": "MESOS", "linux_info": {"bounding_capabilities": {"capabilities": ["CHOWN"]}}}}`, "capabilities", []string{"linux/capabilities"}},
		{`{"container_info": {"type": "MESOS", "linux_info": {"capability_info": {}}}}`, "capabilities", []string{"linux/capabilities"}},
		{`{"security": {"add_capabilities": ["CHOWN"]}}`, "capabilities", []string{"linux/capabilities"}},
		{`{"security": {"drop_capabilities": ["ALL"]}}`, "capabilities", []string{"linux/capabilities"}},
		{`{"security": {"no_new_privileges": true}}`, "no_new_privileges", []string{"linux/capabilities", "linux/nnp"}},
		{`{"security": {"seccomp_profile": "{}"}}`, "seccomp", []string{"linux/seccomp"}},
		{`{"container_info": {"type": "MESOS", "linux_info": {"seccomp": {"profile_name": "p"}}}}`, "seccomp", []string{"linux/seccomp"}},
		{`{"container_info": {"type": "MESOS", "linux_info": {"seccomp": {}}}}`, "seccomp", []string{"linux/seccomp"}},
		{`{"security": {"apparmor_profile": "docker-default"}}`, "apparmor_profile", []string{"linux/label"}},
		{`{"security": {"selinux_label": "a:b:c:d"}}`, "selinux_label", []string{"linux/label"}},
		{`{"container_info": {"type": "MESOS", "linux_info": {"share_pid_namespace": false}}}`, "share_pid_namespace", []string{"namespaces/pid"}},
		{`{"container_info": {"type": "MESOS", "linux_info": {"ipc_mode": "PRIVATE"}}}`, "ipc_mode", []string{"namespaces/ipc"}},
		{`{"container_info": {"type": "MESOS", "linux_info": {"ipc_mode": "SHARE_PARENT"}}}`, "ipc_mode", []string{"namespaces/ipc"}},
		{`{"container_info": {"type": "MESOS", "linux_info": {"shm_size": 64}}}`, "shm_size", []string{"namespaces/ipc"}},
		{`{"container_info": {"type": "MESOS", "linux_info": {"user_namespace": {}}}}`, "user_namespace", []string{"namespaces/user"}},
		{`{"container_info": {"type": "MESOS", "rlimit_info": {"rlimits": [{"type": "RLMT_CORE"}]}}}`, "rlimit_info", []string{"posix/rlimits"}},
		{`{"container_info": {"type": "MESOS", "cgroups": {"devices": [{"device": {"path": "/dev/fuse"}, "access": {"read": true}}]}}}`, "cgroups.devices", []string{"cgroups/devices"}},
		{`{"container_info": {"type": "MESOS", "cgroups": {"cpuset_cpus": "0"}}}`, "cgroups.cpuset_cpus", []string{"cgroups/cpuset"}},
		{`{"container_info": {"type": "MESOS", "cgroups": {"cpuset_mems": "0"}}}`, "cgroups.cpuset_mems", []string{"cgroups/cpuset"}},
		{`{"container_info": {"type": "MESOS", "cgroups": {"blkio": {"weight": 10}}}}`, "cgroups.blkio", []string{"cgroups/blkio"}},
		{`{"container_info": {"type": "MESOS", "cgroups": {"net_prio": [{"interface": "lo", "priority": 1}]}}}`, "cgroups.net_prio", []string{"cgroups/net_prio"}},
		{`{"limits": {"cpus": {"value": 1}}}`, "limit of cpus", []string{"cgroups/cpu"}},
		{`{"limits": {"mem": {"value": 64}}}`, "limit of mem", []string{"cgroups/mem"}},
		{`{"limits": {"pids": {"value": 64}}}`, "limit of pids", []string{"cgroups/pids"}},
		{`{"limits": {"disk": {"value": 64}}}`, "limit of disk", []string{"disk/du", "disk/xfs"}},
		{`{"limits": {"hugetlb.2MB": {"value": 64}}}`, "limit of huge pages", []string{"cgroups/hugetlb"}},
		{`{"limits": {"bandwidth": {"value": 64}}}`, `limit of ["bandwidth"]`, nil},
		{`{"resources": [{"name": "gpus", "type": "SCALAR", "scalar": {"value": 1}}]}`, "gpus", nil},
	} {
		asked := asking(t, c.request)
		for at, w := range wishes {
			if slices.Equal(w.by, c.by) && strings.Contains(w.name, c.name) && w.asked(asked) {
				tried[at] = true
			}
		}
		err := checkRequest(chosenBeside())(asked)
		if !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), c.name) || !strings.Contains(err.Error(), strings.Join(c.by, " or ")) {
			t.Errorf("%s: got %v, want it refused by %q, with %q", c.request, err, c.name, c.by)
		}
		for _, name := range c.by {
			if err := checkRequest(chosenBeside(name))(asked); err != nil {
				t.Errorf("%s with %s: %v", c.request, name, err)
			}
		}
		if err := checkRequest(append(chosenBeside(), NamedIsolator{"third/one", &silent{}}))(asked); err != nil {
			t.Errorf("%s, which an isolator of others may know: %v", c.request, err)
		}
	}
	for at, w := range wishes {
		if !tried[at] {
			t.Errorf("nothing here asks for %s, which %q do", w.name, w.by)
		}
		for _, name := range w.by {
			if !slices.ContainsFunc(isolators, func(i tableEntry) bool { return i.name == name }) {
				t.Errorf("%s: there is no isolator %s", w.name, name)
			}
		}
	}
}

// Whatever isolators take part.
func TestResourcesThatAreNoneAreRefused(t *testing.T) {
	asked := asking(t, `{"resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": -1}}]}`)
	for name, chosen := range map[string][]NamedIsolator{
		"without the isolator": chosenBeside(), "with it": chosenBeside("cgroups/cpu"), "with one of others": append(chosenBeside(), NamedIsolator{"third/one", &silent{}}),
	} {
		if err := checkRequest(chosen)(asked); !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), `resource "cpus"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What promises nobody anything, and what is so without an isolator.
func TestWhatNeedsNoIsolatorIsNotRefused(t *testing.T) {
	for name, request := range map[string]string{
		"nothing": `{}`,
		"what a client of Mesos always requests": `{"resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 1}}, {"name": "mem", "type": "SCALAR", "scalar": {"value": 64}},
			{"name": "disk", "type": "SCALAR", "scalar": {"value": 64}}, {"name": "ports", "type": "RANGES", "ranges": {"range": [{"begin": 31000, "end": 31000}]}}]}`,
		"limits that limit nothing": `{"limits": {"cpus": {"value": "Infinity"}, "mem": {"value": "Infinity"}, "hugetlb.2MB": {"value": "Infinity"}, "x": {"value": "Infinity"}}}`,
		"no filter":                 `{"container_info": {"type": "MESOS", "linux_info": {"seccomp": {"unconfined": true}}}}`,
		"the host's network":        `{"container_info": {"type": "MESOS", "network_infos": [{"name": "host"}]}}`,
		"the host's processes":      `{"container_info": {"type": "MESOS", "linux_info": {"share_pid_namespace": true}}}`,
	} {
		if err := checkRequest(chosenBeside())(asking(t, request)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An isolator that takes part, but not for such a container, carries nothing out for it.
func TestWhoIsNotAskedForAContainerCarriesNothingOut(t *testing.T) {
	parent := &isolator.Container{Config: &v1.ContainerConfig{}}
	for name, c := range map[string]struct {
		request, by, words string
		support            isolator.Support
	}{
		"looking into another": {`{"container_class": "DEBUG", "container_info": {"type": "MESOS", "hostname": "x"}}`, "namespaces/uts", "DEBUG", isolator.Support{Nested: true, SharedCgroups: true}},
		"in its parent's cgroups": {`{"container_info": {"type": "MESOS", "linux_info": {"share_cgroups": true}, "cgroups": {"cpuset_cpus": "0"}}}`, "cgroups/cpuset", "share_cgroups: false",
			isolator.Support{Nested: true}},
		"nested": {`{"container_info": {"type": "MESOS", "linux_info": {"share_cgroups": false}}, "limits": {"disk": {"value": 5}}}`, "disk/xfs", "nested", isolator.Support{}},
	} {
		asked := asking(t, c.request)
		asked.Parent = parent
		err := checkRequest([]NamedIsolator{{"filesystem/linux", &silent{}}, {c.by, &picky{support: c.support}}})(asked)
		if !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), c.by) {
			t.Errorf("%s: %v", name, err)
		}
	}
	shares := asking(t, `{"container_class": "DEBUG", "container_info": {"type": "MESOS", "linux_info": {"ipc_mode": "SHARE_PARENT", "share_pid_namespace": false}}}`)
	shares.Parent = parent
	if err := checkRequest(chosenBeside())(shares); err != nil {
		t.Errorf("who looks into a container shares its namespaces: %v", err)
	}
}

func TestTheEngineRefusesBeforeAnythingIsMade(t *testing.T) {
	c := config(t)
	c.Isolation = []string{"filesystem/linux"}
	e, _ := openEngine(t, c)
	id, err := container.ParseID("hurried")
	if err != nil {
		t.Fatal(err)
	}
	request := asking(t, `{"command_info": {"shell": true, "value": "true"}, "limits": {"mem": {"value": 64}}}`)
	err = e.Launch(t.Context(), id, containerizer.Request{Config: request.Config})
	if !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), "--isolation=cgroups/mem") {
		t.Errorf("got %v", err)
	}
	if _, err := e.Containerizer.Wait(t.Context(), id); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("it is still known: %v", err)
	}
}
