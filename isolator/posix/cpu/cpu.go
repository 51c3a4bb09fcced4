// Package cpu is the isolator posix/cpu: it measures the CPU time of a container, and how
// many processes and threads that has, by looking at its processes. It limits nothing.
package cpu

import (
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/processes"
	"berth/isolator"
	"berth/launcher"
)

// New returns the isolator. The launcher knows which processes a container has.
func New(of launcher.Lister) *isolator.OfProcesses {
	return &isolator.OfProcesses{Name: "posix/cpu", Launcher: of, Add: add}
}

// add adds the time. That of processes that have ended is in that of their parents.
func add(pids []int, to *v1.ResourceStatistics) error {
	all, err := processes.Those(pids)
	if err != nil {
		return err
	}
	var user, system time.Duration
	var threads int
	for _, p := range all {
		user, system, threads = user+p.User, system+p.System, threads+p.Threads
	}
	to.CpusUserTimeSecs, to.CpusSystemTimeSecs = proto.Float64(user.Seconds()), proto.Float64(system.Seconds())
	to.Processes, to.Threads = proto.Uint32(uint32(len(all))), proto.Uint32(uint32(threads))
	return nil
}
