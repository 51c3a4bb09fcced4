package hugetlb

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

func limited(size string, mib float64) *v1.ContainerConfig {
	return &v1.ContainerConfig{Limits: map[string]*v1.Value_Scalar{prefix + size: {Value: proto.Float64(mib)}}}
}

func size(t *testing.T) string {
	t.Helper()
	names, err := sizes()
	if err != nil || len(names) == 0 {
		t.Skip("this kernel has no huge pages: ", err)
	}
	return names[0]
}

func TestConformance(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	size := size(t)
	isolatortest.Run(t, New(groups), isolatortest.Requests{Good: limited(size, 2), Fork: groups.Fork, Gone: groups.Gone, Bad: map[string]*v1.ContainerConfig{
		"no such size": limited("3MB", 6), "no size": limited("", 6), "negative": limited(size, -1), "NaN": limited(size, math.NaN()),
		"beyond all numbers": limited(size, 1e300), "a file": limited("2MB/../2MB", 1),
	}})
}

func TestNamesOfSizes(t *testing.T) {
	for kib, want := range map[uint64]string{64: "64KB", 1024: "1MB", 2048: "2MB", 1 << 20: "1GB", 16 << 20: "16GB"} {
		if got := name(kib); got != want {
			t.Errorf("%d KiB: %s", kib, got)
		}
	}
}

func TestSettings(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.rsvd.limit_in_bytes", "hugetlb.1GB.limit_in_bytes", "hugetlb.2MB.max", "hugetlb.1GB.max"} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := &isolator.Container{Config: limited("2MB", 4)}
	for version, want := range map[cgroup.Version][]cgroup.Setting{
		cgroup.V1: {{File: "hugetlb.2MB.rsvd.limit_in_bytes", Value: "4194304"}, {File: "hugetlb.2MB.limit_in_bytes", Value: "4194304"}, {File: "hugetlb.1GB.limit_in_bytes", Value: "-1"}},
		cgroup.V2: {{File: "hugetlb.2MB.max", Value: "4194304"}, {File: "hugetlb.1GB.max", Value: "max"}},
	} {
		if diff := cmp.Diff(want, settings(cgroup.DirAt(dir, version), []string{"2MB", "1GB"}, c)); diff != "" {
			t.Errorf("%s: %s", version, diff)
		}
	}
}

func TestTheKernelTakesTheBounds(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	size := size(t)
	for value, mib := range map[string]float64{"least": 0, "greatest": most / mib, "odd": 0.3, "none": math.Inf(1)} {
		id, err := container.ParseID(value)
		if err != nil {
			t.Fatal(err)
		}
		groups.Fork(t, id)
		if err := New(groups).Isolate(t.Context(), &isolator.Container{ID: id, Config: limited(size, mib)}, 1); err != nil {
			t.Errorf("%s: %v", value, err)
		}
	}
}
