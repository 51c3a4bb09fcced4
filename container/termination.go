package container

import "syscall"

// Reason says why a container ended when it was not its own command that ended.
// The names are those of the Mesos API.
type Reason string

// The reasons for which berth ends a container.
const (
	ReasonNone             Reason = ""
	ReasonLimitation       Reason = "CONTAINER_LIMITATION"
	ReasonLimitationMemory Reason = "CONTAINER_LIMITATION_MEMORY"
	ReasonLimitationDisk   Reason = "CONTAINER_LIMITATION_DISK"
	ReasonLaunchFailed     Reason = "CONTAINER_LAUNCH_FAILED"
)

// Limitation is the report of an isolator that a container has exceeded what it
// was allowed. It ends the container.
type Limitation struct {
	Reason  Reason `json:"reason"`
	Message string `json:"message"` // one line, for people
	// Resource is what was exceeded, by the name and in the unit that requests have for
	// it, and Used how much of it the container had; "" when no amount is known.
	Resource string  `json:"resource,omitempty"`
	Used     float64 `json:"used,omitempty"`
}

// Termination says how a container ended.
type Termination struct {
	// Status is the wait(2) status of the container's command; nil when the
	// container ended before its command was started.
	Status *syscall.WaitStatus `json:"status,omitempty"`
	// Limitation is what ended the container, if an isolator did.
	Limitation *Limitation `json:"limitation,omitempty"`
	// Message is one line for people; empty when the command ended by itself.
	Message string `json:"message,omitempty"`
}

// The exit codes that berth adds to those of the command, as shells and other
// container tools have them.
const (
	ExitFailure       = 125 // berth itself failed
	ExitNotExecutable = 126 // the command exists and cannot be executed
	ExitNotFound      = 127 // the command does not exist
	exitSignalBase    = 128
)

// ExitCode folds the termination into the exit code of a command-line tool: the
// command's own status, 128+n for signal n, 137 for a limitation, 125 when the
// command was not started.
func (t Termination) ExitCode() int {
	switch {
	case t.Limitation != nil:
		return exitSignalBase + int(syscall.SIGKILL)
	case t.Status == nil:
		return ExitFailure
	case t.Status.Signaled():
		return exitSignalBase + int(t.Status.Signal())
	default:
		return t.Status.ExitStatus()
	}
}
