// Package mem is the isolator posix/mem: it measures the memory of a container by looking
// at its processes. Pages that several share count for each. It limits nothing.
package mem

import (
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/internal/processes"
	"berth/isolator"
	"berth/launcher"
)

// New returns the isolator. The launcher knows which processes a container has.
func New(of launcher.Lister) *isolator.OfProcesses {
	return &isolator.OfProcesses{Name: "posix/mem", Launcher: of, Add: add}
}

func add(pids []int, to *v1.ResourceStatistics) error {
	all, err := processes.Those(pids)
	if err != nil {
		return err
	}
	var bytes uint64
	for _, p := range all {
		bytes += p.RSS
	}
	to.MemRssBytes = proto.Uint64(bytes)
	return nil
}
