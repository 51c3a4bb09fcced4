package cpu

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

func config(requested, limit *float64) *v1.ContainerConfig {
	c := &v1.ContainerConfig{}
	if requested != nil {
		c.Resources = []*v1.Resource{{Name: proto.String(resource), Type: v1.Value_SCALAR.Enum(), Scalar: &v1.Value_Scalar{Value: requested}}}
	}
	if limit != nil {
		c.Limits = map[string]*v1.Value_Scalar{resource: {Value: limit}}
	}
	return c
}

func TestConformance(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller, accounting)
	bad := map[string]*v1.ContainerConfig{}
	for name, limit := range map[string]float64{"zero": 0, "negative": -1, "less than the kernel's least": 0.009, "NaN": math.NaN(), "beyond all numbers": 1e300} {
		bad[name] = config(nil, &limit)
	}
	isolatortest.Run(t, New(groups), isolatortest.Requests{
		Good: config(proto.Float64(0.5), proto.Float64(1.5)), Bad: bad, Fork: groups.Fork, Gone: groups.Gone,
	})
}

func TestSettings(t *testing.T) {
	f := proto.Float64
	for _, c := range []struct {
		name             string
		requested, limit *float64
		v1, v2           []cgroup.Setting
	}{
		{"nothing", nil, nil, nil, nil},
		{"requested", f(1), nil, files("cpu.shares", "1024"), files("cpu.weight", "100")},
		{"a half", f(0.5), nil, files("cpu.shares", "512"), files("cpu.weight", "50")},
		{"rounded", f(0.333), nil, files("cpu.shares", "341"), files("cpu.weight", "33")},
		{"nearly nothing", f(0.001), nil, files("cpu.shares", "2"), files("cpu.weight", "1")},
		{"zero", f(0), nil, files("cpu.shares", "2"), files("cpu.weight", "1")},
		{"negative", f(-5), nil, files("cpu.shares", "2"), files("cpu.weight", "1")},
		{"very many", f(1e300), nil, files("cpu.shares", "262144"), files("cpu.weight", "10000")},
		{"not a number", f(math.NaN()), nil, nil, nil},
		{"limit", nil, f(1.5),
			files("cpu.cfs_period_us", "100000", "cpu.cfs_quota_us", "150000"), files("cpu.max", "150000 100000")},
		{"least limit", nil, f(0.01),
			files("cpu.cfs_period_us", "100000", "cpu.cfs_quota_us", "1000"), files("cpu.max", "1000 100000")},
		{"greatest limit", nil, f(maxCPUs),
			files("cpu.cfs_period_us", "100000", "cpu.cfs_quota_us", "104857600000"), files("cpu.max", "104857600000 100000")},
		{"no limit", f(2), f(math.Inf(1)), files("cpu.shares", "2048"), files("cpu.weight", "200")},
		{"both", f(0.25), f(4),
			files("cpu.shares", "256", "cpu.cfs_period_us", "100000", "cpu.cfs_quota_us", "400000"),
			files("cpu.weight", "25", "cpu.max", "400000 100000")},
	} {
		for version, want := range map[cgroup.Version][]cgroup.Setting{cgroup.V1: c.v1, cgroup.V2: c.v2} {
			got := settings(version, &isolator.Container{Config: config(c.requested, c.limit)})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %s: %s", c.name, version, diff)
			}
		}
	}
}

// The kernel takes every value that the settings can have.
func TestTheKernelTakesTheBounds(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller, accounting)
	for value, limit := range map[string]float64{"least": 0.01, "greatest": maxCPUs} {
		id, err := container.ParseID(value)
		if err != nil {
			t.Fatal(err)
		}
		groups.Fork(t, id)
		c := &isolator.Container{ID: id, Config: config(&limit, &limit)}
		if _, err := New(groups).Prepare(t.Context(), c); err != nil {
			t.Errorf("%s: %v", value, err)
		}
		if err := New(groups).Isolate(t.Context(), c, 1); err != nil {
			t.Errorf("%s: %v", value, err)
		}
	}
}

func TestStatistics(t *testing.T) {
	for name, text := range map[string]string{
		"v1": "nr_periods 10\nnr_throttled 4\nthrottled_time 1500000000\nuser 150\nsystem 25",
		"v2": "usage_usec 1750000\nuser_usec 1500000\nsystem_usec 250000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 1500000",
	} {
		var s v1.ResourceStatistics
		for line := range strings.Lines(text) {
			var key string
			var n uint64
			if _, err := fmt.Sscan(line, &key, &n); err != nil {
				t.Fatal(err)
			}
			take(&s, []byte(key), n)
		}
		if s.GetCpusNrPeriods() != 10 || s.GetCpusNrThrottled() != 4 || s.GetCpusThrottledTimeSecs() != 1.5 || s.GetCpusUserTimeSecs() != 1.5 || s.GetCpusSystemTimeSecs() != 0.25 {
			t.Errorf("%s: %v", name, &s)
		}
	}
}

// Also where a host has the accounting in a hierarchy of its own.
func TestUsageHasAllFields(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller, accounting)
	id, err := container.ParseID("x")
	if err != nil {
		t.Fatal(err)
	}
	groups.Fork(t, id)
	var s v1.ResourceStatistics
	if err := New(groups).Usage(t.Context(), id, &s); err != nil {
		t.Fatal(err)
	}
	if s.CpusUserTimeSecs == nil || s.CpusSystemTimeSecs == nil || s.CpusNrPeriods == nil || s.CpusNrThrottled == nil || s.CpusThrottledTimeSecs == nil {
		t.Errorf("%v", &s)
	}
}

// files are settings, of names and values in turn.
func files(namesAndValues ...string) (all []cgroup.Setting) {
	for pair := range slices.Chunk(namesAndValues, 2) {
		all = append(all, cgroup.Setting{File: pair[0], Value: pair[1]})
	}
	return all
}
