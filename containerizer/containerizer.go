// Package containerizer defines the life of containers, from the launch to the exit
// status.
//
//	unknown --Launch--> launching --> running --> (ended) --> unknown
//
// A launch that fails undoes what it did. A container that ends, by itself, by Kill, by
// Destroy or by an isolator's limitation, is destroyed: when Wait returns, nothing of it
// is left on the host but its sandbox, if that is to stay.
//
// A container may be nested in another one. It ends before that one does. One of the class
// DEBUG is to look into its parent: it has the file system, the namespaces and the cgroups
// of that, and the environment, the directory and the user unless its request says
// otherwise.
package containerizer

import (
	"context"
	"fmt"
	"os"

	v1 "berth/api/v1"
	"berth/container"
)

// ErrNewer is that the records of containers are of a newer berth, of which nothing is judged or
// launched here. It is of the class ErrFailedPrecondition.
var ErrNewer = fmt.Errorf("%w: the records of containers are of a newer berth", container.ErrFailedPrecondition)

// Keeper says who judges a container whose containerizer is gone.
type Keeper string

// The keepers.
const (
	// Foreground: the process that launched it. Once that is dead, the container is to
	// be destroyed by whoever finds it.
	Foreground Keeper = "foreground"
	// Operator: a person, by Destroy. Recovery leaves it alone.
	Operator Keeper = "operator"
	// Agent: a process that comes back for it. Until then the container runs on, or its
	// termination waits. Its sandbox stays until Remove.
	Agent Keeper = "agent"
)

// Request is what to launch.
type Request struct {
	// Config's directory, rootfs and ephemeral volumes are filled in by the launch.
	Config *v1.ContainerConfig
	// Stdio are the standard streams of the command; they stay the caller's. Without one
	// (nil) the input is empty, and an output goes to the file of its name, stdout or
	// stderr, in the sandbox: whatever becomes of the process that launched it.
	Stdio [3]*os.File
	// Input keeps the command's input open, for whoever comes to write it by
	// Streams.AttachInput, now or when this process is gone. Stdio has none then.
	Input bool
	// Logs bounds these files.
	Logs Logs
	// Terminal is where the master of the container's terminal is sent, when Config has a
	// tty_info: the other end of a unix socket that stays the caller's, as package
	// internal/pty makes it. Stdio is of no use then: the terminal is all three. Without it
	// (nil) berth-init keeps the master: the output goes to the file stdout of the sandbox.
	Terminal *os.File
	// Keeper of a nested container is that of its root container, whatever is said here.
	Keeper Keeper
}

// Status is what is known of a container that has not ended.
type Status struct {
	State container.State
	// Pid is that of its init process, on the host; 0: there is none yet.
	Pid int
	// Given is what isolators have given a running container: the networks as joined, with
	// their addresses. It must not be changed.
	Given *v1.ContainerStatus
}

// Logs bounds the files stdout and stderr of a sandbox. The zero value does not.
type Logs struct {
	// MaxSize is that of each file, in bytes: at least MinLogSize, or 0 for no bound.
	MaxSize int64
	// MaxFiles is how many files there are of each output: that which is written to, and
	// older ones, stdout.1 being the newest of them. At least 1 with a MaxSize.
	MaxFiles int
}

// MinLogSize is the least bound of a file.
const MinLogSize = 4096

// Containerizer launches containers and looks after them. Its methods may be called
// concurrently. Several processes may work in the same directories.
type Containerizer interface {
	Streams

	// Recover destroys what dead processes have left. Call it before anything else. A
	// failure for one container does not keep the others from being recovered.
	//
	// For the agent it takes up again the containers whose keeper that is: those that run
	// go on, those that have ended meanwhile have their terminations, and those whose
	// launch had not returned are destroyed, and so are those of the class DEBUG.
	//
	// ErrFailedPrecondition: the records were written by a newer berth. Nothing was touched.
	Recover(ctx context.Context) error

	// Launch starts a container and returns once its command was executed. An error
	// proves that nothing is left of it, or says what could not be removed; the next
	// Recover tries again.
	//
	// A nested container needs a parent that runs and whose keeper is this process.
	//
	// ErrExists: the id is in use. ErrNotFound, ErrFailedPrecondition: of the parent, which
	// is not there, or does not run. *launcher.StartError: the command cannot be
	// executed. ErrInvalid, ErrNotSupported: the request. Other classes: see the
	// provisioner and the store, for the image.
	Launch(ctx context.Context, id container.ID, req Request) error

	// Wait returns how the container ended, once nothing is left of it. It may be called
	// while the container is launched or runs, and afterwards: of a foreground container
	// once, of an agent's until Remove, of a nested one until its root container is gone or
	// until Remove. ErrNotFound: no such container. The error of a launch that has failed
	// meanwhile is that of the launch.
	Wait(ctx context.Context, id container.ID) (container.Termination, error)

	// Kill sends a signal to the container's command. ErrNotFound: no such container,
	// or it has ended.
	Kill(ctx context.Context, id container.ID, signal os.Signal) error

	// Stop asks the container's command to end, by the signal that its image names for
	// that, SIGTERM without one. It does not wait: whoever loses patience owes a Destroy.
	// Errors are those of Kill.
	Stop(ctx context.Context, id container.ID) error

	// Destroy ends a container, in whatever state it is, and returns when nothing is left
	// of it. It may be repeated; false: there was none.
	Destroy(ctx context.Context, id container.ID) (bool, error)

	// Status says how far a container is. ErrNotFound: there is none, or it has ended.
	Status(ctx context.Context, id container.ID) (Status, error)

	// Containers lists those that this process looks after, also ended ones whose
	// termination waits, parents before their children.
	Containers() []container.ID

	// Update changes resources and limits of a running container. ErrNotFound: it does not
	// run. ErrInvalid: the values, or it shares the cgroups of its parent.
	// ErrFailedPrecondition: it uses more already. After an error they are as before.
	Update(ctx context.Context, id container.ID, resources []*v1.Resource, limits map[string]*v1.Value_Scalar) error

	// Usage measures a running container. One that shares the cgroups of its parent counts
	// there. ErrNotFound: it does not run.
	Usage(ctx context.Context, id container.ID) (*v1.ResourceStatistics, error)

	// Remove forgets an ended container: its termination, its sandbox, and those of the
	// containers nested in it. It may be repeated. ErrFailedPrecondition: it has not ended, or
	// is another process's.
	Remove(ctx context.Context, id container.ID) error
}
