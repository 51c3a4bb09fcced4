package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/mount"
	"berth/internal/testrig"
	"berth/isolator"
	"berth/isolator/isolatortest"
	"berth/launcher"
	"berth/launcher/plan"
)

// host is where containers of a test are.
type host struct {
	Options
	testing.TB
	run string
	log *lines

	mu   sync.Mutex
	pids map[container.ID]*exec.Cmd
}

// lines is a log.
type lines struct {
	mu  sync.Mutex
	all strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// fake is a plugin that notes what it is asked, and does what its configuration says.
const fake = `#!/bin/sh
input=$(cat)
dir=$(dirname "$0")
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME netns=${CNI_NETNS:+yes}" >> "$dir/calls"
printf '%s\n' "$input" > "$dir/input.$CNI_COMMAND"
env > "$dir/env"
[ ! -e "$dir/$CNI_COMMAND.does" ] || . "$dir/$CNI_COMMAND.does"
case $CNI_COMMAND in
ADD) echo '{"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.7/24"}, {"address": "2001:db8::7/64"}], "dns": {"nameservers": ["192.0.2.53"], "search": ["example.org"]}}' ;;
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0", "1.1.0"]}' ;;
esac
`

func newHost(t testing.TB) *host {
	dir := testrig.TempDir(t)
	h := &host{TB: t, run: filepath.Join(dir, "run"), log: &lines{}, pids: map[container.ID]*exec.Cmd{}}
	h.Options = Options{
		ConfigDir: filepath.Join(dir, "conf"), PluginDirs: []string{filepath.Join(dir, "plugins"), "/usr/lib/cni"}, Dir: filepath.Join(dir, "network"),
		Record: func(id container.ID) string { return filepath.Join(h.run, id.String()) },
		Netns:  func(id container.ID) string { return filepath.Join(h.run, id.String(), "netns") },
		Init: func(id container.ID) (int, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if cmd := h.pids[id]; cmd != nil {
				return cmd.Process.Pid, nil
			}
			return 0, container.ErrNotFound
		},
		Statistics: true, Log: slog.New(slog.NewTextHandler(h.log, nil)),
	}
	for _, dir := range []string{h.ConfigDir, h.PluginDirs[0]} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.put(h.plugin("fake"), fake)
	h.put(h.conf("lan.conf"), `{"cniVersion": "1.0.0", "name": "lan", "type": "fake", "capabilities": {"portMappings": true, "ips": true, "mac": true}}`)
	return h
}

func (h *host) plugin(name string) string { return filepath.Join(h.PluginDirs[0], name) }

func (h *host) conf(name string) string { return filepath.Join(h.ConfigDir, name) }

func (h *host) put(file, text string) {
	h.Helper()
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		h.Fatal(err)
	}
}

func (h *host) get(file string) string {
	h.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		h.Fatal(err)
	}
	return string(text)
}

// calls returns what the fake was asked since the last time.
func (h *host) calls() string {
	text, _ := os.ReadFile(h.plugin("calls"))
	_ = os.Remove(h.plugin("calls"))
	return strings.TrimSpace(string(text))
}

