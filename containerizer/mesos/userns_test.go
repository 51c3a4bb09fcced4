//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/isolator"
	"berth/isolator/namespaces/user"
)

// userPool has the ids of two containers.
var userPool = container.IDRange{Start: 3_000_000_000, Size: 2 * user.Size}

// mapped asks for a user namespace: of a range of its own, or of a given one.
func mapped(c *v1.ContainerConfig, ids ...container.IDRange) *v1.ContainerConfig {
	if c.ContainerInfo.LinuxInfo == nil {
		c.ContainerInfo.LinuxInfo = &v1.LinuxInfo{}
	}
	asked := &v1.UserNamespaceInfo{}
	for _, r := range ids {
		asked.Range = &v1.UserNamespaceInfo_Range{Start: &r.Start, Size: &r.Size}
	}
	c.ContainerInfo.LinuxInfo.UserNamespace = asked
	return c
}

// idsOf returns the user and group of a process, on the host.
func idsOf(t *testing.T, pid int) [2]string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var ids [2]string
	for line := range strings.Lines(string(status)) {
		for i, name := range []string{"Uid:", "Gid:"} {
			if fields := strings.Fields(line); fields[0] == name {
				ids[i] = fields[1]
			}
		}
	}
	return ids
}

const fromInside = `id -u; id -g
tr -s ' ' </proc/self/uid_map
stat -c '%u:%g %a' / /bin/busybox /tmp
echo x >/root-file; stat -c %u:%g /root-file
chown 1000:100 /root-file; stat -c %u:%g /root-file
stat -c %u:%g "$MESOS_SANDBOX"; echo s >"$MESOS_SANDBOX/mine"; stat -c %u:%g "$MESOS_SANDBOX/mine"
mkdir /m && mount -t tmpfs tmpfs /m && touch /m/x && umount /m && echo mounted
hostname inside && hostname
echo y >/dev/null; head -c 1 /dev/zero | wc -c; echo z >/dev/shm/z && cat /dev/shm/z
cat /proc/1/status | grep -c CapEff:.*0000000000
ls /proc | grep -c '^[0-9]*$' >/dev/null && readlink /proc/self/fd/0 >/dev/null && echo proc`

// Root of a container has its capabilities there, and its files are root's on disk.
func TestAUserNamespaceFromInside(t *testing.T) {
	for _, backend := range []string{"overlay", "copy"} {
		t.Run(backend, func(t *testing.T) {
			r := newRigWith(t, backend, nil)
			c := mapped(shell(fromInside + "\nsleep 1000"))
			c.ContainerInfo.NetworkInfos = []*v1.NetworkInfo{{Name: proto.String("none")}}
			box := r.start(c)
			box.says("proc\n")
			want := fmt.Sprintf("0\n0\n 0 %d %d\n0:0 755\n0:0 755\n0:0 1777\n0:0\n1000:100\n0:0\n0:0\nmounted\ninside\n1\nz\n0\nproc\n", userPool.Start, user.Size)
			if got, stderr := box.output(); got != want {
				t.Errorf("it prints\n%s%s\nnot\n%s", got, stderr, want)
			}
			start := strconv.FormatUint(uint64(userPool.Start), 10)
			for _, pid := range []int{box.initOf(), box.processOf()} {
				if got := idsOf(t, pid); got != [2]string{start, start} {
					t.Errorf("on the host process %d is of %s", pid, got)
				}
			}
			for path, owner := range map[string][2]uint32{r.Layout.Sandbox(box.id): {0, 0}, filepath.Join(r.Layout.Sandbox(box.id), "mine"): {0, 0}} {
				var st unix.Stat_t
				if err := unix.Lstat(path, &st); err != nil || [2]uint32{st.Uid, st.Gid} != owner {
					t.Errorf("%s is of %d:%d, %v", path, st.Uid, st.Gid, err)
				}
			}
			ephemeral := r.launchOf(box.id).container.Config.GetEphemeralVolumes()[0]
			var st unix.Stat_t
			want32 := uint32(1000)
			if backend == "copy" { // whose tree is below the mount
				want32 = userPool.OnHost(1000)
			}
			if err := unix.Lstat(filepath.Join(ephemeral, "root-file"), &st); err != nil || st.Uid != want32 {
				t.Errorf("what it wrote is of %d, %v", st.Uid, err)
			}
		})
	}
}

