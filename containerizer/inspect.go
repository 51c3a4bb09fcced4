package containerizer

import (
	"context"
	"time"

	v1 "berth/api/v1"
	"berth/container"
)

// Inspector tells people about containers.
type Inspector interface {
	// Inspect tells what is known of a container, also of one whose termination waits.
	// ErrNotFound: no such container.
	Inspect(ctx context.Context, id container.ID) (Inspection, error)
	// Processes lists the processes of a running container, those of containers nested in it
	// included, by their ids. What ends meanwhile may be missing. ErrNotFound: it does not
	// run. ErrNotSupported: the launcher cannot tell.
	Processes(ctx context.Context, id container.ID) ([]Process, error)
}

// Inspection is what is known of a container.
type Inspection struct {
	State container.State
	Pid   int // of its init process, on the host; 0: there is none
	// IDs are who the users of one that runs are on the host.
	IDs container.IDRange
	// Given is what isolators have given a running container: the networks as joined, with
	// their addresses. It must not be changed.
	Given *v1.ContainerStatus
	// Config is what was asked for, without the values of secrets; after an Update, with
	// the limits of that. It must not be changed.
	Config *v1.ContainerConfig
	// Launched is when its command was executed, Ended when nothing of it was left; zero:
	// not yet.
	Launched, Ended time.Time
	// Termination is that of a container that has ended, whose State is Ended.
	Termination *container.Termination
}

// Process is a process of a container.
type Process struct {
	Pid, Parent int    // on the host
	UID         uint32 // on the host
	// Command is what the process says of itself: its arguments, or its name in brackets.
	Command string
	CPU     time.Duration // that it has used
	RSS     uint64        // bytes
	Started time.Time
}

// Event is something that has happened to a container.
type Event struct {
	Kind EventKind
	ID   container.ID
	// Termination is that of an Ended one.
	Termination *container.Termination
	// Err is why a launch has failed, or what was left over at the end.
	Err error
}

// EventKind says what has happened.
type EventKind string

// The kinds.
const (
	Launched     EventKind = "launched"      // its command was executed
	LaunchFailed EventKind = "launch_failed" // and nothing of it is left
	Ended        EventKind = "ended"         // and who waits for it is told next
	Removed      EventKind = "removed"
)