// fork starts the first process of a container, with a network namespace of its own.
func (h *host) fork(t *testing.T, id container.ID) int {
	t.Helper()
	if err := os.MkdirAll(h.Record(id), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.pids[id] = cmd
	h.mu.Unlock()
	t.Cleanup(func() { h.gone(t, id) })
	return cmd.Process.Pid
}

// gone ends a container, whose record stays.
func (h *host) gone(_ *testing.T, id container.ID) {
	h.mu.Lock()
	cmd := h.pids[id]
	delete(h.pids, id)
	h.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

func mustID(t testing.TB, text string) container.ID {
	t.Helper()
	id, err := container.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func on(names ...string) *v1.ContainerConfig {
	c := &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{}}
	for _, name := range names {
		c.ContainerInfo.NetworkInfos = append(c.ContainerInfo.NetworkInfos, &v1.NetworkInfo{Name: proto.String(name)})
	}
	return c
}

func withPort(c *v1.ContainerConfig, hostPort, port uint32, protocol string) *v1.ContainerConfig {
	m := &v1.NetworkInfo_PortMapping{HostPort: proto.Uint32(hostPort), ContainerPort: proto.Uint32(port)}
	if protocol != "" {
		m.Protocol = proto.String(protocol)
	}
	info := c.ContainerInfo.NetworkInfos[0]
	info.PortMappings = append(info.PortMappings, m)
	return c
}

func withAddress(c *v1.ContainerConfig, address, mac string) *v1.ContainerConfig {
	info := c.ContainerInfo.NetworkInfos[0]
	if address != "" {
		info.IpAddresses = []*v1.NetworkInfo_IPAddress{{Protocol: v1.NetworkInfo_IPv4.Enum(), IpAddress: proto.String(address)}}
	}
	if mac != "" {
		info.MacAddress = proto.String(mac)
	}
	return c
}

var bad = map[string]*v1.ContainerConfig{
	"twice": on("lan", "lan"), "none and another": on(None, "lan"), "the host's and another": on("lan", ""), "ports of the host's": withPort(on("host"), 1, 2, ""),
	"ports of none": withPort(on(None), 1, 2, ""), "port 0": withPort(on("lan"), 0, 2, ""), "port 65536": withPort(on("lan"), 1, 65536, ""),
	"a protocol": withPort(on("lan"), 1, 2, "icmp"), "a port twice": withPort(withPort(on("lan"), 1, 2, ""), 1, 3, "TCP"),
	"no address": withAddress(on("lan"), "192.0.2", ""), "an address of none": withAddress(on(None), "192.0.2.7", ""),
	"an address of another family": withAddress(on("lan"), "2001:db8::1", ""), "no hardware address": withAddress(on("lan"), "", "x"),
}

func TestConformance(t *testing.T) {
	if !testrig.OwnNetwork(t) {
		return
	}
	testrig.RequireCNIPlugins(t)
	h := newHost(t)
	isolatortest.Run(t, New(h.Options), isolatortest.Requests{Good: on("lan"), Bad: bad, Fork: h.fork, Gone: h.gone, EndsNone: true})
}

// launch prepares, forks and isolates a container.
func (h *host) launch(t *testing.T, i *Isolator, id string, config *v1.ContainerConfig) (*isolator.Container, *isolator.LaunchInfo, error) {
	t.Helper()
	c := &isolator.Container{ID: mustID(t, id), Config: config}
	pid := h.fork(t, c.ID)
	info, err := i.Prepare(t.Context(), c)
	t.Cleanup(func() { _ = i.Cleanup(context.Background(), c.ID) })
	if err == nil {
		err = i.Isolate(t.Context(), c, pid)
	}
	return c, info, err
}

// nothing is left of containers, but for the locks and the bridge.
func (h *host) nothing(t *testing.T) {
	t.Helper()
	if left, err := h.recorded(); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if mounts := h.get("/proc/self/mounts"); strings.Contains(mounts, h.run) {
		t.Errorf("left:\n%s", mounts)
	}
}

func TestAContainerOnAConfiguredNetwork(t *testing.T) {
	testrig.RequireRoot(t)
	h := newHost(t)
	i := New(h.Options)
	config := withAddress(withPort(on("lan"), 47111, 80, "UDP"), "192.0.2.7", "02:00:00:00:00:07")
	config.ContainerInfo.Hostname = proto.String("web")
	config.Rootfs = proto.String("/rootfs")
	c, info, err := h.launch(t, i, "root", config)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(info.Namespaces, []launcher.Namespace{launcher.Network}) || !info.Loopback || info.Hostname != "" || !slices.Equal(info.Env, []string{"LIBPROCESS_IP=0.0.0.0"}) {
		t.Errorf("%+v", info)
	}
	for name, want := range map[string]string{
		"hosts":       "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n192.0.2.7\tweb\n2001:db8::7\tweb\n",
		"hostname":    "web\n",
		"resolv.conf": "nameserver 192.0.2.53\nsearch example.org\n",
	} {
		file := filepath.Join(h.dir(c.ID), name)
		if got := h.get(file); got != want {
			t.Errorf("%s: %q", name, got)
		}
		if !slices.ContainsFunc(info.Mounts, func(m plan.Mount) bool {
			return m.Target == "/etc/"+name && m.Source == file && m.Flags == plan.NoSuid|plan.NoDev|plan.NoExec && m.Replace
		}) {
			t.Errorf("%s is not among %+v", name, info.Mounts)
		}
	}
	var told struct {
		RuntimeConfig struct {
			PortMappings []mapping
			IPs          []string
			Mac          string
		}
		Args map[string]struct {
			Info json.RawMessage `json:"network_info"`
		}
	}
	if err := json.Unmarshal([]byte(h.get(h.plugin("input.ADD"))), &told); err != nil {
		t.Fatal(err)
	}
	if r := told.RuntimeConfig; !slices.Equal(r.PortMappings, []mapping{{47111, 80, "udp", ""}}) || !slices.Equal(r.IPs, []string{"192.0.2.7"}) || r.Mac != "02:00:00:00:00:07" {
		t.Errorf("plugins were told %+v", told)
	}
	asked := &v1.NetworkInfo{}
	if err := v1.Unmarshal(told.Args["org.apache.mesos"].Info, asked); err != nil || !proto.Equal(asked, config.ContainerInfo.NetworkInfos[0]) {
		t.Errorf("%v, %v", asked, err)
	}
	t.Setenv("SECRET", "of berth")
	status := &v1.ContainerStatus{}
	if err := i.Status(t.Context(), c, status); err != nil || len(status.NetworkInfos) != 1 || len(status.NetworkInfos[0].IpAddresses) != 2 ||
		status.NetworkInfos[0].IpAddresses[1].GetProtocol() != v1.NetworkInfo_IPv6 || len(status.NetworkInfos[0].PortMappings) != 1 {
		t.Errorf("status %v, %v", status, err)
	}
	h.gone(t, c.ID)
	if err := i.Cleanup(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if got, want := h.calls(), "ADD root eth0 netns=yes\nDEL root eth0 netns=yes"; got != want {
		t.Errorf("plugins were asked\n%s\nwant\n%s", got, want)
	}
	if env := h.get(h.plugin("env")); strings.Contains(env, "SECRET") || !strings.Contains(env, "CNI_PATH=") {
		t.Errorf("a plugin's environment:\n%s", env)
	}
	h.nothing(t)
}

// Whatever fails, what was added before is deleted, and the error says what it was.
func TestPluginsThatFail(t *testing.T) {
	testrig.RequireRoot(t)
	defer func(before time.Duration) { timeout = before }(timeout)
	timeout = 500 * time.Millisecond
	for name, c := range map[string]struct{ does, why string }{
		"fails":               {`echo '{"code": 7, "msg": "no address is free", "details": "in this subnet"}'; exit 1`, "no address is free; in this subnet"},
		"fails without words": {`exit 3`, "exit status 3"},
		"fails loudly":        {`echo 'panic: oh no' >&2; exit 2`, "panic: oh no"},
		"hangs":               {`sleep 60`, "no answer within"},
		"answers rubbish":     {`echo '<html>'; exit 0`, "invalid character"},
		"answers for ever":    {`yes '{'`, "more than"},
		"answers nothing":     {`exit 0`, "unexpected end of JSON"},
		"another version":     {`echo '{"cniVersion": "9.9.9"}'; exit 0`, "9.9.9"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			i := New(h.Options)
			h.put(h.conf("first.conflist"), `{"cniVersion": "1.0.0", "name": "first", "plugins": [{"type": "fake"}]}`)
			h.put(h.plugin("ADD.does"), `[ $CNI_IFNAME = eth0 ] || { `+c.does+`; }`)
			container, _, err := h.launch(t, i, "c", on("first", "lan"))
			if err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), `"lan"`) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want %q", err, c.why)
			}
			h.gone(t, container.ID)
			if err := i.Cleanup(t.Context(), container.ID); err != nil {
				t.Error(err)
			}
			want := "ADD c eth0 netns=yes\nADD c eth1 netns=yes\nDEL c eth1 netns=yes\nDEL c eth0 netns=yes"
			if got := h.calls(); got != want {
				t.Errorf("plugins were asked\n%s\nwant\n%s", got, want)
			}
			h.nothing(t)
		})
	}
}