// launchOf returns what the containerizer knows of a container.
func (r *rig) launchOf(id container.ID) *launch {
	r.Helper()
	e, err := r.find(id)
	if err != nil {
		r.Fatal(err)
	}
	return e.launch
}

const tryToGetOut = `try() { if (eval "$2") >/dev/null 2>&1; then echo "$1 YES"; else echo "$1 no"; fi; }
try mknod 'mknod /tmp/null c 1 3'
try disk 'mknod /tmp/disk b 254 0'
try sysctl 'umount /proc/sys; echo 1 >/proc/sys/vm/overcommit_memory'
try sysrq 'umount /proc/sysrq-trigger; echo h >/proc/sysrq-trigger'
try kcore 'umount /proc/kcore; head -c 1 /proc/kcore'
try sysfs 'mount -o remount,rw,bind /sys; echo 0 >/sys/kernel/mm/ksm/run'
try foreign 'cat /vol/foreign'
try take 'chown 0:0 /vol/foreign'
try raise 'mount -o remount,suid,dev,bind /vol'
try init 'cat /proc/1/root/../canary'
try module 'modprobe dummy || insmod /tmp/x.ko'
try unmapped 'chown 70000 /tmp'
try host 'hostname'
`

// What root cannot do in a user namespace, whatever else is in its way.
func TestAUserNamespaceKeepsRootIn(t *testing.T) {
	r := newRig(t)
	volume := filepath.Join(r.dir, "volume")
	foreign := filepath.Join(volume, "foreign")
	if err := errors.Join(os.Mkdir(volume, 0o755), os.WriteFile(foreign, []byte("secret"), 0o600), os.Chown(foreign, 70000, 70000)); err != nil {
		t.Fatal(err)
	}
	c := mapped(shell(tryToGetOut))
	c.ContainerInfo.Volumes = []*v1.Volume{{HostPath: &volume, ContainerPath: proto.String("/vol"), Mode: v1.Volume_RW.Enum()}}
	hostname, _ := os.Hostname()
	o := r.run(c)
	if lines := strings.Split(strings.TrimSpace(o.stdout), "\n"); o.code() != 0 || len(lines) != 13 {
		t.Fatalf("%d, %v\n%s%s", o.code(), o.err, o.stdout, o.stderr)
	}
	for line := range strings.Lines(o.stdout) {
		// The control: that a try can succeed.
		if want := map[bool]string{true: "YES\n", false: "no\n"}[strings.HasPrefix(line, "host ")]; !strings.HasSuffix(line, want) && !strings.HasPrefix(line, "raise ") {
			t.Errorf("out: %s", line)
		}
	}
	if now, _ := os.Hostname(); now != hostname {
		t.Errorf("the host is called %q", now)
	}
	var st unix.Stat_t
	if err := unix.Stat(foreign, &st); err != nil || st.Uid != 70000 {
		t.Errorf("the file on the host is of %d, %v", st.Uid, err)
	}
}

