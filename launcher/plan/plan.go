// Package plan is what the init process of a container, berth-init, is told: the
// whole of it, as one value. The launcher writes it; berth-init carries it out, one
// step after the other, and decides nothing by itself.
//
// It imports nothing of the project, because berth-init is to stay tiny.
package plan

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// Version is of the encoding. berth and berth-init of different versions refuse to
// work together.
const Version = 1

// Plan is what to make of a freshly cloned process. Paths of the container are
// absolute and below Rootfs; they are resolved there, never on the host.
type Plan struct {
	Version int `json:"version"`

	// Rootfs is the provisioned root filesystem, on the host; empty: the container
	// sees the host's file system, through a mount namespace of its own.
	Rootfs         string `json:"rootfs,omitempty"`
	ReadOnlyRootfs bool   `json:"readOnlyRootfs,omitempty"`

	// Mounts are made in order, Nodes and Links after them, then paths are masked and
	// made read-only.
	Mounts   []Mount  `json:"mounts,omitempty"`
	Nodes    []Node   `json:"nodes,omitempty"`
	Links    []Link   `json:"links,omitempty"`
	Masked   []string `json:"masked,omitempty"`   // files read as empty, directories are empty; missing ones are skipped
	ReadOnly []string `json:"readOnly,omitempty"` // missing ones are skipped

	Hostname string `json:"hostname,omitempty"` // needs a UTS namespace
	Loopback bool   `json:"loopback,omitempty"` // bring lo up; needs a network namespace

	Command Command `json:"command"`
}

// Mount is one mount inside the container.
type Mount struct {
	Target string `json:"target"`
	// Source is a path on the host to bind, or the name of a file system with Type.
	Source  string   `json:"source"`
	Type    string   `json:"type,omitempty"` // empty: a bind mount, recursive
	Options []Option `json:"options,omitempty"`
	Flags   Flags    `json:"flags,omitempty"`
	// Fixed targets are the kernel's own places (/proc, /dev): a link of the image in
	// their path is refused. For the others it is followed inside the root filesystem.
	Fixed bool `json:"fixed,omitempty"`
}

// Option is a parameter of a file system.
type Option struct {
	Key   string `json:"key"`
	Value string `json:"value,omitempty"`
}

// Flags are the attributes of a mount.
type Flags uint

// The attributes.
const (
	ReadOnly Flags = 1 << iota
	NoSuid
	NoDev
	NoExec
)

// Node is a device node, in a mount that the plan made.
type Node struct {
	Path  string `json:"path"`
	Mode  uint32 `json:"mode"` // S_IFCHR and permissions
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
}

// Link is a symbolic link, in a mount that the plan made.
type Link struct {
	Path   string `json:"path"`
	Target string `json:"target"`
}

// Command is what to execute in the end.
type Command struct {
	// Path is looked up in the working directory if it has a slash, else in the PATH of
	// Env.
	Path string   `json:"path"`
	Args []string `json:"args"` // with argv[0]
	Env  []string `json:"env"`
	// Dir is made when it is missing, with owner root.
	Dir    string   `json:"dir"`
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}

// The files of berth-init, in the order in which the launcher hands them over, from
// descriptor 3 on.
const (
	planFD = 3 + iota
	releaseFD
	reportFD
	statusFD
	// FirstForeignFD and those above it are not the launcher's.
	FirstForeignFD
)

// Files are what berth-init works with, beside its standard streams.
type Files struct {
	Plan    *os.File // the encoded plan, at its beginning
	Release *os.File // a byte says go; its end says that berth has died: exit
	Report  *os.File // takes a Report; closed without one when the command was executed
	Status  *os.File // takes the wait status of the command, in decimal
}

// List returns the files in the order of their descriptors.
func (f Files) List() []*os.File { return []*os.File{f.Plan, f.Release, f.Report, f.Status} }

// Inherited returns the files that the launcher has handed to this process.
func Inherited() Files {
	return Files{
		Plan:    os.NewFile(planFD, "plan"),
		Release: os.NewFile(releaseFD, "release"),
		Report:  os.NewFile(reportFD, "report"),
		Status:  os.NewFile(statusFD, "status"),
	}
}

// Report says why the command was not executed.
type Report struct {
	Message string `json:"message"`
	Code    int    `json:"code"` // the exit code that stands for it: 125, 126 or 127
}

// Encode writes the plan.
func (p Plan) Encode(w io.Writer) error {
	p.Version = Version
	return json.NewEncoder(w).Encode(p)
}

// maxSize bounds what Decode reads.
const maxSize = 8 << 20

// Decode reads a plan of this version.
func Decode(r io.Reader) (Plan, error) {
	var p Plan
	if err := json.NewDecoder(io.LimitReader(r, maxSize)).Decode(&p); err != nil {
		return p, fmt.Errorf("read the plan: %w", err)
	}
	if p.Version != Version {
		return p, fmt.Errorf("the plan has version %d, this berth-init knows %d: install both programs from one build", p.Version, Version)
	}
	return p, nil
}
