//go:build linux

package mesos

import (
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/cgroup"
	"berth/internal/testrig"
	"berth/isolator/cgroups/blkio"
	"berth/isolator/cgroups/cpuset"
	"berth/isolator/cgroups/perfevent"
	linux "berth/launcher/linux"
)

// needController skips a test where the host does not offer a controller.
func needController(t *testing.T, name string) {
	t.Helper()
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := host.Version(name); !ok {
		t.Skipf("this host has no cgroup controller %q", name)
	}
}

// What a container has, and what the kernel holds it to, is seen from inside.

func TestABusyLoopGetsItsShareOfACore(t *testing.T) {
	r := newRig(t)
	c := r.start(limits(shell("while :; do :; done"), map[string]float64{"cpus": 0.5}))
	usage := func() *v1.ResourceStatistics {
		u, err := r.Usage(t.Context(), c.id)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	var share, periods, throttled float64
	for range 10 {
		before := usage()
		after := usage()
		for ; after.GetCpusNrPeriods() < before.GetCpusNrPeriods()+10; after = usage() {
			time.Sleep(time.Millisecond)
		}
		used := after.GetCpusUserTimeSecs() + after.GetCpusSystemTimeSecs() - before.GetCpusUserTimeSecs() - before.GetCpusSystemTimeSecs()
		share = used / (after.GetTimestamp() - before.GetTimestamp())
		periods, throttled = float64(after.GetCpusNrPeriods()-before.GetCpusNrPeriods()), float64(after.GetCpusNrThrottled()-before.GetCpusNrThrottled())
		if share > 0.58 { // a period more than fits, at most
			t.Fatalf("it gets %.2f of a core", share)
		}
		if share >= 0.45 && share <= 0.55 && throttled > 0 {
			return
		}
	}
	if throttled < periods*0.9 {
		t.Skipf("this machine is too busy: the loop gets %.2f of a core, and its quota ended in %v of %v periods only", share, throttled, periods)
	}
	t.Errorf("it gets %.2f of a core", share)
}

func TestTheLimitOf64MiBEndsAProgramOf80(t *testing.T) {
	r := newRig(t)
	o := r.run(limits(shell("head -c 80m /dev/zero | tail -c 80m >/dev/null; echo it ran"), map[string]float64{"mem": 64}))
	l := o.termination.Limitation
	if l == nil || l.Reason != "CONTAINER_LIMITATION_MEMORY" || !strings.Contains(o.termination.Message, "64 MiB") || o.code() != 137 {
		t.Errorf("%d, %+v, %v", o.code(), o.termination, o.err)
	}
}

// Its processes are the host's choice for what it may have beyond its request.
func TestTheVictimOfTheHost(t *testing.T) {
	r := newRig(t)
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	for limit, raised := range map[float64]bool{64: false, 128: true} {
		request := limits(shell("cat /proc/self/oom_score_adj"), map[string]float64{"mem": limit})
		request.Resources = []*v1.Resource{{Name: proto.String("mem"), Type: v1.Value_SCALAR.Enum(), Scalar: &v1.Value_Scalar{Value: proto.Float64(64)}}}
		if got := r.output(request); raised == (got == string(own)) {
			t.Errorf("requests 64 MiB, limit %v: %s, here it is %s", limit, got, own)
		}
	}
}

func TestTheCPUsOfAContainer(t *testing.T) {
	needController(t, "cpuset")
	r := newRigWith(t, "overlay", func(p *parts) { p.isolators = append(p.isolators, cpuset.New(p.launcher.(*linux.Launcher))) })
	request := shell("grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status | tr -d '\\t'")
	request.ContainerInfo.Cgroups = &v1.CgroupSettings{CpusetCpus: proto.String("0"), CpusetMems: proto.String("0")}
	if got := r.output(request); got != "Cpus_allowed_list:0\nMems_allowed_list:0\n" {
		t.Errorf("inside: %q", got)
	}
}

func TestADiskIsReadAsSlowlyAsTheLimitSays(t *testing.T) {
	needController(t, "blkio")
	disk := testrig.LoopDevice(t, 8)
	r := newRigWith(t, "overlay", func(p *parts) { p.isolators = append(p.isolators, blkio.New(p.launcher.(*linux.Launcher))) })
	device := &v1.Device{Path: &disk}
	read := func(settings *v1.CgroupSettings) (time.Duration, *v1.ResourceStatistics) {
		settings.Devices = []*v1.DeviceAccess{{Device: device, Access: &v1.DeviceAccess_Access{Read: proto.Bool(true)}}}
		request := shell("dd if=" + disk + " of=/dev/null bs=64k count=64 && echo read && read end")
		request.ContainerInfo.Cgroups = settings
		began := time.Now()
		c := r.start(request)
		c.says("read")
		took := time.Since(began)
		usage, err := r.Usage(t.Context(), c.id)
		if err != nil {
			t.Fatal(err)
		}
		return took, usage
	}
	const mib = 1 << 20
	limited := &v1.CgroupSettings{Blkio: &v1.BlkioSettings{Devices: []*v1.BlkioSettings_Device{{Device: device, ReadBps: proto.Uint64(2 * mib)}}}}
	took, usage := read(limited) // 4 MiB, which no cache has yet
	if took < 1500*time.Millisecond {
		t.Errorf("4 MiB at 2 MiB in a second take %v", took)
	}
	var bytes uint64
	for _, of := range usage.GetBlkioStatistics().GetThrottling() {
		for _, v := range of.GetIoServiceBytes() {
			if of.Device == nil && v.GetOp() == v1.CgroupInfo_Blkio_TOTAL {
				bytes = v.GetValue()
			}
		}
	}
	if bytes < 4*mib {
		t.Errorf("%d bytes were counted: %v", bytes, usage.GetBlkioStatistics())
	}
}

func TestAPerfCountGrows(t *testing.T) {
	events, err := perfevent.ParseEvents([]string{"task-clock", "page-faults"})
	if err != nil {
		t.Fatal(err)
	}
	r := newRigWith(t, "overlay", func(p *parts) {
		p.isolators = append(p.isolators, perfevent.New(perfevent.Options{Groups: p.launcher.(*linux.Launcher), Events: events,
			Interval: 100 * time.Millisecond, Duration: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}))
	})
	c := r.start(shell("while :; do true | true; done"))
	var clock, faults float64
	soon(t, "counts in two samples", func() bool {
		usage, err := r.Usage(t.Context(), c.id)
		if err != nil {
			t.Fatal(err)
		}
		grown := clock > 0 && faults > 0 && usage.Perf.GetTaskClock() > 0
		clock, faults = usage.Perf.GetTaskClock(), float64(usage.Perf.GetPageFaults())
		return grown
	})
}
