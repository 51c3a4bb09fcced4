//go:build linux

package linux

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/calls"
	"berth/internal/cgroup"
	"berth/internal/idmap"
	"berth/internal/nofile"
	"berth/launcher"
	"berth/launcher/initproc"
)

// birth is what it takes to start berth-init.
type birth struct {
	*os.ProcAttr
	program   *os.File
	parent    *os.File   // a pidfd of whose namespaces it is to be in; nil: nobody's
	unified   *os.File   // its cgroup in the v2 tree, or nil
	entrances []*os.File // of the v1 cgroups that it enters
}

// start starts berth-init in its namespaces and cgroups.
func start(b birth, spec launcher.Spec) (process *os.Process, err error) {
	if slices.Contains(spec.Enter, launcher.User) {
		return b.inUser(spec)
	}
	err = startIn(b.parent, spec.Enter, func() error {
		list := &calls.List{}
		defer list.Close()
		files, err := b.duplicate()
		defer files.close()
		if err != nil {
			return err
		}
		b.enterCgroups(list)
		// It stays root of the host until berth-init does as its plan says.
		birth := calls.Birth{Cgroup: b.unified, Flags: cloneFlags(spec), Trusted: true}
		if hasOwnUsers(spec) {
			if err := keepFromTracing(); err != nil {
				return err
			}
			birth.Meanwhile = func(pid int) error { return idmap.Write(pid, spec.IDs) }
			becomeRoot(list)
		}
		if err := b.execute(list, files); err != nil {
			return err
		}
		process, err = run(list, birth)
		return explain(err, spec)
	})
	return process, err
}

// keepFromTracing is for a process that becomes another user while it uses the memory of this
// one: whoever may trace processes of that user must not get at it. Nobody may from here on who
// has no capabilities on the host.
func keepFromTracing() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keep others from tracing: %w", err)
	}
	return nil
}

// becomeRoot makes the process root of the user namespace that it is in: nobody else has
// capabilities after an execution.
func becomeRoot(list *calls.List) {
	list.Add("give up the groups", unix.SYS_SETGROUPS, 0, 0)
	list.Add("become the group 0", unix.SYS_SETRESGID, 0, 0, 0)
	list.Add("become the user 0", unix.SYS_SETRESUID, 0, 0, 0)
}

// inUser starts berth-init from within the user namespace of another process, and those
// of its namespaces that the container is to be in. Only a process with one thread can enter
// a user namespace (setns(2)).
//
// The namespace of mounts is entered before berth-init is executed, unlike by startIn: until
// that had entered it, whoever may trace processes in the container could reach the host's
// files through it. What is executed is a descriptor, so it is no program of the container.
func (b birth) inUser(spec launcher.Spec) (*os.Process, error) {
	list := &calls.List{}
	defer list.Close()
	files, err := b.duplicate()
	defer files.close()
	if err != nil {
		return nil, err
	}
	var enter uintptr
	for _, ns := range spec.Enter {
		enter |= namespaceFlags[ns]
	}
	b.enterCgroups(list)
	list.Add("enter the namespaces of the parent", unix.SYS_SETNS, b.parent.Fd(), enter)
	becomeRoot(list)
	list.Fork(cloneFlags(spec))
	if err := b.execute(list, files); err != nil {
		return nil, err
	}
	process, err := run(list, calls.Birth{Cgroup: b.unified})
	return process, explainEntering(err, spec)
}

func (b birth) enterCgroups(list *calls.List) {
	itself := []byte(cgroup.Itself)
	for _, entrance := range b.entrances {
		list.Add("enter "+entrance.Name(), unix.SYS_WRITE, entrance.Fd(), calls.Pin(list, &itself[0]), uintptr(len(itself)))
	}
}

// execute adds what the process does last, as os.StartProcess would have it.
func (b birth) execute(list *calls.List, files descriptors) error {
	list.Add("make a session", unix.SYS_SETSID)
	if limit := nofile.Inherited; limit.Hard > 0 { // the Go runtime has raised that of this process
		list.Add("set the limit of open files", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, calls.Pin(list, &limit), 0)
	}
	for to, from := range files.given {
		list.Add("hand over a file", unix.SYS_DUP3, uintptr(from), uintptr(to), 0)
	}
	dir, err := unix.BytePtrFromString(b.Dir)
	if err != nil {
		return err
	}
	list.Add("enter "+b.Dir, unix.SYS_CHDIR, calls.Pin(list, dir))
	return list.Execute(files.program, "", []string{initproc.Name}, b.Env)
}

func run(list *calls.List, b calls.Birth) (*os.Process, error) {
	pid, pidFD, err := list.Run(b)
	if err != nil {
		return nil, err
	}
	process, err := os.FindProcess(pid) // a child, whose number is its own until it is waited for
	return process, errors.Join(err, unix.Close(pidFD))
}

func explainEntering(err error, spec launcher.Spec) error {
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w: %w", container.ErrFailedPrecondition, err)
	}
	return explain(err, spec)
}

// descriptors are those that the new process works with. While it gives them their numbers,
// none of them may have one of these.
type descriptors struct {
	given   []int
	program int
	copies  []int
}

func (b birth) duplicate() (d descriptors, err error) {
	copied := func(f *os.File) int {
		fd := int(f.Fd())
		if fd >= len(b.Files) || err != nil {
			return fd
		}
		if fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, len(b.Files)); err != nil {
			err = os.NewSyscallError("dup", err)
			return -1
		}
		d.copies = append(d.copies, fd)
		return fd
	}
	for _, f := range b.Files {
		d.given = append(d.given, copied(f))
	}
	d.program = copied(b.program)
	return d, err
}

func (d descriptors) close() {
	for _, fd := range d.copies {
		unix.Close(fd)
	}
}

// hasOwnUsers reports whether the container has a user namespace of its own.
func hasOwnUsers(spec launcher.Spec) bool { return slices.Contains(spec.Namespaces, launcher.User) }

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
