// Package state says where everything lies on disk. Every path of the two
// directories of berth is made here, and nowhere else but inside a layer store,
// which package layer draws.
//
//	<work>                                              survives a reboot; 0700
//	    store/                                          layers, see package layer
//	    store/{docker,oci,appc}/images/<reference>.json image records of the stores
//	    store/docker/partial/<digest>                   what came of a blob whose pull was interrupted
//	    provisioner/containers/<id>[/containers/<child>...]/
//	        layers                                      the layers of each root filesystem
//	        backends/<backend>/rootfses/<rootfs>        a root filesystem
//	        backends/<backend>/scratch/<rootfs>         what the backend needs beside it
//	    containers/<id>[.nested/<child>...]/            sandbox: the container's own files, stdout and stderr
//	    containers/<id>.foreground                      the sandbox is to go with its container
//	    fetch/                                          downloads of the fetcher, see package fetcher
//	    network/                                        attachments to networks, see package network/cni
//	    volumes/roles/<role>/<id>                       persistent volumes; a "/" in a role is a blank
//	    projects/<number>                               the directories that a project of a disk quota is of
//	    agent                                           process id of the agent, locked by it
//	<runtime>                                           gone after a reboot; 0700
//	    lock                                            serialises admission and recovery
//	    format                                          version of the records of containers
//	    backend                                         backends that were found to work, and where
//	    agent                                           as in <work>
//	    agent.sock                                      where the agent answers
//	    net_cls/<handle>                                a tag of packets, and the container that has it
//	    mounts/                                         layers that are mounted, see package provisioner/backend/erofs
//	    containers/<id>[/containers/<child>...]/
//	        keeper                                      who may judge the container, locked by it
//	        external/<isolator>                         the executable that has prepared the container
//	        config                                      the request
//	        phase                                       the phase of the launch entered last
//	        cgroup                                      path and controllers of its cgroup
//	        pid                                         of the init process, and when that began
//	        netns                                       its network namespace is bound to it
//	        tree                                        the same of a container that is a tree of processes
//	        launch                                      what was made of the request: environment, directory...
//	        input, control                              pipes to the command's input and to berth-init, see containerizer/mesos
//	        ids                                         the range of its user namespace
//	        status                                      wait status of the command
//	        termination                                 how the container ended; without phase: nothing is left but its request and logs
//
// The sandbox of a nested container is not in that of its parent, who could put a link in
// its place.
//
// Records are JSON or one plain value, replaced as a whole by a rename.
package state

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"berth/container"
)

// Layout is the pair of directories that an engine works in.
type Layout struct {
	Work    string
	Runtime string
}

// NewLayout makes both directories, with mode 0700 and parents, and resolves links in
// their paths: mounts are looked up by these paths in the mount table, which has
// no links.
func NewLayout(work, runtime string) (Layout, error) {
	work, err := realDir(work)
	if err != nil {
		return Layout{}, err
	}
	runtime, err = realDir(runtime)
	return Layout{Work: work, Runtime: runtime}, err
}

func realDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}

// Store is the directory of the layers and image records.
func (l Layout) Store() string { return filepath.Join(l.Work, "store") }

// DockerStore is where the docker store keeps its records.
func (l Layout) DockerStore() string { return filepath.Join(l.Store(), "docker") }

// OCIStore is where the oci store keeps its records.
func (l Layout) OCIStore() string { return filepath.Join(l.Store(), "oci") }

// AppcStore is where the appc store keeps its records.
func (l Layout) AppcStore() string { return filepath.Join(l.Store(), "appc") }

// FetcherCache is where the fetcher keeps downloads.
func (l Layout) FetcherCache() string { return filepath.Join(l.Work, "fetch") }

// Provisioner is the root of what the provisioner makes.
func (l Layout) Provisioner() Provisioner {
	return Provisioner{root: filepath.Join(l.Work, "provisioner")}
}

// Networks holds the attachments of containers to networks: in the directory that survives
// a reboot, or in the one that does not.
func (l Layout) Networks(survive bool) string {
	if survive {
		return filepath.Join(l.Work, "network")
	}
	return filepath.Join(l.Runtime, "network")
}

// Sandbox is the directory of the container's own files.
func (l Layout) Sandbox(id container.ID) string {
	return l.Sandboxes() + "/" + strings.Join(id.Values(), nestedSuffix+"/")
}

// NestedSandboxes holds the sandboxes of the containers nested in one.
func (l Layout) NestedSandboxes(id container.ID) string { return l.Sandbox(id) + nestedSuffix }

// nestedSuffix, like ForegroundSuffix, is in no value of an id.
const nestedSuffix = ".nested"

// Sandboxes holds the sandboxes.
func (l Layout) Sandboxes() string { return filepath.Join(l.Work, "containers") }

// ForegroundSuffix ends the names of Foreground markers. No id has a dot in a value.
const ForegroundSuffix = ".foreground"

// Foreground marks a sandbox that nobody wants after its container has ended. It
// survives a reboot, which the container's record does not.
func (l Layout) Foreground(id container.ID) string { return l.Sandbox(id) + ForegroundSuffix }

// PersistentVolume is the directory of a volume that outlives its containers. No role has
// a blank, which stands for the slash of one below another.
func (l Layout) PersistentVolume(role, id string) string {
	return filepath.Join(l.Work, "volumes", "roles", strings.ReplaceAll(role, "/", " "), id)
}

// Projects has a file for each project in use of the file system's quotas.
func (l Layout) Projects() string { return filepath.Join(l.Work, "projects") }

