//go:build linux

package linux

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/calls"
	"berth/launcher"
	"berth/launcher/initproc"
)

// startInUser starts berth-init from within the user namespace of another process, and those
// of its namespaces that the container is to be in. Only a process with one thread can enter
// a user namespace (setns(2)).
//
// The namespace of mounts is entered before berth-init is executed, unlike by startIn: until
// that had entered it, whoever may trace processes in the container could reach the host's
// files through it. What is executed is a descriptor, so it is no program of the container.
func startInUser(program *os.File, attr *os.ProcAttr, parent *os.File, spec launcher.Spec) (*os.Process, error) {
	list := &calls.List{}
	defer list.Close()
	given, err := duplicate(slices.Concat(attr.Files, []*os.File{program, parent}))
	defer closeAll(given)
	if err != nil {
		return nil, err
	}
	files, programFD, parentFD := given[:len(attr.Files)], given[len(attr.Files)], given[len(attr.Files)+1]
	var enter uintptr
	for _, ns := range spec.Enter {
		enter |= namespaceFlags[ns]
	}
	list.Add("enter the namespaces of the parent", unix.SYS_SETNS, uintptr(parentFD), enter)
	// Its root: nobody has capabilities after an execution.
	list.Add("give up the groups", unix.SYS_SETGROUPS, 0, 0)
	list.Add("become the group 0", unix.SYS_SETRESGID, 0, 0, 0)
	list.Add("become the user 0", unix.SYS_SETRESUID, 0, 0, 0)
	list.Fork(attr.Sys.Cloneflags)
	list.Add("make a session", unix.SYS_SETSID)
	for to, from := range files {
		list.Add("hand over a file", unix.SYS_DUP3, uintptr(from), uintptr(to), 0)
	}
	dir, err := unix.BytePtrFromString(attr.Dir)
	if err != nil {
		return nil, err
	}
	list.Add("enter "+attr.Dir, unix.SYS_CHDIR, calls.Pin(list, dir))
	if err := list.Execute(programFD, "", []string{initproc.Name}, attr.Env); err != nil {
		return nil, err
	}
	cgroup := -1
	if attr.Sys.UseCgroupFD {
		cgroup = attr.Sys.CgroupFD
	}
	pid, pidFD, err := list.Run(cgroup)
	if err != nil {
		return nil, explainEntering(err, spec)
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

// duplicate returns descriptors whose numbers are none of those that the files are to have.
func duplicate(files []*os.File) (fds []int, err error) {
	for _, f := range files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, len(files))
		if err != nil {
			return fds, os.NewSyscallError("dup", err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// ownedByParent returns those of the namespaces to enter that the parent's user namespace
// owns: not those that the parent has of the host.
func (l *Launcher) ownedByParent(spec launcher.Spec) (own []launcher.Namespace, err error) {
	parent, err := initproc.Recorded(l.Layout.Container(spec.Parent).Pid())
	if err != nil {
		return nil, fmt.Errorf("the init process of container %s: %w: %w", spec.Parent, container.ErrFailedPrecondition, err)
	}
	dir := "/proc/" + strconv.Itoa(parent.Pid) + "/ns/"
	user, err := os.Stat(dir + string(launcher.User))
	if err != nil {
		return nil, fmt.Errorf("the namespaces of the parent: %w: %w", container.ErrFailedPrecondition, err)
	}
	for _, ns := range spec.Enter {
		owner, err := ownerOf(dir + string(ns))
		if err != nil {
			return nil, fmt.Errorf("the namespaces of the parent: %w", err)
		}
		if os.SameFile(owner, user) {
			own = append(own, ns)
		}
	}
	return own, nil
}

// ownerOf returns the user namespace that owns another one.
func ownerOf(path string) (owner os.FileInfo, err error) {
	namespace, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, namespace.Close()) }()
	fd, err := unix.IoctlRetInt(int(namespace.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return nil, os.NewSyscallError("ioctl", err)
	}
	user := os.NewFile(uintptr(fd), "user namespace")
	defer func() { err = errors.Join(err, user.Close()) }()
	return user.Stat()
}