// Volumes and secrets are for root of the container what they are without the namespace,
// and nothing of them is chowned.
func TestVolumesInAUserNamespace(t *testing.T) {
	r := newRig(t)
	volume := filepath.Join(r.dir, "volume")
	if err := errors.Join(os.Mkdir(volume, 0o755), os.WriteFile(filepath.Join(volume, "mine"), nil, 0o600), os.Chown(filepath.Join(volume, "mine"), 1000, 100)); err != nil {
		t.Fatal(err)
	}
	at := func(v *v1.Volume, path string, mode v1.Volume_Mode) *v1.Volume {
		v.ContainerPath, v.Mode = &path, mode.Enum()
		return v
	}
	const rw, ro = v1.Volume_RW, v1.Volume_RO
	sandbox := &v1.Volume{Source: &v1.Volume_Source{Type: v1.Volume_Source_SANDBOX_PATH.Enum(),
		SandboxPath: &v1.Volume_Source_SandboxPath{Type: v1.Volume_Source_SandboxPath_SELF.Enum(), Path: proto.String("in")}}}
	secret := &v1.Volume{Source: &v1.Volume_Source{Type: v1.Volume_Source_SECRET.Enum(),
		Secret: &v1.Secret{Type: v1.Secret_VALUE.Enum(), Value: &v1.Secret_Value{Data: []byte("hidden\n")}}}}
	c := mapped(shell(`cd /v; stat -c '%n %u:%g %a' host/mine sandbox tmp /v/image/tmp secret data; cat secret
touch host/new sandbox/new tmp/new image/new data/new; stat -c '%n %u:%g' host/new sandbox/new tmp/new image/new data/new; touch ro/x 2>/dev/null || echo read-only`))
	c.ContainerInfo.Volumes = []*v1.Volume{
		at(&v1.Volume{HostPath: &volume}, "/v/host", rw),
		at(&v1.Volume{HostPath: &volume}, "/v/ro", ro),
		at(&v1.Volume{HostPath: proto.String("scratch")}, "/v/tmp", rw),
		at(&v1.Volume{Image: imageInfo(baseImage).GetMesos().GetImage()}, "/v/image", rw),
		at(sandbox, "/v/sandbox", rw), at(secret, "/v/secret", ro),
	}
	c.Resources = []*v1.Resource{{Name: proto.String("disk"), Type: v1.Value_SCALAR.Enum(), Role: proto.String("role"),
		Disk: &v1.Resource_DiskInfo{Persistence: &v1.Resource_DiskInfo_Persistence{Id: proto.String("data")},
			Volume: &v1.Volume{ContainerPath: proto.String("/v/data"), Mode: rw.Enum()}}}}
	const want = `host/mine 1000:100 600
sandbox 0:0 755
tmp 0:0 755
/v/image/tmp 0:0 1777
secret 0:0 400
data 0:0 755
hidden
host/new 0:0
sandbox/new 0:0
tmp/new 0:0
image/new 0:0
data/new 0:0
read-only
`
	if o := r.run(c); o.stdout != want {
		t.Errorf("%d, %v\n%s%s\nnot\n%s", o.code(), o.err, o.stdout, o.stderr, want)
	}
	for path, owner := range map[string]uint32{volume: 0, volume + "/mine": 1000, volume + "/new": 0,
		r.Layout.PersistentVolume("role", "data"): 0, filepath.Join(r.Layout.PersistentVolume("role", "data"), "new"): 0} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Uid != owner {
			t.Errorf("%s is of %d, %v", path, st.Uid, err)
		}
	}
}

// A set-user-id file of an image makes a user root of the container, who may open a raw
// socket in its own network. Of busybox, ping is one that keeps the rights.
func TestSetUserIDInAUserNamespace(t *testing.T) {
	r := newRig(t)
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	img := r.image(imageWith("app", "/"), pack(file("bin/suid", 0o4755, string(data)), file("bin/plain", 0o755, string(data))))
	c := mapped(config(img, "sh", "-c", `for kind in plain suid; do
	ln -s /bin/$kind /tmp/ping; /tmp/ping -c 1 127.0.0.1 >/dev/null 2>&1 && echo $kind; rm /tmp/ping
done; id -u; echo done; exec sleep 1000`))
	c.ContainerInfo.NetworkInfos = []*v1.NetworkInfo{{Name: proto.String("none")}}
	box := r.start(c)
	box.says("done\n")
	if out, stderr := box.output(); out != "suid\n1000\ndone\n" {
		t.Errorf("%q %s", out, stderr)
	}
	// The user of the command is one of the range on the host, too.
	if got := idsOf(t, box.processOf())[0]; got != strconv.FormatUint(uint64(userPool.OnHost(1000)), 10) {
		t.Errorf("the command is of user %s", got)
	}
}

