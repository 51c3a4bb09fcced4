//go:build linux

package mesos

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
)

// cgroupFile reads a file of a container's cgroup.
func (c *box) cgroupFile(controller, v1Name, v2Name string) string {
	c.Helper()
	group, err := c.launcher.Group(c.id)
	if err != nil {
		c.Fatal(err)
	}
	dir, err := group.Dir(controller)
	if err != nil {
		c.Fatal(err)
	}
	name := v1Name
	if dir.Version() == cgroup.V2 {
		name = v2Name
	}
	text, err := dir.Read(name)
	if err != nil {
		c.Fatal(err)
	}
	return text
}

// cgroupProcesses lists the processes in a container's cgroup and, as v2 counts them, in
// those below it.
func (c *box) cgroupProcesses(controller string) (pids []string) {
	c.Helper()
	group, err := c.launcher.Group(c.id)
	if err != nil {
		c.Fatal(err)
	}
	dir, err := group.Dir(controller)
	if err != nil {
		c.Fatal(err)
	}
	if dir.Version() == cgroup.V1 {
		return strings.Fields(c.cgroupFile(controller, "cgroup.procs", ""))
	}
	all, err := group.Processes()
	if err != nil {
		c.Fatal(err)
	}
	for _, pid := range all {
		pids = append(pids, strconv.Itoa(pid))
	}
	return pids
}

func TestLimitsAreInTheCgroup(t *testing.T) {
	r := newRig(t)
	request := limits(config(baseImage, "sleep", "1000"), map[string]float64{"cpus": 0.5, "mem": 64, "pids": 50})
	request.Resources = []*v1.Resource{{Name: proto.String("cpus"), Type: v1.Value_SCALAR.Enum(), Scalar: &v1.Value_Scalar{Value: proto.Float64(0.25)}}}
	c := r.start(request)
	for _, f := range []struct{ controller, v1, v2, want, want2 string }{
		{"cpu", "cpu.cfs_quota_us", "cpu.max", "50000", "50000 100000"},
		{"cpu", "cpu.shares", "cpu.weight", "256", "25"},
		{"memory", "memory.limit_in_bytes", "memory.max", "67108864", "67108864"},
		{"pids", "pids.max", "pids.max", "50", "50"},
	} {
		if got := c.cgroupFile(f.controller, f.v1, f.v2); got != f.want && got != f.want2 {
			t.Errorf("%s: %s is %q, want %q", f.controller, f.v1, got, f.want)
		}
	}
	// All processes of the container are in it, in every hierarchy.
	for _, controller := range []string{"cpu", "memory", "pids"} {
		if got := c.cgroupProcesses(controller); len(got) != 2 {
			t.Errorf("in the cgroup of %s are %q, want berth-init and sleep", controller, got)
		}
	}
	free := r.start(config(baseImage, "sleep", "1000"))
	if got := free.cgroupFile("pids", "pids.max", "pids.max"); got != "max" {
		t.Errorf("without a limit: %q", got)
	}
}

// What each isolator measures is in one message, beside what the container asked for.
func TestTheUsageOfAContainer(t *testing.T) {
	r := newRig(t)
	request := limits(shell("exec sleep 1000"), map[string]float64{"cpus": 0.5, "mem": 64})
	for name, amount := range map[string]float64{"cpus": 0.25, "mem": 32} {
		request.Resources = append(request.Resources, &v1.Resource{Name: proto.String(name), Type: v1.Value_SCALAR.Enum(), Scalar: &v1.Value_Scalar{Value: proto.Float64(amount)}})
	}
	c := r.start(request)
	usage, err := r.Usage(t.Context(), c.id)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][2]float64{
		"cpus_soft_limit":      {usage.GetCpusSoftLimit(), 0.25},
		"cpus_limit":           {usage.GetCpusLimit(), 0.5},
		"mem_soft_limit_bytes": {float64(usage.GetMemSoftLimitBytes()), 32 << 20},
		"mem_limit_bytes":      {float64(usage.GetMemLimitBytes()), 64 << 20},
		"processes":            {float64(usage.GetProcesses()), 2},
	} {
		if got[0] != got[1] {
			t.Errorf("%s is %v, want %v", name, got[0], got[1])
		}
	}
	measured := usage.ProtoReflect()
	for _, name := range []protoreflect.Name{
		"timestamp", "threads", "cpus_user_time_secs", "cpus_system_time_secs", "cpus_nr_periods", "cpus_nr_throttled", "cpus_throttled_time_secs",
		"mem_total_bytes", "mem_kmem_usage_bytes", "mem_kmem_tcp_usage_bytes", "mem_file_bytes", "mem_cache_bytes", "mem_anon_bytes", "mem_rss_bytes",
		"mem_mapped_file_bytes", "mem_unevictable_bytes", "mem_low_pressure_counter", "mem_medium_pressure_counter", "mem_critical_pressure_counter",
	} {
		if !measured.Has(measured.Descriptor().Fields().ByName(name)) {
			t.Errorf("there is no %s in %v", name, usage)
		}
	}
}

