// Package plan is what the init process of a container, berth-init, is told: the
// whole of it, as one value. The launcher writes it; berth-init carries it out, one
// step after the other, and decides nothing by itself.
//
// It imports nothing of the project, because berth-init is to stay tiny.
package plan

import "os"

// Plan is what to make of a freshly cloned process. Paths of the container are
// absolute and below Rootfs; they are resolved there, never on the host.
type Plan struct {
	// EnterMounts: the container's file system is that of the process Files.Parent, as it
	// is. Of the rest of the plan only Command concerns it.
	EnterMounts bool

	// Rootfs is the provisioned root filesystem, on the host; empty: the container
	// sees the host's file system, through a mount namespace of its own.
	Rootfs         string
	ReadOnlyRootfs bool
	// Handed is how many mounts come by Files.Sources, made by who can reach their sources: in
	// order, Mounts and Volumes that are OfParent. With HandedAll they are the Rootfs and then all
	// Mounts and Volumes without a Type, as in a user namespace berth-init cannot make any.
	Handed    int
	HandedAll bool
	// HostMounts: the container is in the mount namespace in which berth-init is executed, and
	// nothing is mounted. That is the host's, or with EnterMounts the one to enter.
	HostMounts bool

	// Mounts are made in order, Nodes and Links after them, then paths are masked and
	// made read-only.
	Mounts   []Mount
	Nodes    []Node
	Links    []Link
	Masked   []string // files read as empty, directories are empty; missing ones are skipped
	ReadOnly []string // missing ones are skipped

	// Volumes are mounted after all of the above, in order: nothing that the container
	// needs is made in a volume, which may be a directory of the host.
	Volumes []Mount

	Terminal *Terminal // nil: the standard streams of the command are those of berth-init

	Logs *Logs // nil: berth-init writes none

	// Input: berth-init keeps Files.Input open while the command runs, so that it has no end
	// before a Control says so. With a kept terminal it types there what comes of it.
	Input bool

	// CgroupNamespace: the container sees cgroups from its own on.
	CgroupNamespace bool

	// Tree: the container is what descends from berth-init, which no namespace and no cgroup
	// holds together. When the command has ended, what it has left is ended before
	// berth-init.
	Tree bool

	Hostname string // needs a UTS namespace
	Loopback bool   // bring lo up; needs a network namespace

	Command Command
}

// Mount is one mount inside the container.
type Mount struct {
	Target string
	// Source is a path on the host to bind, or the name of a file system with Type.
	Source string
	// SubPath is the path below Source to bind instead. Links in it are followed inside
	// Source and lead nowhere else.
	SubPath string
	Type    string // empty: a bind mount, recursive
	Options []Option
	Flags   Flags
	// OfParent: a bind mount of what the container that this one is nested in has at Source.
	OfParent bool
	// Provisioned: a bind mount of a root filesystem whose owners are the container's already,
	// whatever its user namespace is. It does not concern berth-init.
	Provisioned bool
	// Fixed targets are the kernel's own places (/proc, /dev): a link of the image in
	// their path is refused. For the others it is followed inside the root filesystem.
	Fixed bool
	// Replace: what is mounted is the container's own in the place of what the image has
	// there. A link at Target is removed for it; where the root filesystem cannot be written
	// and has nothing at Target, nothing is mounted.
	Replace bool
	// Propagation of a bind mount: what the host and the container mount below it.
	Propagation Propagation
	// File: of the new file system, one file with Content is mounted, which the user of
	// the command alone can read.
	File    bool
	Content []byte
}

// Propagation says which mounts made later cross the boundary of a container.
type Propagation uint

// The ways of mounts.
const (
	Private  Propagation = iota // none
	FromHost                    // those of the host appear in the container
	BothWays                    // and the other way
)

// Option is a parameter of a file system.
type Option struct {
	Key   string
	Value string
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
	Path  string
	Mode  uint32 // S_IFCHR and permissions
	Major uint32
	Minor uint32
}

// Link is a symbolic link, in a mount that the plan made.
type Link struct {
	Path   string
	Target string
}

// Terminal is a new pseudo terminal, the standard streams of the command.
type Terminal struct {
	// Kept: berth-init keeps the master, and what comes of it is output 1 of Logs. Otherwise
	// the master is sent by the socket Files.Terminal.
	Kept        bool
	Multiplexer string // the ptmx of the devpts that the terminal is on; a Fixed path
	// Console is where the terminal is found too, in a mount that the plan made; empty:
	// nowhere else.
	Console       string
	Rows, Columns uint16
}

// Logs are outputs of the command that berth-init writes to files called stdout and
// stderr, in the directory Files.Logs. A full one is renamed, to stdout.1 and so on.
type Logs struct {
	Outputs  []int // 1, 2
	MaxSize  int64 // of a file, in bytes; 0: there is no bound
	MaxFiles int   // of each output, that which is written to included; positive with a MaxSize
}

// Control is what berth-init is told while the command runs, by Files.Control: to take
// another size for the terminal that it keeps, or to close the input.
type Control struct {
	CloseInput    bool
	Rows, Columns uint16
}