func TestRangesOfContainers(t *testing.T) {
	r := newRig(t)
	sleep := func() *v1.ContainerConfig { return config(baseImage, "sleep", "1000") }
	first, second := r.start(mapped(sleep())), r.start(mapped(sleep()))
	ids := func(b *box) container.IDRange { return r.launchOf(b.id).container.IDs }
	if a, b := ids(first), ids(second); a.Overlaps(b) || a.Size != user.Size || b.Size != user.Size {
		t.Errorf("%v and %v", a, b)
	}
	if o := r.run(mapped(shell("true"))); !errors.Is(o.err, container.ErrUnavailable) || !strings.Contains(o.err.Error(), "--userns_range") {
		t.Errorf("the pool is exhausted: %v", o.err)
	}
	if o := r.run(mapped(shell("true"), ids(first))); !errors.Is(o.err, container.ErrExists) {
		t.Errorf("of another one: %v", o.err)
	}
	// Those that are asked for are the business of who asks.
	asked := container.IDRange{Start: 3_500_000_000, Size: 100_000}
	r.start(mapped(sleep(), asked))
	if o := r.run(mapped(config(baseImage, "sh", "-c", "id -u; cat /proc/self/gid_map | tr -s ' '"), asked)); o.stdout != "0\n 0 3500000000 100000\n" {
		t.Errorf("%v, %q", o.err, o.stdout)
	}
	high := mapped(config(baseImage, "id", "-u"), asked)
	high.User = proto.String("99999")
	if o := r.run(high); o.stdout != "99999\n" {
		t.Errorf("%v, %q %s", o.err, o.stdout, o.stderr)
	}
	if _, err := r.Destroy(context.Background(), first.id); err != nil {
		t.Fatal(err)
	}
	if again := ids(r.start(mapped(sleep()))); again != userPool && again.Start != userPool.Start {
		t.Errorf("what was free again is %v", again)
	}
}

func TestBadUserNamespaces(t *testing.T) {
	r := newRig(t)
	outside := mapped(shell("true"))
	outside.User = proto.String("65536")
	onHost := &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{Type: v1.ContainerInfo_MESOS.Enum()}, ImageArguments: []string{"true"}}
	both := mapped(shell("true"))
	both.ContainerInfo.Volumes = []*v1.Volume{{ContainerPath: proto.String("/v"), Mode: v1.Volume_RW.Enum(), Source: &v1.Volume_Source{
		Type: v1.Volume_Source_HOST_PATH.Enum(), HostPath: &v1.Volume_Source_HostPath{Path: &r.dir,
			MountPropagation: &v1.MountPropagation{Mode: v1.MountPropagation_BIDIRECTIONAL.Enum()}}}}}
	proc := mapped(shell("true"))
	proc.ContainerInfo.Volumes = []*v1.Volume{{HostPath: proto.String("/proc"), ContainerPath: proto.String("/v"), Mode: v1.Volume_RO.Enum()}}
	for name, c := range map[string]struct {
		config *v1.ContainerConfig
		class  error
		says   string
	}{
		"a user outside of it":       {outside, container.ErrInvalid, "0 to 65535"},
		"no image":                   {mapped(onHost), container.ErrNotSupported, "run an image"},
		"ids of the host":            {mapped(shell("true"), container.IDRange{Start: 1000, Size: 65536}), container.ErrInvalid, "users of the host"},
		"too few":                    {mapped(shell("true"), container.IDRange{Start: 100000, Size: 1000}), container.ErrInvalid, "65536"},
		"mounts that reach the host": {both, container.ErrInvalid, ""},
		"what cannot be idmapped":    {proc, container.ErrNotSupported, "/proc"},
	} {
		if o := r.run(c.config); !errors.Is(o.err, c.class) || !strings.Contains(o.err.Error(), c.says) {
			t.Errorf("%s: %v", name, o.err)
		}
	}
	r.assertNothingLeft()
	without := newRigWith(t, "overlay", func(p *parts) {
		p.isolators = slices.DeleteFunc(p.isolators, func(i isolator.Isolator) bool { _, is := i.(*user.Isolator); return is })
	})
	if o := without.run(mapped(shell("true"))); !errors.Is(o.err, container.ErrNotSupported) || !strings.Contains(o.err.Error(), "namespaces/user") {
		t.Errorf("without the isolator: %v", o.err)
	}
}