// A failed deletion is tried again, until it succeeds, and only that.
func TestADeletionThatFails(t *testing.T) {
	testrig.RequireRoot(t)
	defer func(before time.Duration) { timeout = before }(timeout)
	timeout = 500 * time.Millisecond
	for name, c := range map[string]struct{ does, why string }{
		"fails": {`echo '{"code": 11, "msg": "try later"}'; exit 1`, "try later"},
		"hangs": {`sleep 60`, "no answer within"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			i := New(h.Options)
			h.put(h.conf("second.json"), `{"cniVersion": "1.0.0", "name": "second", "type": "fake"}`)
			container, _, err := h.launch(t, i, "c", on("lan", "second"))
			if err != nil {
				t.Fatal(err)
			}
			h.calls()
			h.put(h.plugin("DEL.does"), `[ $CNI_IFNAME = eth0 ] || { `+c.does+`; }`)
			if err := i.Cleanup(t.Context(), container.ID); err == nil || !strings.Contains(err.Error(), c.why) || !strings.Contains(err.Error(), h.file(container.ID)) {
				t.Errorf("error %v", err)
			}
			if err := os.Remove(h.plugin("DEL.does")); err != nil {
				t.Fatal(err)
			}
			// By a process that has another isolation, and another configuration.
			o := h.Options
			o.ConfigDir, o.PluginDirs = "/nowhere", nil
			if err := NewLeftovers(o).Cleanup(t.Context(), container.ID); err != nil {
				t.Fatal(err)
			}
			if got, want := h.calls(), "DEL c eth1 netns=yes\nDEL c eth0 netns=yes\nDEL c eth1 netns=yes"; got != want {
				t.Errorf("plugins were asked\n%s\nwant\n%s", got, want)
			}
			h.nothing(t)
		})
	}
}

