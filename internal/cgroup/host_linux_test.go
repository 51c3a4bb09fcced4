package cgroup

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/sys/mountinfo"
)

// rootMount is a line of another file system, too long for the scanner of the library.
var rootMount = "27 1 254:0 / / rw,relatime - overlay overlay rw,lowerdir=" + strings.Repeat("/layer:", 20000) + "\n"

const (
	pureV1Mounts = `31 23 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
32 31 0:27 / /sys/fs/cgroup/systemd rw,nosuid shared:10 - cgroup cgroup rw,xattr,release_agent=/lib/systemd/systemd-cgroups-agent,name=systemd
33 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:11 - cgroup cgroup rw,cpu,cpuacct
34 31 0:29 / /sys/fs/cgroup/memory rw,nosuid shared:12 - cgroup cgroup rw,memory
35 31 0:30 / /sys/fs/cgroup/freezer rw,nosuid shared:13 - cgroup cgroup rw,freezer
36 31 0:31 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid shared:14 - cgroup cgroup rw,net_cls,net_prio
`
	pureV1Own = `5:net_cls,net_prio:/
4:freezer:/
3:memory:/user.slice
2:cpu,cpuacct:/user.slice
1:name=systemd:/user.slice/user-0.slice/session-1.scope
`
	pureV2Mounts = `29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`
	pureV2Own = "0::/user.slice/user-0.slice/session-1.scope\n"

	hybridMounts = `31 23 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
32 31 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
33 31 0:28 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
34 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:12 - cgroup cgroup rw,cpu,cpuacct
35 31 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:13 - cgroup cgroup rw,memory
36 31 0:31 / /sys/fs/cgroup/freezer rw,nosuid shared:14 - cgroup cgroup rw,freezer
`
	hybridOwn = `4:freezer:/
3:memory:/user.slice
2:cpu,cpuacct:/user.slice
1:name=systemd:/user.slice
0::/user.slice
`
	// Every v1 controller by itself, and one left for v2.
	separateMounts = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	separateOwn = `4:pids:/
3:blkio:/
2:cpuacct:/
1:cpu:/
0::/
`
)

// testHost builds a host from texts. controllers is the content of its
// cgroup.controllers file.
func testHost(t *testing.T, mounts, own, controllers string) *Host {
	t.Helper()
	host, err := parseHost(strings.NewReader(mounts), own,
		func(m *mountinfo.Info) bool { return !strings.Contains(m.Mountpoint, "covered") },
		func(string) (string, error) { return controllers, nil })
	if err != nil {
		t.Fatal(err)
	}
	return host
}

