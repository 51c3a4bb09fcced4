package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// testTree makes files below a temporary directory that stands for a mount point.
func testTree(t *testing.T, files map[string]string) string {
	t.Helper()
	mount := t.TempDir()
	for name, content := range files {
		path := filepath.Join(mount, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return mount
}

func readTree(t *testing.T, mount string, files map[string]string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for name := range files {
		content, err := os.ReadFile(filepath.Join(mount, name))
		if err != nil {
			t.Fatal(err)
		}
		got[name] = string(content)
	}
	return got
}

func testBranch(version Version, mount, path string, controllers ...string) branch {
	return branch{
		hierarchy:   &hierarchy{version: version, mount: mount, controllers: controllers},
		dir:         filepath.Join(mount, path),
		controllers: controllers,
	}
}

func TestParents(t *testing.T) {
	for path, want := range map[string][]string{
		"x":         nil,
		"berth/x":   {"/cg/berth"},
		"a/berth/x": {"/cg/a", "/cg/a/berth"},
	} {
		if diff := cmp.Diff(want, testBranch(V1, "/cg", path).parents()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	if diff := cmp.Diff([]string{"/berth"}, testBranch(V2, "/", "berth/x").parents()); diff != "" {
		t.Errorf("a hierarchy mounted at / (-want +got):\n%s", diff)
	}
}

func TestInheritCpuset(t *testing.T) {
	before := map[string]string{
		"cpuset.cpus": "0-7\n", "cpuset.mems": "0-1\n",
		"berth/cpuset.cpus": "2-3\n", "berth/cpuset.mems": "\n",
		"berth/x/cpuset.cpus": "\n", "berth/x/cpuset.mems": "\n",
	}
	mount := testTree(t, before)
	if err := testBranch(V1, mount, "berth/x", "cpuset").inheritCpuset(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"cpuset.cpus": "0-7\n", "cpuset.mems": "0-1\n",
		"berth/cpuset.cpus": "2-3\n", "berth/cpuset.mems": "0-1",
		"berth/x/cpuset.cpus": "2-3", "berth/x/cpuset.mems": "0-1",
	}
	if diff := cmp.Diff(want, readTree(t, mount, before)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What perf_event needs is done once, by whichever controller.
func TestEnableForPerfEvent(t *testing.T) {
	for enabled, want := range map[string]string{"\n": "+misc", "cpu\n": "cpu\n"} {
		before := map[string]string{"cgroup.controllers": "cpu pids misc\n", "cgroup.subtree_control": enabled, "a/cgroup.subtree_control": "\n"}
		mount := testTree(t, before)
		if err := testBranch(V2, mount, "a/x", "perf_event").enableControllers(); err != nil {
			t.Fatal(err)
		}
		after := readTree(t, mount, before)
		if after["cgroup.subtree_control"] != want || after["a/cgroup.subtree_control"] != "\n" {
			t.Errorf("%q became %q", before, after)
		}
	}
}

func TestEnableControllers(t *testing.T) {
	before := map[string]string{
		"cgroup.subtree_control":           "cpu memory pids io\n",
		"a/cgroup.subtree_control":         "memory\n",
		"a/berth/cgroup.subtree_control":   "memory io\n",
		"a/berth/x/cgroup.subtree_control": "\n",
	}
	mount := testTree(t, before)
	b := testBranch(V2, mount, "a/berth/x", "memory", "blkio", "cpuacct", "freezer")
	if err := b.enableControllers(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"cgroup.subtree_control":           "cpu memory pids io\n", // has all: not written
		"a/cgroup.subtree_control":         "+memory +io",
		"a/berth/cgroup.subtree_control":   "+memory +io", // the last: always written
		"a/berth/x/cgroup.subtree_control": "\n",          // the leaf holds the processes
	}
	if diff := cmp.Diff(want, readTree(t, mount, before)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
