//go:build linux

package linux

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/calls"
	"berth/internal/cgroup"
	"berth/internal/idmap"
	"berth/internal/nofile"
	"berth/launcher"
	"berth/launcher/initproc"
	"berth/launcher/plan"
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
		if err := b.execute(list, files); err != nil {
			return err
		}
		// It stays root of the host until berth-init does as its plan says.
		process, err = run(list, calls.Birth{Cgroup: b.unified, Flags: cloneFlags(spec), Trusted: true})
		return err
	})
	return process, err
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
	// Its root: nobody has capabilities after an execution.
	list.Add("give up the groups", unix.SYS_SETGROUPS, 0, 0)
	list.Add("become the group 0", unix.SYS_SETRESGID, 0, 0, 0)
	list.Add("become the user 0", unix.SYS_SETRESUID, 0, 0, 0)
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
	var failed *calls.Failure
	switch {
	case errors.Is(err, unix.ESRCH):
		return fmt.Errorf("%w: %w", container.ErrFailedPrecondition, err)
	case errors.As(err, &failed) && failed.Last:
		return explain(err, spec)
	}
	return err
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

// hasOwnUsers reports whether the container has a user namespace of its own. Its maps are
// written from outside, while the process waits, for which package syscall has the means.
func hasOwnUsers(spec launcher.Spec) bool { return slices.Contains(spec.Namespaces, launcher.User) }

// startWithUsers starts berth-init in a new user namespace.
func startWithUsers(attr *os.ProcAttr, unified, parent *os.File, spec launcher.Spec) (process *os.Process, err error) {
	attr.Sys = &syscall.SysProcAttr{
		Setsid: true, Cloneflags: cloneFlags(spec),
		UidMappings: idmap.Maps(spec.IDs), GidMappings: idmap.Maps(spec.IDs), GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{}, // its root, or it had lost its capabilities by executing
	}
	if unified != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(unified.Fd())
	}
	// By the descriptor: what is executed is the file that was opened, read-only. It is
	// handed over like the others, because the child may use any other number for its own
	// copies; berth-init closes it.
	path := "/proc/self/fd/" + strconv.Itoa(plan.FirstForeignFD)
	err = startIn(parent, spec.Enter, func() (err error) {
		process, err = os.StartProcess(path, []string{initproc.Name}, attr)
		return explain(err, spec)
	})
	return process, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