// An agent that comes back knows who has which ids.
func TestRangesAreTakenUp(t *testing.T) {
	r := newRig(t)
	r.diesAfter(helper{ID: "c", Mapped: true, Args: []string{"sleep", "1000"}})
	r.agent()
	id := mustID(t, "c")
	if ids := r.launchOf(id).container.IDs; ids.Start != userPool.Start || ids.Size != user.Size {
		t.Errorf("it has %v", ids)
	}
	box := r.start(mapped(config(baseImage, "sleep", "1000")))
	if ids := r.launchOf(box.id).container.IDs; ids.Start != userPool.Start+user.Size {
		t.Errorf("another one has %v", ids)
	}
	if _, err := r.Destroy(t.Context(), box.id); err != nil {
		t.Error(err)
	}
	r.gone(id)
}

// Whatever a killed process leaves of a container with a user namespace, the next finds.
func TestAUserNamespaceKilledAnywhere(t *testing.T) {
	for _, backend := range []string{"overlay", "copy"} {
		r := newRigWith(t, backend, nil)
		for _, point := range []string{"prepared", "forked", "isolated", "released"} {
			r.startHelper(helper{ID: "c", Mapped: true, Args: []string{"sleep", "1000"}, Die: point}).diesKilled()
			if err := r.Recover(t.Context()); err != nil {
				t.Errorf("%s, killed at %s: %v", backend, point, err)
			}
			r.assertNothingLeft()
		}
	}
}

// The same of one that is nested, or looks into another.
func TestNestedInAUserNamespaceKilledAnywhere(t *testing.T) {
	r := newRig(t)
	for nested, at := range map[string][]string{"in": {"prepared", "forked", "isolated", "released"}, "debug": {"forked", "releasing", "released"}} {
		for _, point := range at {
			r.startHelper(helper{ID: "c", Mapped: true, Args: []string{"sleep", "1000"}, Nested: []string{nested}, Die: point}).diesKilled()
			if err := r.Recover(t.Context()); err != nil {
				t.Errorf("%s, killed at %s: %v", nested, point, err)
			}
			r.assertNothingLeft()
		}
	}
}

// What nobody holds goes to the sandbox, and is the user's, who can open it by name.
func TestLogsInAUserNamespace(t *testing.T) {
	for name, logs := range map[string]containerizer.Logs{"unbounded": {}, "bounded": {MaxSize: containerizer.MinLogSize, MaxFiles: 2}} {
		r := newRig(t)
		id := r.newID()
		c := mapped(shell(`echo one; echo two >>/dev/stdout; stat -c %u "$MESOS_SANDBOX/stdout" >&2; sleep 1000`))
		c.User = proto.String("app")
		if err := r.Launch(t.Context(), id, containerizer.Request{Config: c, Logs: logs, Keeper: containerizer.Foreground}); err != nil {
			t.Fatal(err)
		}
		for file, want := range map[string]string{"stdout": "one\ntwo\n", "stderr": "1000\n"} {
			path := filepath.Join(r.Layout.Sandbox(id), file)
			soon(t, name+": "+file, func() bool {
				data, _ := os.ReadFile(path)
				return string(data) == want
			})
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil || st.Uid != 1000 {
				t.Errorf("%s: %s is of %d, %v", name, file, st.Uid, err)
			}
		}
		if _, err := r.Destroy(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}