func TestParseHost(t *testing.T) {
	v1 := func(mount string, controllers ...string) hierarchy { return hierarchy{V1, mount, controllers} }
	v2 := func(mount string, controllers ...string) hierarchy { return hierarchy{V2, mount, controllers} }
	for _, test := range []struct {
		name, mounts, own, controllers string
		want                           []hierarchy
	}{
		{
			name: "pure v1", mounts: pureV1Mounts, own: pureV1Own,
			want: []hierarchy{
				v1("/sys/fs/cgroup/systemd", "name=systemd"),
				v1("/sys/fs/cgroup/cpu,cpuacct", "cpu", "cpuacct"),
				v1("/sys/fs/cgroup/memory", "memory"),
				v1("/sys/fs/cgroup/freezer", "freezer"),
				v1("/sys/fs/cgroup/net_cls,net_prio", "net_cls", "net_prio"),
			},
		},
		{
			name: "pure v2", mounts: pureV2Mounts, own: pureV2Own, controllers: "cpuset cpu io memory pids",
			want: []hierarchy{v2("/sys/fs/cgroup", "cpuset", "cpu", "io", "memory", "pids")},
		},
		{
			name: "hybrid: v1 before v2", mounts: hybridMounts, own: hybridOwn,
			want: []hierarchy{
				v1("/sys/fs/cgroup/systemd", "name=systemd"),
				v1("/sys/fs/cgroup/cpu,cpuacct", "cpu", "cpuacct"),
				v1("/sys/fs/cgroup/memory", "memory"),
				v1("/sys/fs/cgroup/freezer", "freezer"),
				v2("/sys/fs/cgroup/unified"),
			},
		},
		{
			name: "hybrid with a controller on v2", mounts: separateMounts, own: separateOwn, controllers: "hugetlb",
			want: []hierarchy{
				v1("/sys/fs/cgroup/cpu", "cpu"),
				v1("/sys/fs/cgroup/cpuacct", "cpuacct"),
				v1("/sys/fs/cgroup/blkio", "blkio"),
				v1("/sys/fs/cgroup/pids", "pids"),
				v2("/sys/fs/cgroup/unified", "hugetlb"),
			},
		},
		{
			name: "mounted twice: the whole wins over a part, the first over the second",
			mounts: `32 31 0:29 /box /part/cpu rw - cgroup cgroup rw,cpu
33 31 0:29 / /first/cpu rw - cgroup cgroup rw,cpu
34 31 0:29 / /second/cpu rw - cgroup cgroup rw,cpu
35 31 0:30 /box /part/pids rw - cgroup cgroup rw,pids
`,
			own:  "2:pids:/box\n1:cpu:/box\n",
			want: []hierarchy{v1("/first/cpu", "cpu"), v1("/part/pids", "pids")},
		},
		{
			name: "in a cgroup namespace: the root lies above",
			mounts: `32 31 0:29 /../.. /sys/fs/cgroup rw - cgroup2 cgroup rw
`,
			own: "0::/\n", controllers: "pids",
			want: []hierarchy{v2("/sys/fs/cgroup", "pids")},
		},
		{
			name: "a mount that another one covers does not count",
			mounts: `32 31 0:29 / /covered/cpu rw - cgroup cgroup rw,cpu
33 31 0:29 / /elsewhere/cpu rw - cgroup cgroup rw,cpu
`,
			own:  "1:cpu:/\n",
			want: []hierarchy{v1("/elsewhere/cpu", "cpu")},
		},
		{
			name: "a space in the mount point",
			mounts: `32 31 0:29 / /my\040cgroups rw - cgroup cgroup rw,cpu
`,
			own:  "1:cpu:/\n",
			want: []hierarchy{v1("/my cgroups", "cpu")},
		},
		{name: "nothing mounted", mounts: "", own: pureV2Own},
		{
			name: "a v1 mount whose options name nothing known", own: pureV2Own,
			mounts: `32 31 0:29 / /odd rw - cgroup cgroup rw,none
`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			host := testHost(t, rootMount+test.mounts, test.own, test.controllers)
			if diff := cmp.Diff(test.want, host.hierarchies, cmp.AllowUnexported(hierarchy{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("hierarchies (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseHostTellsBrokenInput(t *testing.T) {
	always := func(*mountinfo.Info) bool { return true }
	unreadable := errors.New("no luck")
	if _, err := parseHost(strings.NewReader(pureV2Mounts), pureV2Own, always, func(mount string) (string, error) {
		return "", fmt.Errorf("read %s: %w", mount, unreadable)
	}); !errors.Is(err, unreadable) {
		t.Errorf("unreadable cgroup.controllers: got %v", err)
	}
	if _, err := parseHost(strings.NewReader("32 31 - cgroup cgroup rw\n"), "", always, nil); err == nil {
		t.Error("a mountinfo line that is too short was accepted")
	}
}

// Whatever a host has mounted after its hierarchies, as root file systems of a thousand
// containers, is not read: it would be most of what a start takes.
func TestParseHostStopsWhereAllIsFound(t *testing.T) {
	for name, host := range map[string]struct{ mounts, own string }{
		"v1": {pureV1Mounts, pureV1Own}, "v2": {pureV2Mounts, pureV2Own}, "hybrid": {hybridMounts, hybridOwn},
	} {
		rest := strings.NewReader(strings.Repeat(rootMount, 10))
		_, err := parseHost(io.MultiReader(strings.NewReader(host.mounts), rest), host.own,
			func(*mountinfo.Info) bool { return true }, func(string) (string, error) { return "", nil })
		if read := rest.Size() - int64(rest.Len()); err != nil || read > longestLine {
			t.Errorf("%s: read %d bytes more, %v", name, read, err)
		}
	}
}

func TestVersion(t *testing.T) {
	hosts := map[string]*Host{
		"v1":     testHost(t, pureV1Mounts, pureV1Own, ""),
		"v2":     testHost(t, pureV2Mounts, pureV2Own, "cpuset cpu io memory pids"),
		"hybrid": testHost(t, hybridMounts, hybridOwn, ""),
		"mixed":  testHost(t, separateMounts, separateOwn, "hugetlb"),
		"none":   testHost(t, "", pureV2Own, ""),
	}
	const no = Version(0)
	for _, test := range []struct {
		host, controller string
		want             Version
	}{
		{"v1", "cpu", V1}, {"v1", "cpuacct", V1}, {"v1", "freezer", V1}, {"v1", "name=systemd", V1},
		{"v1", "pids", no}, {"v1", "devices", no}, {"v1", "blkio", no},
		{"v2", "cpu", V2}, {"v2", "memory", V2}, {"v2", "blkio", V2}, {"v2", "cpuacct", V2},
		{"v2", "devices", V2}, {"v2", "freezer", V2}, {"v2", "perf_event", V2},
		{"v2", "hugetlb", no}, {"v2", "net_cls", no}, {"v2", "name=systemd", no}, {"v2", "", no},
		{"hybrid", "memory", V1}, {"hybrid", "freezer", V1}, {"hybrid", "cpuacct", V1},
		{"hybrid", "devices", V2}, {"hybrid", "pids", no},
		{"mixed", "blkio", V1}, {"mixed", "pids", V1}, {"mixed", "hugetlb", V2}, {"mixed", "memory", no},
		{"none", "cpu", no}, {"none", "freezer", no},
	} {
		got, ok := hosts[test.host].Version(test.controller)
		if got != test.want || ok != (test.want != no) {
			t.Errorf("host %s, controller %q: got %v, %v; want %v", test.host, test.controller, got, ok, test.want)
		}
	}
}