// Before any plugin was asked there is nothing to delete.
func TestDestroyedWhilePreparing(t *testing.T) {
	testrig.RequireRoot(t)
	h := newHost(t)
	i := New(h.Options)
	c := &isolator.Container{ID: mustID(t, "c"), Config: on("lan")}
	if _, err := i.Prepare(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := i.Cleanup(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if got := h.calls(); got != "" {
		t.Errorf("plugins were asked %q", got)
	}
	h.nothing(t)
}

// After a reboot there are neither records nor namespaces, and addresses are given back;
// the plugins of the network are told which attachments there are.
func TestAfterAReboot(t *testing.T) {
	testrig.RequireRoot(t)
	h := newHost(t)
	i := New(h.Options)
	h.put(h.conf("lan.conf"), `{"cniVersion": "1.1.0", "name": "lan", "type": "fake"}`)
	for _, id := range []string{"dead", "alive"} {
		if _, _, err := h.launch(t, i, id, on("lan")); err != nil {
			t.Fatal(err)
		}
	}
	h.calls()
	dead := mustID(t, "dead")
	h.gone(t, dead)
	if err := mount.Detach(h.Netns(dead)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(h.Record(dead)); err != nil {
		t.Fatal(err)
	}
	if err := New(h.Options).Recover(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got, want := h.calls(), "DEL dead eth0 netns=\nGC   netns="; got != want {
		t.Errorf("plugins were asked\n%s\nwant\n%s", got, want)
	}
	if told := h.get(h.plugin("input.GC")); !strings.Contains(told, `"cni.dev/valid-attachments":[{"containerID":"alive","ifname":"eth0"}]`) {
		t.Errorf("plugins were told %s", told)
	}
	if left, err := h.recorded(); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	if h.log.String() != "" {
		t.Errorf("log: %s", h.log)
	}
}

func TestATornRecordStopsNobody(t *testing.T) {
	testrig.RequireRoot(t)
	h := newHost(t)
	id := mustID(t, "torn")
	if err := h.makeDir(id); err != nil {
		t.Fatal(err)
	}
	h.put(h.file(id), "{")
	if err := New(h.Options).Recover(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(h.log.String(), "torn") {
		t.Errorf("log: %s", h.log)
	}
	h.nothing(t)
}

// Of a container that was taken up plugins are asked once whether all is in order.
func TestContainersThatWereTakenUpAreChecked(t *testing.T) {
	testrig.RequireRoot(t)
	h := newHost(t)
	c, _, err := h.launch(t, New(h.Options), "c", on("lan"))
	if err != nil {
		t.Fatal(err)
	}
	h.calls()
	again := New(h.Options)
	if err := again.Recover(t.Context(), []*isolator.Container{c}); err != nil {
		t.Fatal(err)
	}
	h.put(h.plugin("CHECK.does"), `echo '{"code": 100, "msg": "the route is gone"}'; exit 1`)
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for !strings.Contains(h.log.String(), "the route is gone") {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		if l, err := again.Watch(ctx, c.ID); l != nil || err != nil {
			t.Errorf("%v, %v", l, err)
		}
	}
	if got, want := h.calls(), "CHECK c eth0 netns=yes"; got != want {
		t.Errorf("plugins were asked %q, want %q", got, want)
	}
}

func TestConfigurationsComeAndGo(t *testing.T) {
	h := newHost(t)
	i := New(h.Options)
	prepare := func(name string) error {
		c := &isolator.Container{ID: mustID(t, "c"), Config: on(name)}
		_, err := i.Prepare(t.Context(), c)
		return errors.Join(err, i.Cleanup(t.Context(), c.ID))
	}
	if err := prepare("new"); !errors.Is(err, container.ErrNotFound) || !strings.Contains(err.Error(), "unknown CNI network") || !strings.Contains(err.Error(), "lan") {
		t.Errorf("error %v", err)
	}
	h.put(h.conf("new.conflist"), `{"cniVersion": "1.0.0", "name": "new", "plugins": [{"type": "fake", "ipam": {"type": "fake"}}]}`)
	h.put(h.conf("a.conf"), `{`)
	h.put(h.conf("z.conf"), `{"name": "new", "type": "absent"}`) // and not the first of its name
	if err := prepare("new"); err != nil {
		t.Error(err)
	}
	if err := os.Remove(h.conf("new.conflist")); err != nil {
		t.Fatal(err)
	}
	if err := prepare("new"); !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), `"absent"`) || !strings.Contains(err.Error(), "containernetworking-plugins") {
		t.Errorf("error %v", err)
	}
	if err := os.Remove(h.conf("z.conf")); err != nil {
		t.Fatal(err)
	}
	if err := prepare("new"); !errors.Is(err, container.ErrNotFound) || !strings.Contains(err.Error(), "a.conf") {
		t.Errorf("error %v", err)
	}
	h.put(h.conf("plain.conf"), `{"cniVersion": "1.0.0", "name": "plain", "type": "fake"}`)
	for what, config := range map[string]*v1.ContainerConfig{
		"portMappings": withPort(on("plain"), 1, 2, ""), "ips": withAddress(on("plain"), "192.0.2.1", ""), "mac": withAddress(on("plain"), "", "02:00:00:00:00:01"),
	} {
		if _, err := i.Prepare(t.Context(), &isolator.Container{ID: mustID(t, "c"), Config: config}); !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := i.Prepare(t.Context(), &isolator.Container{ID: mustID(t, "café"), Config: on("lan")}); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("an id that networks do not know: %v", err)
	}
}

func TestPortsAreClaimedOnce(t *testing.T) {
	if !testrig.OwnNetwork(t) {
		return
	}
	h := newHost(t)
	i := New(h.Options)
	prepare := func(id string, config *v1.ContainerConfig) error {
		_, err := i.Prepare(t.Context(), &isolator.Container{ID: mustID(t, id), Config: config})
		return err
	}
	at := func(c *v1.ContainerConfig, ip string) *v1.ContainerConfig {
		c.ContainerInfo.NetworkInfos[0].PortMappings[0].HostIp = proto.String(ip)
		return c
	}
	for _, c := range []struct {
		id     string
		config *v1.ContainerConfig
		fails  bool
	}{
		{"a", withPort(on("lan"), 8080, 80, ""), false},
		{"b", withPort(on("lan"), 8080, 80, "udp"), false},
		{"c", withPort(on("lan"), 8080, 81, "tcp"), true},
		{"d", at(withPort(on("lan"), 8080, 81, "tcp"), "127.0.0.1"), true},
		{"e", at(withPort(on("lan"), 9090, 81, "tcp"), "127.0.0.1"), false},
		{"f", at(withPort(on("lan"), 9090, 81, "tcp"), "127.0.0.2"), false},
	} {
		if err := prepare(c.id, c.config); errors.Is(err, container.ErrFailedPrecondition) != c.fails || err != nil && !strings.Contains(err.Error(), "container a") {
			t.Errorf("%s: %v", c.id, err)
		}
	}
	if err := i.Cleanup(t.Context(), mustID(t, "a")); err != nil {
		t.Fatal(err)
	}
	if err := prepare("c", withPort(on("lan"), 8080, 81, "tcp")); err != nil {
		t.Error(err)
	}
	// One of the host's own.
	server := exec.Command("/bin/busybox", "nc", "-l", "-p", "7070")
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	for free(mapping{HostPort: 7070, Protocol: "tcp"}) == nil {
		time.Sleep(time.Millisecond)
	}
	if err := prepare("g", withPort(on("lan"), 7070, 80, "")); !errors.Is(err, container.ErrFailedPrecondition) || !strings.Contains(err.Error(), "7070") {
		t.Errorf("error %v", err)
	}
}

// Who has no network has no servers to ask, and neither has who is nested in it.
func TestFilesWithoutANetwork(t *testing.T) {
	testrig.RequireRoot(t)
	h := newHost(t)
	i := New(h.Options)
	config := on(None)
	config.Rootfs = proto.String("/rootfs")
	root := &isolator.Container{ID: mustID(t, "root"), Config: config}
	nested := &isolator.Container{ID: mustID(t, "root.child"), Config: &v1.ContainerConfig{Rootfs: proto.String("/rootfs")}, Parent: root}
	for _, c := range []*isolator.Container{root, nested} {
		info, err := i.Prepare(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		var sources []string
		for _, m := range info.Mounts {
			sources = append(sources, m.Source)
		}
		if want := []string{filepath.Join(h.dir(root.ID), hosts), filepath.Join(h.dir(root.ID), hostname)}; !slices.Equal(sources, want) {
			t.Errorf("%s: %q, not %q", c.ID, sources, want)
		}
	}
	if got := h.get(filepath.Join(h.dir(root.ID), hostname)); got != "root\n" {
		t.Errorf("it is called %q", got)
	}
	if err := i.Cleanup(t.Context(), root.ID); err != nil {
		t.Error(err)
	}
}

func TestNestedContainers(t *testing.T) {
	testrig.RequireRoot(t)
	h := newHost(t)
	i := New(h.Options)
	root, _, err := h.launch(t, i, "root", on("lan"))
	if err != nil {
		t.Fatal(err)
	}
	nested := func(config *v1.ContainerConfig) *isolator.LaunchInfo {
		config.Rootfs = proto.String("/rootfs")
		c := &isolator.Container{ID: mustID(t, "root.child"), Config: config, Parent: root}
		info, err := i.Prepare(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if err := i.Cleanup(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		return info
	}
	joined := nested(&v1.ContainerConfig{})
	if !slices.Equal(joined.Enter, []launcher.Namespace{launcher.Network}) || len(joined.Namespaces) > 0 || len(joined.Mounts) != 3 || joined.Mounts[0].Source != filepath.Join(h.dir(root.ID), "hosts") {
		t.Errorf("without networks: %+v", joined)
	}
	own := nested(on("lan"))
	if len(own.Enter) > 0 || !slices.Equal(own.Namespaces, []launcher.Namespace{launcher.Network}) || !strings.Contains(own.Mounts[0].Source, "root.child") {
		t.Errorf("with one of its own: %+v", own)
	}
	if host := nested(on("")); len(host.Enter)+len(host.Namespaces) > 0 || host.Mounts[0].Flags&plan.ReadOnly == 0 {
		t.Errorf("on the host's: %+v", host)
	}
	if isolator.Supports(i, &isolator.Container{Parent: root, Config: &v1.ContainerConfig{ContainerClass: v1.ContainerClass_DEBUG.Enum()}}) {
		t.Error("a container for debugging is asked for networks")
	}
	status := &v1.ContainerStatus{}
	if err := i.Status(t.Context(), &isolator.Container{ID: mustID(t, "root.child"), Config: &v1.ContainerConfig{}, Parent: root}, status); err != nil || len(status.NetworkInfos) != 1 {
		t.Errorf("status %v, %v", status, err)
	}
}

func TestFilesAndVolumes(t *testing.T) {
	testrig.RequireRoot(t)
	h := newHost(t)
	i := New(h.Options)
	volume := func(at string) *v1.ContainerConfig {
		c := on()
		c.Rootfs = proto.String("/rootfs")
		c.ContainerInfo.Volumes = []*v1.Volume{{ContainerPath: proto.String(at), HostPath: proto.String("/srv"), Mode: v1.Volume_RO.Enum()}}
		return c
	}
	for at, want := range map[string]string{"/etc": "", "/etc/hosts": "/etc/hostname /etc/resolv.conf", "/etc/hosts.d": "/etc/hosts /etc/hostname /etc/resolv.conf", "etc": "/etc/hosts /etc/hostname /etc/resolv.conf"} {
		info, err := i.Prepare(t.Context(), &isolator.Container{ID: mustID(t, "c"), Config: volume(at)})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range info.Mounts {
			got = append(got, m.Target)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("with a volume at %s: %q", at, got)
		}
		if err := i.Cleanup(t.Context(), mustID(t, "c")); err != nil {
			t.Error(err)
		}
	}
	if info, err := i.Prepare(t.Context(), &isolator.Container{ID: mustID(t, "c"), Config: on()}); info != nil || err != nil {
		t.Errorf("on the host's network and file system: %+v, %v", info, err)
	}
	h.nothing(t)
}

func TestServersOfTheOperator(t *testing.T) {
	testrig.RequireRoot(t)
	h := newHost(t)
	h.put(h.plugin("silent"), `#!/bin/sh
case $CNI_COMMAND in
ADD) echo '{"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.8/24"}]}' ;;
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
esac
`)
	for _, name := range []string{"one", "two"} {
		h.put(h.conf(name+".conf"), `{"cniVersion": "1.0.0", "name": "`+name+`", "type": "silent"}`)
	}
	var err error
	h.DNS, err = ParseServers([]byte(`{"docker": [{"network_mode": "BRIDGE"}], "mesos": [
		{"network_mode": "CNI", "network_name": "one", "dns": {"nameservers": ["192.0.2.1", "192.0.2.2"], "domain": "a", "search": ["b", "c"], "options": ["ndots:2"]}},
		{"network_mode": "CNI", "dns": {"nameservers": ["192.0.2.3"]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	i := New(h.Options)
	for network, want := range map[string]string{
		"one": "nameserver 192.0.2.1\nnameserver 192.0.2.2\ndomain a\nsearch b c\noptions ndots:2\n",
		"two": "nameserver 192.0.2.3\n",
		"lan": "nameserver 192.0.2.53\nsearch example.org\n", // whose plugin knows
	} {
		c, _, err := h.launch(t, i, "c", on(network))
		if err != nil {
			t.Fatal(err)
		}
		if got := h.get(filepath.Join(h.dir(c.ID), resolv)); got != want {
			t.Errorf("on %s: %q, want %q", network, got, want)
		}
		h.gone(t, c.ID)
		if err := i.Cleanup(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
	}
	const dns = `"dns": {"nameservers": ["192.0.2.1"]}`
	for name, text := range map[string]string{
		"no JSON": `{`, "twice": `{"mesos": [{"network_mode": "CNI", ` + dns + `}, {"network_mode": "CNI", ` + dns + `}]}`,
		"another mode": `{"mesos": [{"network_mode": "HOST", ` + dns + `}]}`, "no servers": `{"mesos": [{"network_mode": "CNI"}]}`,
	} {
		if _, err := ParseServers([]byte(text)); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServersBehindTheHostsLoopback(t *testing.T) {
	dir := t.TempDir()
	defer func(a, b string) { etc, resolvedConfig = a, b }(etc, resolvedConfig)
	etc, resolvedConfig = dir, filepath.Join(dir, "resolved")
	for _, c := range []struct{ host, resolved, want string }{
		{"nameserver 192.0.2.1\nsearch a\n", "", "nameserver 192.0.2.1\nsearch a\n"},
		{"nameserver 127.0.0.53\nnameserver 192.0.2.1\n", "", "nameserver 192.0.2.1\n"},
		{"nameserver 127.0.0.53\nsearch a\n", "nameserver 192.0.2.9\n", "nameserver 192.0.2.9\n"},
		{"nameserver ::1\n", "", ""},
		{"", "", ""},
	} {
		for name, text := range map[string]string{resolv: c.host, "resolved": c.resolved} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := reachableServers(); err != nil || string(got) != c.want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}

func TestSubnets(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, c := range []struct {
		used []string
		want string
	}{
		{nil, "10.201.0.0/20"},
		{[]string{"10.201.0.5/32", "10.201.16.0/24"}, "10.201.32.0/20"},
		{[]string{"10.0.0.0/8"}, "172.28.0.0/20"},
		{[]string{"10.0.0.0/8", "172.16.0.0/12"}, "192.168.0.0/20"},
		{[]string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}, ""},
	} {
		var used []netip.Prefix
		for _, u := range c.used {
			used = append(used, prefix(u))
		}
		got, err := freeSubnet(used)
		if c.want == "" && errors.Is(err, container.ErrFailedPrecondition) {
			continue
		}
		if err != nil || got != prefix(c.want) {
			t.Errorf("%q: %v, %v, want %s", c.used, got, err, c.want)
		}
	}
}

// ip configures the network namespace of the test.
func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %q: %v %s", args, err, out)
	}
}

// The chosen subnet is kept, until the host has come to use it.
func TestTheSubnetOfTheBridge(t *testing.T) {
	if !testrig.OwnNetwork(t) {
		return
	}
	h := newHost(t)
	ip := func(args ...string) {
		t.Helper()
		ip(t, args...)
	}
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		if got, err := h.subnets(false); err != nil || got.Subnet.String() != want || got.Subnet6.IsValid() {
			t.Errorf("%v, %v, want %s", got, err, want)
		}
	}
	ip("link", "add", "lan0", "type", "bridge")
	ip("addr", "add", "10.201.3.4/16", "dev", "lan0")
	ip("link", "set", "lan0", "up")
	expect("10.202.0.0/20")
	ip("addr", "del", "10.201.3.4/16", "dev", "lan0")
	expect("10.202.0.0/20")
	ip("route", "add", "10.202.0.0/24", "dev", "lan0", "table", "77")
	expect("10.201.0.0/20")
	ip("link", "add", h.bridgeName(), "type", "bridge")
	ip("route", "add", "10.201.0.0/24", "dev", "lan0")
	expect("10.201.0.0/20") // somebody may be on it

	six, err := h.subnets(true)
	if err != nil || !netip.MustParsePrefix("fd00::/8").Contains(six.Subnet6.Addr()) || six.Subnet6.Bits() != 64 || six.Subnet.String() != "10.201.0.0/20" {
		t.Errorf("with IPv6: %v, %v", six, err)
	}
	expect("10.201.0.0/20") // without it again
	if again, err := h.subnets(true); again != six || err != nil {
		t.Errorf("another one: %v, %v, then %v", six, err, again)
	}
}

// What the host lacks is said, and what asks for it is refused.
func TestABridgeWithoutIPv6(t *testing.T) {
	if !testrig.OwnNetwork(t) {
		return
	}
	setting := func(name, value string) {
		t.Helper()
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	lacks := func(word string) {
		t.Helper()
		if err := ipv6(t.Context()); word == "" && err != nil || word != "" && (!errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), word)) {
			t.Errorf("%v, want %q", err, word)
		}
	}
	ip(t, "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
	setting("lan0/accept_dad", "0")
	ip(t, "link", "set", "lan0", "up")
	ip(t, "link", "set", "lan1", "up")
	lacks("no IPv6 address")
	ip(t, "addr", "add", "2001:db8::1/64", "dev", "lan0")
	lacks("")
	ip(t, "-6", "route", "add", "default", "via", "fe80::1", "dev", "lan0", "proto", "ra")
	lacks("net.ipv6.conf.lan0.accept_ra")
	setting("lan0/accept_ra", "2")
	lacks("")
	setting("lan0/accept_ra", "1")
	setting("all/forwarding", "1")
	lacks("")
	setting("default/disable_ipv6", "1")
	lacks("net.ipv6.conf.default.disable_ipv6")
	setting("default/disable_ipv6", "0")
	t.Setenv("PATH", "/nowhere")
	lacks("ip6tables")

	none := fmt.Errorf("%w: it is off", container.ErrNotSupported)
	info := func(c *v1.ContainerConfig) *v1.NetworkInfo { return c.ContainerInfo.NetworkInfos[0] }
	at := func(host string) *v1.NetworkInfo {
		n := info(withPort(on(Bridge), 8080, 80, ""))
		n.PortMappings[0].HostIp = proto.String(host)
		return n
	}
	six := info(withAddress(on(Bridge), "fd00::7", ""))
	six.IpAddresses[0].Protocol = v1.NetworkInfo_IPv6.Enum()
	for name, c := range map[string]struct {
		info    *v1.NetworkInfo
		noIPv6  error
		refused bool
	}{
		"a port":                         {info(withPort(on(Bridge), 8080, 80, "")), none, false},
		"a port at an address of IPv4":   {at("127.0.0.1"), none, false},
		"a port at an address of IPv6":   {at("2001:db8::1"), none, true},
		"the same where there is IPv6":   {at("2001:db8::1"), nil, false},
		"a port at every one":            {at("::"), none, true},
		"a port at the loopback address": {at("::1"), nil, true},
		"an address of IPv4":             {info(withAddress(on(Bridge), "10.201.0.7", "")), none, false},
		"an address of IPv6":             {six, none, true},
		"the same where there is":        {six, nil, false},
	} {
		if err := checkIPv6(c.info, c.noIPv6); errors.Is(err, container.ErrNotSupported) != c.refused {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMappingsThatConflict(t *testing.T) {
	m := func(host string) mapping { return mapping{HostPort: 80, Protocol: "tcp", HostIP: host} }
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"", "", true}, {"", "127.0.0.1", true}, {"", "::1", true}, {"0.0.0.0", "127.0.0.1", true}, {"0.0.0.0", "::1", false},
		{"::", "::1", true}, {"::", "127.0.0.1", false}, {"0.0.0.0", "::", false}, {"127.0.0.1", "127.0.0.2", false}, {"127.0.0.1", "127.0.0.1", true},
	} {
		if m(c.a).conflicts(m(c.b)) != c.want || m(c.b).conflicts(m(c.a)) != c.want {
			t.Errorf("%q and %q: %v", c.a, c.b, !c.want)
		}
	}
	udp := m("")
	udp.Protocol = "udp"
	if udp.conflicts(m("")) {
		t.Error("of two protocols")
	}
}

// Members of the bridge have addresses of IPv6, too, by which they reach each other and
// others, and their ports can be reached at the host's.
func TestTheBridgeWithIPv6(t *testing.T) {
	if !testrig.OwnNetwork(t) {
		return
	}
	testrig.RequireCNIPlugins(t)
	h := newHost(t)
	outside := fmt.Sprint(h.fork(t, mustID(t, "outside")))
	in := func(pid string, args ...string) string {
		t.Helper()
		out, err := exec.Command("nsenter", append([]string{"-n", "-t", pid}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v %s", args, err, out)
		}
		return string(out)
	}
	ip(t, "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", outside)
	ip(t, "addr", "add", "2001:db8::1/64", "dev", "lan0", "nodad")
	ip(t, "link", "set", "lan0", "up")
	in(outside, "ip", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
	in(outside, "ip", "link", "set", "eth0", "up")

	i := New(h.Options)
	_, _, err := h.launch(t, i, "c", withPort(on(Bridge), 8080, 80, ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.launch(t, i, "d", on(Bridge)); err != nil {
		t.Fatal(err)
	}
	check := func() error { return i.Check(t.Context(), mustID(t, "c")) }
	if err := check(); err != nil {
		t.Error(err)
	}
	rec, err := h.subnets(true)
	if err != nil {
		t.Fatal(err)
	}
	gateway := rec.Subnet6.Addr().Next()
	address := gateway.Next()
	pid := func(id string) string {
		p, err := h.Init(mustID(t, id))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(p)
	}
	if got := in(pid("c"), "ip", "-6", "addr", "show", "eth0"); !strings.Contains(got, address.String()+"/64") {
		t.Errorf("eth0: %s", got)
	}
	for _, to := range []netip.Addr{gateway, address, netip.MustParseAddr("2001:db8::2")} {
		// The first answer takes until the bridge has made sure that its address is nobody else's.
		in(pid("d"), "busybox", "ping", "-6", "-c", "1", "-W", "60", to.String())
	}

	www := t.TempDir()
	h.put(filepath.Join(www, "index.html"), "it is c\n")
	server := exec.Command("nsenter", "-n", "-t", pid("c"), "busybox", "httpd", "-f", "-p", "80", "-h", www)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	for !strings.Contains(h.get("/proc/"+pid("c")+"/net/tcp6"), ":0050 ") {
		time.Sleep(time.Millisecond)
	}
	reach := func(pid, at string) {
		t.Helper()
		if got := in(pid, "busybox", "wget", "-q", "-O", "-", "http://"+at+":8080/"); got != "it is c\n" {
			t.Errorf("%s answers %q", at, got)
		}
	}
	self := fmt.Sprint(os.Getpid())
	reach(outside, "[2001:db8::1]")
	reach(self, "[2001:db8::1]")
	reach(self, "127.0.0.1")
	reach(pid("c"), "[2001:db8::1]") // and back to itself

	for _, family := range []string{"iptables", "ip6tables"} {
		saved := in(self, family+"-save", "-t", "nat")
		in(self, family, "-t", "nat", "-F", "CNI-HOSTPORT-DNAT")
		if err := check(); err == nil || !strings.Contains(err.Error(), "8080") || strings.Count(err.Error(), "no rule") != 1 {
			t.Errorf("nobody misses the rules of %s: %v", family, err)
		}
		restore := exec.Command(family + "-restore")
		restore.Stdin = strings.NewReader(saved)
		if out, err := restore.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		if err := check(); err != nil {
			t.Error(err)
		}
	}
	for _, id := range []string{"c", "d"} {
		h.gone(t, mustID(t, id))
		if err := i.Cleanup(t.Context(), mustID(t, id)); err != nil {
			t.Fatal(err)
		}
	}
	if rules := in(self, "ip6tables-save"); strings.Contains(rules, rec.Subnet6.Addr().String()) || strings.Contains(rules, `id: \"c\"`) {
		t.Errorf("left: %s", rules)
	}
	if left, _ := filepath.Glob(h.leases() + "/*/fd*"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	h.nothing(t)
}

// With the standard plugins: addresses, traffic, the check, and the end of it.
func TestTheBridge(t *testing.T) {
	if !testrig.OwnNetwork(t) {
		return
	}
	testrig.RequireCNIPlugins(t)
	h := newHost(t)
	i := New(h.Options)
	c, _, err := h.launch(t, i, "c", withAddress(withPort(on(Bridge), 8080, 80, ""), "10.201.0.77", "02:00:00:00:00:77"))
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Check(t.Context(), c.ID); err != nil {
		t.Error(err)
	}
	pid, _ := h.Init(c.ID)
	inside := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("nsenter", append([]string{"-n", "-t", fmt.Sprint(pid)}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v %s", args, err, out)
		}
		return string(out)
	}
	if got := inside("ip", "addr", "show", "eth0"); !strings.Contains(got, "10.201.0.77/20") || !strings.Contains(got, "02:00:00:00:00:77") {
		t.Errorf("eth0: %s", got)
	}
	usage := &v1.ResourceStatistics{}
	inside("ip", "addr", "del", "10.201.0.77/20", "dev", "eth0")
	if err := i.Check(t.Context(), c.ID); err == nil {
		t.Error("nobody misses the address")
	}
	inside("ip", "addr", "add", "10.201.0.77/20", "dev", "eth0")
	inside("/bin/busybox", "ping", "-c", "3", "-i", "0.1", "10.201.0.1")
	if err := i.Usage(t.Context(), c.ID, usage); err != nil || usage.GetNetTxPackets() < 3 || usage.GetNetRxBytes() < 3*64 || usage.NetRxDropped == nil {
		t.Errorf("%v, %v", usage, err)
	}
	h.gone(t, c.ID)
	if err := i.Cleanup(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if rules, err := exec.Command("iptables-save").CombinedOutput(); err != nil || strings.Contains(string(rules), "10.201.0.77") || strings.Contains(string(rules), `id: \"c\"`) {
		t.Errorf("left: %v %s", err, rules)
	}
	if left, _ := filepath.Glob(h.leases() + "/*/10.*"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	h.nothing(t)
	all, err := h.Networks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		if n.Err != nil {
			t.Errorf("network %s: %v", n.Name, n.Err)
		}
	}
	o := h.Options
	o.PluginDirs = []string{"/nowhere"}
	all, err = o.Networks(t.Context())
	if err != nil || len(all) != 4 || all[2].Name != Bridge || !errors.Is(all[2].Err, container.ErrNotSupported) {
		t.Errorf("without plugins: %+v, %v", all, err)
	}
}
