package pids

import (
	"math"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

func limited(limit float64) *v1.ContainerConfig {
	return &v1.ContainerConfig{Limits: map[string]*v1.Value_Scalar{resource: {Value: proto.Float64(limit)}}}
}

func TestConformance(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	isolatortest.Run(t, New(groups), isolatortest.Requests{
		Good: limited(100), Fork: groups.Fork, Gone: groups.Gone,
		Bad: map[string]*v1.ContainerConfig{"too few for the init process": limited(15), "negative": limited(-1), "NaN": limited(math.NaN())},
	})
}

func TestSetting(t *testing.T) {
	for limit, want := range map[float64]string{16: "16", 100.9: "100", 1<<22 - 1: "4194303", 1 << 22: "max", 1e300: "max"} {
		if got, limited := setting(&isolator.Container{Config: limited(limit)}); !limited || got != want {
			t.Errorf("%v: %q, %v, want %q", limit, got, limited, want)
		}
	}
	for name, config := range map[string]*v1.ContainerConfig{"no limit": {}, "an infinite one": limited(math.Inf(1))} {
		if got, limited := setting(&isolator.Container{Config: config}); limited {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestTheKernelTakesTheBounds(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	for value, c := range map[string]struct {
		limit float64
		want  string
	}{"least": {minimum, "16"}, "greatest": {maximum - 1, "4194303"}, "more": {1e9, "max"}} {
		id, err := container.ParseID(value)
		if err != nil {
			t.Fatal(err)
		}
		groups.Fork(t, id)
		if err := New(groups).Isolate(t.Context(), &isolator.Container{ID: id, Config: limited(c.limit)}, 1); err != nil {
			t.Fatalf("%s: %v", value, err)
		}
		group, err := groups.Group(id)
		if err != nil {
			t.Fatal(err)
		}
		dir, err := group.Dir(controller)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := dir.Read("pids.max"); err != nil || got != c.want {
			t.Errorf("%s: pids.max is %q, %v, want %q", value, got, err, c.want)
		}
	}
}
