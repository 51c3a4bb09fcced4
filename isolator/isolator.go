// Package isolator defines one aspect of the isolation of containers, and how the
// aspects are put together.
//
// An isolator enforces (prepares what the launch needs and sets limits), isolates
// (separates the container from others) and reports (watches for what the container
// may not do). It does not launch: Prepare returns its part of the launch as data, and
// the launcher carries out the sum.
//
// For each container, in this order:
//
//	Prepare   one isolator after the other, in the order of the engine's table
//	Isolate   after the fork, while the init process waits
//	Watch     from then until the container ends
//	Cleanup   in reverse order, whatever came before
//
// Between Watch and Cleanup come Update and Usage, and in a process that takes a running
// container up again Recover and Watch.
package isolator

import (
	"context"
	"syscall"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/launcher"
	"berth/launcher/plan"
)

// Container is what isolators know of the container that is prepared.
type Container struct {
	ID     container.ID
	Config *v1.ContainerConfig
	// IDs are who the container's users and groups are on the host. A root filesystem has
	// them, the sandbox has the container's own.
	IDs container.IDRange
	// Image is the configuration of the image that the root filesystem was made of;
	// nil without an image.
	Image *image.Config
	// Parent is the container that this one is nested in; nil for a root container. Of a
	// parent, Image is not known.
	Parent *Container
}

// IsDebug reports whether the container is to look into its parent: it has no file system
// and no namespaces of its own.
func (c *Container) IsDebug() bool { return c.Config.GetContainerClass() == v1.ContainerClass_DEBUG }

// SharesCgroups reports whether the container's processes count in the cgroups of its
// parent.
func (c *Container) SharesCgroups() bool {
	return c.Parent != nil && (c.IsDebug() || c.Config.GetContainerInfo().GetLinuxInfo().GetShareCgroups())
}

// Isolator is one aspect. Its methods may be called concurrently for different
// containers.
type Isolator interface {
	// Prepare returns the isolator's part of the launch; nil: nothing. What it makes on
	// the host it makes so that Cleanup finds it without further knowledge.
	// ErrInvalid, ErrNotSupported: the request cannot be fulfilled, here or at all.
	Prepare(ctx context.Context, c *Container) (*LaunchInfo, error)

	// Cleanup removes what Prepare and Isolate have made. It may be repeated, and called
	// for a container that was never prepared.
	Cleanup(ctx context.Context, id container.ID) error
}

// Enforcer is an isolator that acts on the forked container before it is released.
type Enforcer interface {
	// Isolate sets limits or joins namespaces. pid is the waiting init process.
	Isolate(ctx context.Context, c *Container, pid int) error
}

// Watcher is an isolator that can end a container.
type Watcher interface {
	// Watch waits for the container to exceed a limit, and returns how, or nil when
	// ctx has ended or it never will. nil proves that until the end of ctx it had not
	// happened: a cause is never lost to a race with the exit that it brings about. An
	// error ends the container: what passes, and what a limit holds without, is none.
	Watch(ctx context.Context, id container.ID) (*container.Limitation, error)
}

// Support says for which containers, beside root ones, an isolator is asked. For others it
// is as if it were not configured, but that Cleanup may be called.
//
// Mesos asks, too, whether an isolator supports standalone containers, of no framework.
// Root containers of berth are all such ones, so that there is nothing to declare.
type Support struct {
	Nested bool // containers in others
	// SharedCgroups are nested containers without cgroups of their own.
	SharedCgroups bool
	// Debug are nested containers that look into their parents.
	Debug bool
}

// Supporter is an isolator that says what it supports. One that does not is for all
// containers but those for debugging.
type Supporter interface {
	Supports() Support
}

// Supports reports whether an isolator is to be asked for a container.
func Supports(i Isolator, c *Container) bool {
	support := Support{Nested: true, SharedCgroups: true}
	if s, ok := i.(Supporter); ok {
		support = s.Supports()
	}
	switch {
	case c.Parent == nil:
		return true
	case c.IsDebug():
		return support.Debug
	default:
		return support.Nested && (support.SharedCgroups || !c.SharesCgroups())
	}
}

// Updater is an isolator whose limits can change while the container runs.
type Updater interface {
	// Update makes resources and limits of the container those of c.Config; what they do
	// not name is no longer limited. It may be repeated, and undone by another Update.
	// ErrInvalid: as in Prepare. ErrFailedPrecondition: the container uses more already.
	Update(ctx context.Context, c *Container) error
}

// Meter is an isolator that knows what a container uses.
type Meter interface {
	// Usage adds what it knows to the statistics, by fields that no other isolator has.
	// ErrNotFound: the container is gone.
	Usage(ctx context.Context, id container.ID, to *v1.ResourceStatistics) error
}

// Reporter is an isolator that knows what a container has been given.
type Reporter interface {
	// Status adds what it knows to the status of a running container, by fields that no
	// other isolator has. It is asked once: what was given stays as long as the container.
	Status(ctx context.Context, c *Container, to *v1.ContainerStatus) error
}

// Recoverer is an isolator that keeps more of containers than Cleanup finds by their ids.
type Recoverer interface {
	// Recover is called before anything else, with the containers that another process
	// has left running and this one has taken up again. Of others it says nothing: they may
	// be those of a process that lives. An error ends the recovery of all.
	Recover(ctx context.Context, living []*Container) error
}

// Prober is an isolator that can tell whether it works on this host.
type Prober interface {
	// Probe tries, and leaves nothing. The error says what the host lacks.
	Probe(ctx context.Context) error
}

// LaunchInfo is one isolator's part of a launch. The zero value adds nothing.
type LaunchInfo struct {
	Namespaces []launcher.Namespace
	// Enter are namespaces of the parent, for a nested container. Those of Namespaces are
	// made in them.
	Enter       []launcher.Namespace
	Controllers []string // in whose hierarchies the container needs a cgroup

	Mounts   []plan.Mount
	Nodes    []plan.Node
	Links    []plan.Link
	Masked   []string
	ReadOnly []string
	Hostname string
	Loopback bool

	// Volumes are what the request asks for, mounted after all of the above, the outer
	// before the inner ones, whichever isolators they come from.
	Volumes []plan.Mount
	// ForUser are directories that were made in the sandbox, named from there, and that
	// the container's user gets, like the sandbox itself.
	ForUser []string
	// Owned are directories on the host that are the container's, and that its user gets
	// too; absolute.
	Owned []string

	// Of the following each may come from one isolator only.
	Command    *Command
	WorkingDir string
	User       string // USER[:GROUP], names or numbers, as the root filesystem knows them
	// StopSignal asks the command to end; zero: SIGTERM does.
	StopSignal syscall.Signal

	Confinement Confinement

	// CgroupNamespace: the container sees cgroups from its own on.
	CgroupNamespace bool

	// Groups are further ones of User; they do not count for that of the request.
	Groups []uint32

	// Rlimits are set in this order.
	Rlimits []plan.Rlimit

	// Env is overridden by the environment of the request.
	Env []string

	// Secrets are variables of the request whose values no record has.
	Secrets []SecretVariable
}

// SecretVariable is a variable of the environment whose value is a secret.
type SecretVariable struct {
	Name, Value string
}

// Command is what to execute: Path is looked up like that of plan.Command.
type Command struct {
	Path string
	Args []string // with argv[0]
}
