package blkio

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/testrig"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func asks(s *v1.BlkioSettings) *v1.ContainerConfig {
	return &v1.ContainerConfig{ContainerInfo: &v1.ContainerInfo{Cgroups: &v1.CgroupSettings{Blkio: s}}}
}

func limited4(path string, limit uint64) *v1.BlkioSettings_Device {
	return &v1.BlkioSettings_Device{Device: &v1.Device{Path: &path}, ReadBps: &limit, WriteBps: &limit, ReadIops: &limit, WriteIops: &limit}
}

func TestConformance(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	disk := testrig.LoopDevice(t, 1)
	devices := func(all ...*v1.BlkioSettings_Device) *v1.ContainerConfig {
		return asks(&v1.BlkioSettings{Devices: all})
	}
	isolatortest.Run(t, New(groups), isolatortest.Requests{Good: devices(limited4(disk, 1<<20)), Fork: groups.Fork, Gone: groups.Gone, Bad: map[string]*v1.ContainerConfig{
		"no weight":           asks(&v1.BlkioSettings{Weight: proto.Uint32(0)}),
		"too much weight":     asks(&v1.BlkioSettings{Weight: proto.Uint32(1001)}),
		"a character device":  devices(limited4("/dev/null", 1)),
		"no such device":      devices(limited4("/dev/none", 1)),
		"nothing may be read": devices(limited4(disk, 0)),
		"too little for v2":   devices(limited4(disk, 1)),
		"too many operations": devices(limited4(disk, 1<<32)),
		"beyond all numbers":  devices(limited4(disk, 1<<63)),
		"twice":               devices(limited4(disk, 2), limited4(disk, 3)),
		"no device":           devices(&v1.BlkioSettings_Device{Device: &v1.Device{}}),
	}})
}

// files makes a directory that stands for a cgroup.
func files(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSettings(t *testing.T) {
	n := func(n uint64) *uint64 { return &n }
	w := wanted{weight: 500, devices: []limits{{"8:0", [4]*uint64{n(1 << 20), nil, nil, n(100)}}, {"8:16", [4]*uint64{}}}}
	for version, c := range map[cgroup.Version]struct {
		files         map[string]string
		initial, want []cgroup.Setting
	}{
		cgroup.V1: {
			map[string]string{"blkio.bfq.weight": "100\n", kinds[0].v1: "7:0 5\n", kinds[1].v1: "", kinds[2].v1: "", kinds[3].v1: "7:0 5\n8:0 6\n"},
			[]cgroup.Setting{{File: "blkio.bfq.weight", Value: "100"}, {File: kinds[0].v1, Value: "7:0 0"}, {File: kinds[3].v1, Value: "7:0 0"}, {File: kinds[3].v1, Value: "8:0 0"}},
			[]cgroup.Setting{{File: "blkio.bfq.weight", Value: "500"}, {File: kinds[0].v1, Value: "8:0 1048576"}, {File: kinds[3].v1, Value: "8:0 100"}},
		},
		cgroup.V2: {
			map[string]string{"io.weight": "default 100\n", "io.max": "7:0 rbps=5 wbps=max riops=max wiops=max\n"},
			[]cgroup.Setting{{File: "io.weight", Value: "100"}, {File: "io.max", Value: "7:0 rbps=max wbps=max riops=max wiops=max"}},
			[]cgroup.Setting{{File: "io.weight", Value: "500"}, {File: "io.max", Value: "8:0 rbps=1048576 wiops=100"}},
		},
	} {
		dir := cgroup.DirAt(files(t, c.files), version)
		initial, err := w.initial(dir)
		if err != nil {
			t.Error(err)
		}
		weights, err := w.weights(dir)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(c.initial, initial); diff != "" {
			t.Errorf("%s, initial: %s", version, diff)
		}
		if diff := cmp.Diff(c.want, append(weights, w.limits(version)...)); diff != "" {
			t.Errorf("%s: %s", version, diff)
		}
		if _, err := w.weights(cgroup.DirAt(t.TempDir(), version)); !errors.Is(err, container.ErrNotSupported) {
			t.Errorf("%s, no scheduler that weighs: %v", version, err)
		}
	}
}

func TestStatistics(t *testing.T) {
	v1Files := map[string]string{
		"blkio.throttle.io_serviced_recursive":      "8:0 Read 3\n8:0 Write 4\n8:0 Sync 5\n8:0 Async 2\n8:0 Discard 0\n8:0 Total 7\nTotal 7\n",
		"blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Total 4096\nTotal 4096\nrubbish\n8:x Read 1\n8:0 Unheard 3\n",
	}
	v2Files := map[string]string{"io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0 cost.usage=77\n8:16 \nrubbish\n259:1 rbytes=1 wbytes=0 rios=1 wios=0 dbytes=16 dios=1\n"}
	for name, c := range map[string]struct {
		files   map[string]string
		version cgroup.Version
		collect func(cgroup.Dir) ([]*throttling, error)
	}{"v1": {v1Files, cgroup.V1, collectV1}, "v2": {v2Files, cgroup.V2, collectV2}} {
		all, err := c.collect(cgroup.DirAt(files(t, c.files), c.version))
		if err != nil {
			t.Fatal(err)
		}
		var lines strings.Builder
		for _, of := range all {
			lines.WriteString(describe(of))
		}
		got := lines.String()
		golden := filepath.Join("testdata", name+".txt")
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

// describe writes statistics on one line for each device.
func describe(s *throttling) string {
	text := "all devices:"
	if s.Device != nil {
		text = fmt.Sprintf("%d:%d:", s.Device.GetMajorNumber(), s.Device.GetMinorNumber())
	}
	for _, v := range s.IoServiced {
		text += fmt.Sprintf(" %s %d", v.GetOp(), v.GetValue())
	}
	text += "; bytes"
	for _, v := range s.IoServiceBytes {
		text += fmt.Sprintf(" %s %d", v.GetOp(), v.GetValue())
	}
	return text + "\n"
}

func TestTheKernelTakesTheBounds(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	disk := testrig.LoopDevice(t, 1)
	for value, limit := range map[string]uint64{"least": minLimit, "greatest": 1<<32 - 1} {
		id, err := container.ParseID(value)
		if err != nil {
			t.Fatal(err)
		}
		groups.Fork(t, id)
		config := asks(&v1.BlkioSettings{Devices: []*v1.BlkioSettings_Device{limited4(disk, limit)}})
		if err := New(groups).Isolate(t.Context(), &isolator.Container{ID: id, Config: config}, 1); err != nil {
			t.Errorf("%s: %v", value, err)
		}
	}
}
