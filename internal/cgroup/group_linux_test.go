package cgroup

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/container"
)

func TestGroupBranches(t *testing.T) {
	type want struct {
		dirs   []string
		keeper string
	}
	for _, test := range []struct {
		name        string
		host        *Host
		controllers []string
		want        want
	}{
		{
			"v1: the freezer is the keeper, co-mounted controllers are one",
			testHost(t, pureV1Mounts, pureV1Own, ""),
			[]string{"cpu", "cpuacct", "memory"},
			want{
				[]string{"/sys/fs/cgroup/freezer/berth/x freezer", "/sys/fs/cgroup/cpu,cpuacct/berth/x cpu,cpuacct", "/sys/fs/cgroup/memory/berth/x memory"},
				"/sys/fs/cgroup/freezer/berth/x",
			},
		},
		{
			"v1: a hierarchy without controllers",
			testHost(t, pureV1Mounts, pureV1Own, ""),
			[]string{"name=systemd"},
			want{
				[]string{"/sys/fs/cgroup/freezer/berth/x freezer", "/sys/fs/cgroup/systemd/berth/x name=systemd"},
				"/sys/fs/cgroup/freezer/berth/x",
			},
		},
		{
			"v2: one directory for all",
			testHost(t, pureV2Mounts, pureV2Own, "cpu io memory pids"),
			[]string{"cpu", "cpuacct", "blkio", "freezer", "devices", "pids"},
			want{[]string{"/sys/fs/cgroup/berth/x freezer,cpu,cpuacct,blkio,devices,pids"}, "/sys/fs/cgroup/berth/x"},
		},
		{
			"v2: no controller at all",
			testHost(t, pureV2Mounts, pureV2Own, ""),
			nil,
			want{[]string{"/sys/fs/cgroup/berth/x "}, "/sys/fs/cgroup/berth/x"},
		},
		{
			"hybrid: the v2 tree is the keeper and comes first",
			testHost(t, hybridMounts, hybridOwn, ""),
			[]string{"memory", "memory", "cpu"},
			want{
				[]string{"/sys/fs/cgroup/unified/berth/x ", "/sys/fs/cgroup/memory/berth/x memory", "/sys/fs/cgroup/cpu,cpuacct/berth/x cpu"},
				"/sys/fs/cgroup/unified/berth/x",
			},
		},
		{
			"hybrid: a freezer that was asked for comes before the keeper",
			testHost(t, hybridMounts, hybridOwn, ""),
			[]string{"memory", "freezer"},
			want{
				[]string{"/sys/fs/cgroup/freezer/berth/x freezer", "/sys/fs/cgroup/unified/berth/x ", "/sys/fs/cgroup/memory/berth/x memory"},
				"/sys/fs/cgroup/unified/berth/x",
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			g, err := test.host.Group("berth/x", test.controllers)
			if err != nil {
				t.Fatal(err)
			}
			got := want{keeper: g.keeper().dir}
			for _, b := range g.branches {
				got.dirs = append(got.dirs, b.dir+" "+strings.Join(b.controllers, ","))
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(want{})); diff != "" {
				t.Errorf("branches (-want +got):\n%s", diff)
			}
			again, err := test.host.Group(g.Path(), g.Controllers())
			if err != nil {
				t.Fatal(err)
			}
			if again.keeper().dir != g.keeper().dir || len(again.branches) != len(g.branches) {
				t.Errorf("reopened by its path and controllers %q: other branches", g.Controllers())
			}
		})
	}
}

func TestGroupRemembersItsFreezerWhenAV2TreeAppears(t *testing.T) {
	before, err := testHost(t, pureV1Mounts, pureV1Own, "").Group("berth/x", []string{"memory"})
	if err != nil {
		t.Fatal(err)
	}
	after, err := testHost(t, hybridMounts, hybridOwn, "").Group(before.Path(), before.Controllers())
	if err != nil {
		t.Fatal(err)
	}
	if dir, err := after.Dir("freezer"); err != nil || dir.Path() != "/sys/fs/cgroup/freezer/berth/x" {
		t.Errorf("the freezer, where the processes are, is lost: %v, %v", dir, err)
	}
}

func TestGroupNamesWhatIsMissing(t *testing.T) {
	for _, test := range []struct {
		name        string
		host        *Host
		controllers []string
		want        []string
	}{
		{
			"v2 without the controller", testHost(t, pureV2Mounts, pureV2Own, "cpu pids"), []string{"cpu", "memory"},
			[]string{`"memory"`, "cpu,pids (v2)", "delegate it to /sys/fs/cgroup", "Delegate=yes", "cgroup_enable=memory"},
		},
		{
			"v1 only", testHost(t, pureV1Mounts, pureV1Own, ""), []string{"pids"},
			[]string{`"pids"`, "cpu,cpuacct (v1), memory (v1)", "mount -t cgroup -o pids cgroup"},
		},
		{"nothing mounted", testHost(t, "", "", ""), nil, []string{"keeper", `"freezer"`, "no cgroup hierarchy is mounted"}},
		{"named", testHost(t, pureV2Mounts, pureV2Own, ""), []string{"name=systemd"}, []string{"-o none,name=systemd"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.host.Group("berth/x", test.controllers)
			if !errors.Is(err, container.ErrNotSupported) {
				t.Fatalf("got %v, want class ErrNotSupported", err)
			}
			for _, want := range append(test.want, "berth/x") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

func TestGroupRefusesPathsThatLeadElsewhere(t *testing.T) {
	host := testHost(t, pureV2Mounts, pureV2Own, "")
	for _, path := range []string{"", ".", "..", "/berth", "../berth", "berth/../..", "berth/", "berth//x", "./berth", "berth/x\ny", "berth/\x00"} {
		if _, err := host.Group(path, nil); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("path %q: got %v, want class ErrInvalid", path, err)
		}
	}
}

func TestGroupDir(t *testing.T) {
	g, err := testHost(t, hybridMounts, hybridOwn, "").Group("berth/x", []string{"cpu", "devices"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		controller string
		want       Dir
	}{
		{"cpu", DirAt("/sys/fs/cgroup/cpu,cpuacct/berth/x", V1)},
		{"devices", DirAt("/sys/fs/cgroup/unified/berth/x", V2)},
	} {
		if got, err := g.Dir(test.controller); err != nil || got.Path() != test.want.Path() || got.Version() != test.want.Version() {
			t.Errorf("Dir(%q): got %v, %v; want %v", test.controller, got, err, test.want)
		}
	}
	// cpuacct shares the hierarchy of cpu and was not asked for.
	for _, controller := range []string{"memory", "cpuacct", ""} {
		if _, err := g.Dir(controller); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("Dir(%q): got %v, want class ErrNotFound", controller, err)
		}
	}
}