// ControlSize is the size of an encoded Control. What is so small is written to a pipe as a
// whole, or not at all.
const ControlSize = 5

// Encode returns the message as it is written.
func (c Control) Encode() []byte {
	text := []byte{0, byte(c.Rows >> 8), byte(c.Rows), byte(c.Columns >> 8), byte(c.Columns)}
	if c.CloseInput {
		text[0] = 1
	}
	return text
}

// DecodeControl is the reverse of Encode. Every text is a message.
func DecodeControl(text [ControlSize]byte) Control {
	return Control{CloseInput: text[0] != 0, Rows: uint16(text[1])<<8 | uint16(text[2]), Columns: uint16(text[3])<<8 | uint16(text[4])}
}

// Command is what to execute in the end.
type Command struct {
	// Path is looked up in the working directory if it has a slash, else in the PATH of
	// Env.
	Path string
	Args []string // with argv[0]
	Env  []string
	// Dir is made when it is missing, with owner root and mode 0755, but not on the host's
	// file system. It is absolute; links of the image are followed inside Rootfs, those
	// of procfs to what a process has open are refused.
	Dir    string
	UID    uint32
	GID    uint32
	Groups []uint32

	// Rlimits are set on the command; others are those of berth-init.
	Rlimits []Rlimit

	Confinement Confinement
}

// Confinement is what the command may do, from its first instruction on. The zero value
// takes nothing from it that a process of its user has.
type Confinement struct {
	Capabilities *Capabilities // nil: root has those of berth-init, others have none

	NoNewPrivileges bool

	// Filter is a program for seccomp(2): struct sock_filter, one after the other, in the
	// byte order of this machine. Of the system calls of berth-init it sees execve(2), and
	// when that fails exit_group(2). FilterFlags are those of seccomp(2).
	Filter      []byte
	FilterFlags uint

	AppArmorProfile string // into which the execution leads; empty: what the kernel decides
	SELinuxLabel    string // the same
}

// Capabilities are the sets of capabilities(7), as bits: those that decide what the command
// has when it was executed.
type Capabilities struct {
	// Effective is what it has then.
	Effective   uint64
	Bounding    uint64
	Inheritable uint64
	Ambient     uint64
	// NoRoot: user 0 is given no capability for being root.
	NoRoot bool
}

// The files of berth-init, in the order in which the launcher hands them over, from
// descriptor 3 on.
const (
	planFD = 3 + iota
	releaseFD
	reportFD
	statusFD
	parentFD
	terminalFD
	logsFD
	inputFD
	controlFD
	sourcesFD
	// FirstForeignFD and those above it are not the launcher's.
	FirstForeignFD
)

// MaxHanded is how many mounts come in one message of Files.Sources; the kernel allows 253.
const MaxHanded = 250

// Files are what berth-init works with, beside its standard streams.
type Files struct {
	Plan    *os.File // the encoded plan, at its beginning
	Release *os.File // a byte says go; its end says that berth has died: exit
	Report  *os.File // takes a Report; closed without one when the command was executed
	Status  *os.File // takes the wait status of the command, in decimal
	Parent  *os.File // with EnterMounts: a pidfd of whom to follow; else nothing to look at
	// Terminal is a socket that takes the master of the terminal. Without a terminal
	// whatever is there is of no use.
	Terminal *os.File
	// Logs is the directory of the Plan's Logs. It is a mount of its own, so that it leads
	// nowhere else.
	Logs *os.File
	// Input is the write end of the command's input, or with a kept terminal a pipe that what
	// is typed comes by. Control is a pipe of Controls, if there is an input or a kept terminal.
	Input, Control *os.File
	// Sources is a socket by which come the mounts that the plan has Handed.
	Sources *os.File
}

// List returns the files in the order of their descriptors.
func (f Files) List() []*os.File {
	return []*os.File{f.Plan, f.Release, f.Report, f.Status, f.Parent, f.Terminal, f.Logs, f.Input, f.Control, f.Sources}
}

// Open reports whether all of the files are open.
func (f Files) Open() bool {
	for _, file := range f.List() {
		if _, err := file.Stat(); err != nil {
			return false
		}
	}
	return true
}

// Inherited returns the files that the launcher has handed to this process.
func Inherited() Files {
	return Files{
		Plan:     os.NewFile(planFD, "plan"),
		Release:  os.NewFile(releaseFD, "release"),
		Report:   os.NewFile(reportFD, "report"),
		Status:   os.NewFile(statusFD, "status"),
		Parent:   os.NewFile(parentFD, "parent"),
		Terminal: os.NewFile(terminalFD, "terminal"),
		Logs:     os.NewFile(logsFD, "logs"),
		Input:    os.NewFile(inputFD, "input"),
		Control:  os.NewFile(controlFD, "control"),
		Sources:  os.NewFile(sourcesFD, "sources"),
	}
}

// Report says why the command was not executed.
type Report struct {
	Message string
	Code    int // the exit code that stands for it: 125, 126 or 127
}
