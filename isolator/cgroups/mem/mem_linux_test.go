package mem

import (
	"context"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

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
	groups := isolatortest.NewGroups(t, controller)
	bad := map[string]*v1.ContainerConfig{}
	for name, limit := range map[string]float64{"zero": 0, "negative": -1, "too small for the init process": 5.9, "NaN": math.NaN(), "beyond all numbers": 1e300} {
		bad[name] = config(nil, &limit)
	}
	isolatortest.Run(t, New(groups), isolatortest.Requests{
		Good: config(proto.Float64(64), proto.Float64(128)), Bad: bad, Fork: groups.Fork, Gone: groups.Gone,
	})
}

func TestSettings(t *testing.T) {
	f := proto.Float64
	for _, c := range []struct {
		name             string
		requested, limit *float64
		v1, v2           []setting
	}{
		{"nothing", nil, nil, nil, nil},
		{"requested", f(64), nil, []setting{{"memory.soft_limit_in_bytes", "67108864"}}, []setting{{"memory.low", "67108864"}}},
		{"requested little", f(1), nil, []setting{{"memory.soft_limit_in_bytes", "33554432"}}, []setting{{"memory.low", "33554432"}}},
		{"requested very much", f(1e300), nil, []setting{{"memory.soft_limit_in_bytes", "4611686018427387904"}}, []setting{{"memory.low", "4611686018427387904"}}},
		{"not a number", f(math.NaN()), nil, nil, nil},
		{"limit", nil, f(6.5), []setting{{"memory.limit_in_bytes", "6815744"}}, []setting{{"memory.max", "6815744"}}},
		{"no limit", nil, f(math.Inf(1)), nil, nil},
		{"both", f(64), f(128),
			[]setting{{"memory.soft_limit_in_bytes", "67108864"}, {"memory.limit_in_bytes", "134217728"}},
			[]setting{{"memory.low", "67108864"}, {"memory.max", "134217728"}}},
	} {
		for version, want := range map[cgroup.Version][]setting{cgroup.V1: c.v1, cgroup.V2: c.v2} {
			got := settings(version, &isolator.Container{Config: config(c.requested, c.limit)})
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(setting{})); diff != "" {
				t.Errorf("%s, %s: %s", c.name, version, diff)
			}
		}
	}
}

func TestTheMessageOfALimitation(t *testing.T) {
	for name, c := range map[string]struct {
		version cgroup.Version
		files   map[string]string
		want    string
		used    float64
	}{
		"v1":              {cgroup.V1, map[string]string{"memory.limit_in_bytes": "67108864", "memory.max_usage_in_bytes": "66060288"}, "memory limit of 64 MiB exceeded: maximum used 63 MiB", 63},
		"v1, no limit":    {cgroup.V1, map[string]string{"memory.limit_in_bytes": "9223372036854771712", "memory.max_usage_in_bytes": "66060288"}, "the host ran out of memory and the kernel killed a process: maximum used 63 MiB", 63},
		"v2":              {cgroup.V2, map[string]string{"memory.max": "67108864", "memory.peak": "67108864"}, "memory limit of 64 MiB exceeded: maximum used 64 MiB", 64},
		"v2, no limit":    {cgroup.V2, map[string]string{"memory.max": "max", "memory.peak": "1"}, "the host ran out of memory and the kernel killed a process: maximum used 0 MiB", 1.0 / (1 << 20)},
		"v2, before 5.19": {cgroup.V2, map[string]string{"memory.max": "67108864"}, "memory limit exceeded", 0},
	} {
		dir := t.TempDir()
		for file, value := range c.files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(value+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got := limitation(cgroup.DirAt(dir, c.version))
		if want := (container.Limitation{Reason: container.ReasonLimitationMemory, Message: c.want, Resource: "mem", Used: c.used}); *got != want {
			t.Errorf("%s: %+v, want %+v", name, *got, want)
		}
	}
}

// hog makes a process that exceeds the limit of the group, which the kernel then kills.
func hog(t *testing.T, group *cgroup.Group) {
	t.Helper()
	// It waits until it is in the group. The shell itself takes next to nothing; its
	// child reads an endless line.
	cmd := exec.Command("sh", "-c", "read go; exec tail /dev/zero")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := group.Enter(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	stdin.Write([]byte("\n"))
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("a process beyond its limit ends with %v", err)
	}
}

// The kernel announces on v1 that memory is out before it kills, so whoever looks right
// after the announcement sees nothing yet; and what happened before the watch began is
// not announced to it at all.
func TestNoKillIsMissed(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	i := New(groups)
	for n := range 10 {
		id, err := container.ParseID("hog" + strconv.Itoa(n))
		if err != nil {
			t.Fatal(err)
		}
		groups.Fork(t, id)
		limit := 16.0
		if err := i.Isolate(t.Context(), &isolator.Container{ID: id, Config: config(nil, &limit)}, 1); err != nil {
			t.Fatal(err)
		}
		group, err := groups.Group(id)
		if err != nil {
			t.Fatal(err)
		}
		late := n%2 == 1
		if late {
			hog(t, group)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		found := make(chan *container.Limitation, 1)
		go func() {
			limitation, err := i.Watch(ctx, id)
			if err != nil {
				t.Error(err)
			}
			found <- limitation
		}()
		if !late {
			hog(t, group)
		}
		if l := <-found; l == nil || l.Reason != container.ReasonLimitationMemory || ctx.Err() != nil {
			t.Errorf("run %d (watch began late: %v): limitation %+v", n, late, l)
		}
		cancel()
		// However late one looks.
		if l, err := i.Watch(ctx, id); l == nil || err != nil {
			t.Errorf("after the end of the context: %+v, %v", l, err)
		}
	}
}
