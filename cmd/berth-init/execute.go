//go:build linux

package main

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/internal/nofile"
	"berth/launcher/plan"
)

// call is a system call of the new process before it executes the command. All of them are
// made ready before the fork: between that and the execution no Go code may run that
// allocates or locks.
type call struct {
	what string // for people, when it fails
	trap uintptr
	args [5]uintptr
}

// calls are what the new process does, in order. pins keep what arguments point to.
type calls struct {
	list []call
	pins runtime.Pinner
}

func (c *calls) add(what string, trap uintptr, args ...uintptr) {
	one := call{what: what, trap: trap}
	copy(one.args[:], args)
	c.list = append(c.list, one)
}

// pin returns the address of a value that stays where it is until the end of the calls.
func pin[T any](c *calls, value *T) uintptr {
	c.pins.Pin(value)
	return uintptr(unsafe.Pointer(value))
}

// execute starts the command in a process of its own. The error has an exit code.
func execute(file string, p plan.Plan, s streams) (pid, pidFD int, err error) {
	command := p.Command
	c := &calls{}
	defer c.pins.Unpin()
	if err := writeLabels(command.Confinement); err != nil {
		return 0, 0, err
	}
	c.join(p, s)
	if err := c.limit(command.Rlimits); err != nil {
		return 0, 0, err
	}
	if err := c.become(command); err != nil {
		return 0, 0, err
	}
	c.filter(command.Confinement)
	if err := c.exec(file, command); err != nil {
		return 0, 0, execError(file, command, err)
	}
	pid, pidFD, failed, err := c.fork()
	switch {
	case err == nil:
		return pid, pidFD, nil
	case failed == len(c.list)-1:
		return 0, 0, execError(file, command, err)
	case failed >= 0:
		return 0, 0, step(c.list[failed].what, err)
	default:
		return 0, 0, step("fork", err)
	}
}

// join gives the process a session, its terminal and its standard streams. Every other file
// is closed when the command is executed.
func (c *calls) join(p plan.Plan, s streams) {
	// What the command sends to its own process group is not for berth-init, which would
	// forward it.
	if p.Tree && s.terminal == nil {
		// In the session of berth-init, by which it is found should that be killed.
		c.add("make a process group", unix.SYS_SETPGID, 0, 0)
	} else {
		c.add("make a session", unix.SYS_SETSID)
	}
	for to, from := range s.files {
		if to := uintptr(to); from == to {
			c.add("keep a standard stream", unix.SYS_FCNTL, to, unix.F_SETFD, 0)
		} else {
			c.add("set a standard stream", unix.SYS_DUP3, from, to, 0)
		}
	}
	if s.terminal != nil {
		// The terminal is that of the new session, whose first process is the command:
		// it gets what is typed, and SIGHUP when the user is gone.
		c.add("take the terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	}
}

// limit gives the process its limits, while it may still raise them. That of open files is
// the one with which berth-init was started, and which the Go runtime raised, unless the
// plan has another.
func (c *calls) limit(limits []plan.Rlimit) error {
	if limit := nofile.Inherited; limit.Hard > 0 {
		c.add("set the limit of open files", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, pin(c, &limit), 0)
	}
	for _, l := range limits {
		number, known := plan.RlimitNumber(l.Name)
		if !known {
			return fmt.Errorf("set the limit %q: this berth-init does not know it", l.Name)
		}
		c.add("set the limit "+l.Name, unix.SYS_PRLIMIT64, 0, uintptr(number), pin(c, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}), 0)
	}
	return nil
}

// exec comes last: it does not return.
func (c *calls) exec(file string, command plan.Command) error {
	path, err := unix.BytePtrFromString(file)
	if err != nil {
		return err
	}
	argv, err := syscall.SlicePtrFromStrings(command.Args)
	if err != nil {
		return err
	}
	envv, err := syscall.SlicePtrFromStrings(command.Env)
	if err != nil {
		return err
	}
	c.add("execute", unix.SYS_EXECVE, pin(c, path), c.pinStrings(argv), c.pinStrings(envv))
	return nil
}

func (c *calls) pinStrings(all []*byte) uintptr {
	for _, one := range all {
		if one != nil {
			c.pins.Pin(one)
		}
	}
	return pin(c, &all[0])
}

// failure is where the new process leaves what it could not do, in memory that it shares
// with this one.
type failure struct {
	failed bool
	call   int
	errno  syscall.Errno
}

// fork makes the process and waits until the command was executed. failed is the call that
// was not possible; negative: there is no process.
func (c *calls) fork() (pid, pidFD, failed int, err error) {
	page, err := unix.Mmap(-1, 0, int(unsafe.Sizeof(failure{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, 0, -1, err
	}
	defer unix.Munmap(page)
	why := (*failure)(unsafe.Pointer(&page[0]))
	var fd int32
	syscall.ForkLock.Lock()
	child, errno := forkAndCall(c.list, &fd, why)
	syscall.ForkLock.Unlock()
	switch {
	case errno != 0:
		return 0, 0, -1, errno
	case why.failed:
		unix.Close(int(fd))
		for {
			if _, err := unix.Wait4(int(child), nil, 0, nil); err != unix.EINTR {
				return 0, 0, why.call, why.errno
			}
		}
	}
	return int(child), int(fd), -1, nil
}

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// forkAndCall makes the calls in a new process. The kernel keeps this thread waiting until
// that executes the command or ends, as with vfork(2); but it has its own copy of the
// memory, so it cannot harm this one. It does what syscall.ForkExec does, and
// in the new process nothing that package runtime would have to know of.
//
//go:noinline
//go:norace
//go:nosplit
func forkAndCall(list []call, pidFD *int32, why *failure) (child uintptr, errno syscall.Errno) {
	beforeFork()
	child, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, unix.CLONE_VFORK|unix.CLONE_PIDFD|uintptr(syscall.SIGCHLD), 0, uintptr(unsafe.Pointer(pidFD)), 0, 0, 0)
	if errno != 0 || child != 0 {
		afterFork()
		return child, errno
	}
	afterForkInChild()
	for i := range list {
		c := &list[i]
		_, _, errno = syscall.RawSyscall6(c.trap, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], 0)
		if errno != 0 {
			why.call, why.errno, why.failed = i, errno, true
			break
		}
	}
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, exitFailure, 0, 0)
	}
}