func TestTheProcessLimit(t *testing.T) {
	r := newRig(t)
	o := r.run(limits(shell("i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; echo all"), map[string]float64{"pids": 30}))
	if o.code() == 0 || strings.Contains(o.stdout, "all") || !strings.Contains(o.stderr, "can't fork") {
		t.Errorf("%d %q %q", o.code(), o.stdout, o.stderr)
	}
}

func TestTheMemoryLimit(t *testing.T) {
	r := newRig(t)
	for name, script := range map[string]string{
		"of the command":                "exec tail /dev/zero",
		"of a child":                    "tail /dev/zero; echo the command goes on; sleep 1000",
		"of an orphan":                  "(sleep 0.05; tail /dev/zero) >/dev/null 2>&1 & sleep 1000",
		"of a child, at the end":        "tail /dev/zero; exit 3",
		"of a child in its own session": "setsid tail /dev/zero; sleep 1000",
	} {
		o := r.run(limits(shell(script), map[string]float64{"mem": 24}))
		l := o.termination.Limitation
		if l == nil || l.Reason != container.ReasonLimitationMemory || o.code() != 137 || !strings.Contains(o.termination.Message, "24 MiB") {
			t.Errorf("%s: %d, %+v, %v", name, o.code(), o.termination, o.err)
		}
	}
	if o := r.run(limits(shell("echo enough"), map[string]float64{"mem": 24})); o.code() != 0 || o.termination.Limitation != nil {
		t.Errorf("within the limit: %+v, %v", o.termination, o.err)
	}
}

// The least limits that are allowed must let a container run.
func TestTheLeastLimits(t *testing.T) {
	r := newRig(t)
	if o := r.run(limits(shell("echo enough"), map[string]float64{"mem": 6, "pids": 16, "cpus": 0.2})); o.code() != 0 {
		t.Errorf("%d, %+v, %v %s", o.code(), o.termination, o.err, o.stderr)
	}
}

func TestBadLimitsAreRefused(t *testing.T) {
	r := newRig(t)
	for _, bad := range []map[string]float64{{"cpus": 0}, {"cpus": 1e300}, {"mem": 1}, {"mem": 1e300}, {"pids": 1}} {
		if o := r.run(limits(shell("true"), bad)); o.err == nil || !strings.Contains(o.err.Error(), container.ErrInvalid.Error()) {
			t.Errorf("%v: %d, %v", bad, o.code(), o.err)
		}
	}
	if o := r.run(limits(shell("true"), map[string]float64{"pids": 1e300})); o.code() != 0 {
		t.Errorf("no real limit: %d, %v", o.code(), o.err)
	}
}

// Processes that have a child and end at once cannot be listed and killed one by one.
func TestDestroyOutrunsWhatForksAsFastAsItCan(t *testing.T) {
	r := newRig(t)
	script := `run() { run & }; for n in 1 2 3 4; do run; done; echo ready; while :; do :; done`
	shared := limits(shell(script), map[string]float64{"pids": 200})
	shared.ContainerInfo.LinuxInfo = &v1.LinuxInfo{SharePidNamespace: proto.Bool(true)}
	for name, request := range map[string]*v1.ContainerConfig{
		"own PID namespace": limits(shell(script), map[string]float64{"pids": 200}), "shared": shared,
	} {
		c := r.start(request)
		c.says("ready")
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		if existed, err := r.Destroy(t.Context(), c.id); !existed || err != nil {
			t.Errorf("%s: %v, %v", name, existed, err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
		if left := processesIn(r.world.CgroupsRoot); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
		if o := c.wait(); o.code() != 137 {
			t.Errorf("%s: %d", name, o.code())
		}
	}
}
