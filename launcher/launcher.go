// Package launcher defines how a container's processes are started and ended.
//
// A launcher forks the init process of a container into its namespaces and its
// cgroup, where it waits. Release lets it go: it then makes the container as its plan
// says and executes the command. From there on the launcher's process is not needed:
// the init process records the command's exit status itself.
//
//	absent --Fork--> waiting --Release--> running --(command ends)--> ended
//
// Destroy leads from each of them back to absent. Another process than the one that
// forked it can Attach to a running container.
package launcher

import (
	"context"
	"os"

	"berth/container"
	"berth/launcher/plan"
)

// Namespace is a kind of Linux namespace, by the name of namespaces(7).
type Namespace string

// The namespaces that a launcher can give a container of its own.
const (
	Mount   Namespace = "mnt"
	PID     Namespace = "pid"
	IPC     Namespace = "ipc"
	UTS     Namespace = "uts"
	Network Namespace = "net"
	User    Namespace = "user"
)

// Spec is what to fork.
type Spec struct {
	Plan       plan.Plan
	Namespaces []Namespace
	// IDs are those of a user namespace: of the container's own, which goes with User in
	// Namespaces, or of its parent's, with User in Enter. It owns all the others of
	// Namespaces. Root there has its capabilities in them alone. Binds
	// of the plan show the owners on disk as those ids of the container, but for Fixed and
	// Provisioned ones; device nodes are the host's of the same name.
	IDs container.IDRange
	// Controllers are those in whose hierarchies the container needs a cgroup.
	Controllers []string

	// Parent is the container that this one is nested in; the zero ID: none. The init
	// process is made in those namespaces of the parent that Enter names, and in them
	// those of Namespaces; PID can be in one of both only (clone(2)). With Mount in Enter,
	// nothing of the plan's own file system is made: the container is where the parent is.
	Parent container.ID
	Enter  []Namespace
	// SharesCgroups: the processes count in the parent's cgroups. They still have one of
	// their own, without controllers, so that they can be killed.
	SharesCgroups bool

	// Stdio are the standard streams of the command; nil: /dev/null.
	Stdio [3]*os.File
	// Terminal is the socket to which the master of the Plan's terminal is sent; the
	// terminal takes the place of Stdio.
	Terminal *os.File
	// Logs, Input and Control are what the init process works with while the command runs, as
	// plan.Files describes them; nil: the Plan has no use for it.
	Logs, Input, Control *os.File
	// Status is the path of the file that takes the wait status of the command; it is
	// made by Fork.
	Status string
}

// Launcher starts and ends containers. Its methods may be called concurrently for
// different containers.
type Launcher interface {
	// Fork starts the init process of a container, in its namespaces and its cgroup,
	// and leaves it waiting. It records what it makes before it makes it.
	//
	// After an error the caller owes a Destroy. ErrNotSupported: the host lacks a
	// controller or a namespace.
	Fork(ctx context.Context, id container.ID, spec Spec) (Process, error)

	// Attach takes up a container that another process has forked and released.
	// ErrNotFound: its init process has ended, or it was never forked.
	Attach(ctx context.Context, id container.ID) (Process, error)

	// Destroy kills every process of the container, those of nested ones too, and removes
	// its cgroup. A nil error proves that none is left. It may be repeated, and called for a container that
	// was never forked, or was forked by another process.
	Destroy(ctx context.Context, id container.ID) error
}

// Lister is a launcher that knows the processes of a container.
type Lister interface {
	// Processes returns the ids, on the host, of the processes of a container and of those
	// nested in it, in no order. ErrNotFound: it was never forked.
	Processes(id container.ID) ([]int, error)
}

// Process is the init process of a container.
type Process interface {
	// Pid is that of the init process, on the host.
	Pid() int

	// Release lets the init process go and waits until the command was executed. The
	// error is a *StartError when it was not. One that was attached to is released.
	Release(ctx context.Context) error

	// Signal sends a signal to the init process, which forwards it to the command.
	// ErrNotFound: it has ended.
	Signal(s os.Signal) error

	// Wait returns when the init process has ended.
	Wait(ctx context.Context) error
}

// StartError says that the command of a container was not executed. It is the
// container's or the image's fault as often as berth's.
type StartError struct {
	Message string
	Code    int // 125, 126 or 127, as a command-line tool exits for it
}

func (e *StartError) Error() string { return e.Message }

// ExitCode returns the code.
func (e *StartError) ExitCode() int { return e.Code }
