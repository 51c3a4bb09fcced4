//go:build linux

package mesos

import (
	"fmt"
	"log/slog"
	"syscall"
	"testing"
	"time"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/cgroups/blkio"
	"berth/isolator/cgroups/cpu"
	"berth/isolator/cgroups/mem"
	"berth/isolator/cgroups/pids"
	"berth/isolator/isolatortest"
)

// BenchmarkUsage measures 1000 containers once: what is to take less than a tenth of a
// core when it happens each second. The containers are cgroups without processes: what the
// kernel does to read them does not depend on that.
func BenchmarkUsage(b *testing.B) {
	const containers = 1000
	groups := isolatortest.NewGroups(b, "cpu", "cpuacct", "memory", "pids", "blkio")
	c := &Containerizer{Options: Options{Log: slog.New(slog.DiscardHandler)}, containers: make(map[container.ID]*entry)}
	c.Isolators = []isolator.Isolator{cpu.New(groups), mem.New(groups, false, c.Log), pids.New(groups), blkio.New(groups)}
	var ids []container.ID
	for n := range containers {
		id := mustID(b, fmt.Sprintf("c%d", n))
		groups.Make(b, id)
		l := c.newLaunch(id)
		l.state, l.container, l.process = container.Running, &isolator.Container{ID: id, Config: &v1.ContainerConfig{}}, gone{}
		e := newEntry(l, nil)
		close(e.launched)
		c.containers[id], ids = e, append(ids, id)
	}
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		for _, id := range ids {
			if _, err := c.Usage(b.Context(), id); err != nil {
				b.Fatal(err)
			}
		}
	}
	used := cpuTime(b) - before
	b.ReportMetric(float64(used.Microseconds())/float64(b.N)/containers, "cpu-µs/container")
}

// cpuTime is what this process has used, whatever else the machine does.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