// RuntimeLock is the file whose lock serialises admission and recovery.
func (l Layout) RuntimeLock() string { return filepath.Join(l.Runtime, "lock") }

// Format is the version of the records of containers.
func (l Layout) Format() string { return filepath.Join(l.Runtime, "format") }

// Backend holds which backends were found to work, and on which file systems.
func (l Layout) Backend() string { return filepath.Join(l.Runtime, "backend") }

// AgentLocks are the files that an agent locks, so that there is one for each of the two
// directories.
func (l Layout) AgentLocks() []string {
	return []string{filepath.Join(l.Work, "agent"), filepath.Join(l.Runtime, "agent")}
}

// AgentSocket is where the agent answers.
func (l Layout) AgentSocket() string { return filepath.Join(l.Runtime, "agent.sock") }

// NetCls has a file for each tag of packets that a container has.
func (l Layout) NetCls() string { return filepath.Join(l.Runtime, "net_cls") }

// Mounts has the mounts of layers, which root filesystems share.
func (l Layout) Mounts() string { return filepath.Join(l.Runtime, "mounts") }

// RuntimeContainers holds a directory for each root container.
func (l Layout) RuntimeContainers() string { return filepath.Join(l.Runtime, "containers") }

// Container is the directory of a container's records.
func (l Layout) Container(id container.ID) Container {
	return Container{Dir: nested(l.Runtime, id)}
}

// Container is the records of one container.
type Container struct {
	Dir string
}

// Keeper is locked by the process that the container belongs to.
func (c Container) Keeper() string { return filepath.Join(c.Dir, "keeper") }

// Config is the request.
func (c Container) Config() string { return filepath.Join(c.Dir, "config") }

// Phase is the phase of the launch entered last.
func (c Container) Phase() string { return filepath.Join(c.Dir, "phase") }

// Cgroup names the container's cgroup.
func (c Container) Cgroup() string { return filepath.Join(c.Dir, "cgroup") }

// Pid identifies the init process.
func (c Container) Pid() string { return filepath.Join(c.Dir, "pid") }

// Netns is the file to which the network namespace is bound.
func (c Container) Netns() string { return filepath.Join(c.Dir, "netns") }

// Tree identifies the init process of a container that is the tree of processes below it.
func (c Container) Tree() string { return filepath.Join(c.Dir, "tree") }

// Launch is what was made of the request.
func (c Container) Launch() string { return filepath.Join(c.Dir, "launch") }

// Input is the pipe by which the command's input is written.
func (c Container) Input() string { return filepath.Join(c.Dir, "input") }

// Control is the pipe by which berth-init is told of sizes and of the end of the input.
func (c Container) Control() string { return filepath.Join(c.Dir, "control") }

// Termination is how the container ended, for who asks later.
func (c Container) Termination() string { return filepath.Join(c.Dir, "termination") }

// IDs is the range of the container's user namespace.
func (c Container) IDs() string { return filepath.Join(c.Dir, "ids") }

// Status is where the init process leaves the command's wait status.
func (c Container) Status() string { return filepath.Join(c.Dir, "status") }

// External has a file for each external isolator that is to clean up after the container.
func (c Container) External() string { return filepath.Join(c.Dir, "external") }

// Provisioner is the tree of the provisioner. Its paths are put together for each launch,
// of parts that have nothing to clean.
type Provisioner struct {
	root string
}

// Root is the directory of the tree.
func (p Provisioner) Root() string { return p.root }

// Containers holds a directory for each root container.
func (p Provisioner) Containers() string { return p.root + "/containers" }

// Container is the directory of one container.
func (p Provisioner) Container(id container.ID) string { return nested(p.root, id) }

// Layers is the record of the layers of a container's root filesystems.
func (p Provisioner) Layers(id container.ID) string { return p.Container(id) + "/layers" }

// Backends holds a directory for each backend that the container uses.
func (p Provisioner) Backends(id container.ID) string { return p.Container(id) + "/backends" }

// BackendDir is the directory of one backend of a container.
func (p Provisioner) BackendDir(id container.ID, backend string) string {
	return p.Backends(id) + "/" + backend
}

// Rootfs is a root filesystem below a BackendDir.
func Rootfs(backendDir, rootfsID string) string {
	return backendDir + "/rootfses/" + rootfsID
}

// Scratch is what a backend needs beside a root filesystem. It finds it by the root
// filesystem's path alone, so that no record can contradict it.
func Scratch(backendDir, rootfs string) string {
	return backendDir + "/scratch/" + filepath.Base(rootfs)
}

// nested is root/containers/<id>[/containers/<child>...].
func nested(root string, id container.ID) string {
	for _, value := range id.Values() {
		root += "/containers/" + value
	}
	return root
}

// Children lists the containers nested in parent, and in the directory of no
// container the root containers; dir is the directory that holds "containers".
func Children(dir string, parent container.ID) ([]container.ID, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "containers"))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []container.ID
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		id, err := ChildID(parent, e.Name())
		if err != nil {
			continue // not ours
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// ChildID returns the container that a directory of this name in the "containers" of parent
// is, and in that of no container a root container; an error when it is none.
func ChildID(parent container.ID, value string) (container.ID, error) {
	if !parent.IsZero() {
		return parent.Child(value)
	}
	id, err := container.ParseID(value)
	if err == nil && id.Value() != value {
		err = fmt.Errorf("%q is not one value", value)
	}
	return id, err
}
