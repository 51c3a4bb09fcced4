package calls

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is a system call of the new process.
type call struct {
	what  string // for people, when it fails
	trap  uintptr
	args  [5]uintptr
	forks bool // what follows is done by the process that it makes
}

// List is what a new process does, in order. The last call executes a program. The zero
// value is empty; a Close is owed.
type List struct {
	calls []call
	pins  runtime.Pinner // keep what arguments point to
}

// Close frees what the arguments point to.
func (l *List) Close() { l.pins.Unpin() }

// Add adds a system call.
func (l *List) Add(what string, trap uintptr, args ...uintptr) {
	one := call{what: what, trap: trap}
	copy(one.args[:], args)
	l.calls = append(l.calls, one)
}

// Fork has another process make the calls from here on, a child of whoever made the first
// one, which ends when that has executed the program. So it can be in a PID namespace that
// the first one has entered or makes by flags; with flags, those of clone(2), it makes others.
func (l *List) Fork(flags uintptr) {
	l.Add("fork", unix.SYS_CLONE, unix.CLONE_PARENT|unix.CLONE_VFORK|flags)
	l.calls[len(l.calls)-1].forks = true
}

// Pin returns the address of a value that stays where it is until the list is closed.
func Pin[T any](l *List, value *T) uintptr {
	l.pins.Pin(value)
	return uintptr(unsafe.Pointer(value))
}

// Execute adds the last call: it does not return. With a directory other than
// unix.AT_FDCWD, an empty file is that descriptor itself.
func (l *List) Execute(dir int, file string, args, env []string) error {
	path, err := unix.BytePtrFromString(file)
	if err != nil {
		return err
	}
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return err
	}
	envv, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return err
	}
	if dir == unix.AT_FDCWD {
		// By the call that every filter knows.
		l.Add("execute", unix.SYS_EXECVE, Pin(l, path), l.pinStrings(argv), l.pinStrings(envv))
		return nil
	}
	l.Add("execute", unix.SYS_EXECVEAT, uintptr(dir), Pin(l, path), l.pinStrings(argv), l.pinStrings(envv), unix.AT_EMPTY_PATH)
	return nil
}

func (l *List) pinStrings(all []*byte) uintptr {
	for _, one := range all {
		if one != nil {
			l.pins.Pin(one)
		}
	}
	return Pin(l, &all[0])
}

// Failure says which call was not possible.
type Failure struct {
	What string
	None bool // no process was made
	Last bool // the program was not executed
	Err  error
}

func (f *Failure) Error() string { return fmt.Sprintf("%s: %v", f.What, f.Err) }
func (f *Failure) Unwrap() error { return f.Err }

// outcome is where the new processes leave what became of them, in memory that they share
// with this one.
type outcome struct {
	mask   uint64 // of signals, that the process is to have
	failed bool
	call   int
	errno  syscall.Errno
	child  int32 // the process after a fork
	passed byte  // what it has read from its gate
}

// Birth is how the process comes to be.
type Birth struct {
	// Cgroup is the directory of the cgroup that the process is in from birth; nil: in that
	// of this process.
	Cgroup *os.File
	// Flags are those of clone(2) for new namespaces.
	Flags uintptr
	// Trusted: the process uses the memory of this one until the program is executed, where
	// that is possible, and this one need not be copied for it. Whoever may trace the process
	// meanwhile can do anything with this one. So it must not become another user, lose
	// capabilities or enter a user namespace, unless this one is not dumpable (prctl(2),
	// PR_SET_DUMPABLE); then nobody traces it who could not trace this one. It has no Fork.
	Trusted bool
	// Meanwhile is called with the process's number before it makes the first call, and does for
	// it what only others can; nil: there is nothing. After an error the process is killed.
	// When this process ends meanwhile, the other one goes on: so the calls must not be possible,
	// or do no harm, without that. It has no Fork.
	Meanwhile func(pid int) error
}

// Run makes the process, and returns when the program was executed. The caller owes a wait
// for it, and the closing of its pidfd. An error is a *Failure, or that of Meanwhile, and no
// process is left.
func (l *List) Run(b Birth) (pid, pidFD int, err error) {
	args := &cloneArgs{flags: unix.CLONE_VFORK | unix.CLONE_PIDFD | uint64(b.Flags), exitSignal: uint64(syscall.SIGCHLD)}
	if b.Cgroup != nil {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(b.Cgroup.Fd())
	}
	page, err := unix.Mmap(-1, 0, int(unsafe.Sizeof(outcome{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, 0, &Failure{What: "fork", None: true, Err: err}
	}
	defer unix.Munmap(page)
	out := (*outcome)(unsafe.Pointer(&page[0]))
	var way fork = l.forkCopied
	if b.Trusted && sharesMemory {
		way = l.forkSharing
	}
	if b.Meanwhile == nil {
		pid, pidFD, err = way.locked(args, out)
	} else {
		pid, pidFD, err = l.gated(b.Meanwhile, way, args, out)
	}
	runtime.KeepAlive(l) // what the process reads
	if err != nil {
		return 0, 0, err
	}
	if out.failed || out.child != 0 {
		unix.Close(pidFD)
		await(pid)
		pid = int(out.child)
	}
	if out.failed {
		if pid != 0 {
			await(pid)
		}
		return 0, 0, &Failure{What: l.calls[out.call].what, Last: out.call == len(l.calls)-1, Err: out.errno}
	}
	if out.child != 0 {
		if pidFD, err = unix.PidfdOpen(pid, 0); err != nil {
			_ = unix.Kill(pid, unix.SIGKILL)
			await(pid)
			return 0, 0, &Failure{What: "open the process", Err: err}
		}
	}
	return pid, pidFD, nil
}

// fork is a way to make the process.
type fork func(*cloneArgs, *int32, *outcome) (child uintptr, errno syscall.Errno)

// make makes the process. The caller has the lock of forks.
func (f fork) make(args *cloneArgs, out *outcome) (pid, pidFD int, err error) {
	var fd int32
	child, errno := f(args, &fd, out)
	if errno != 0 {
		return 0, 0, &Failure{What: "fork", None: true, Err: errno}
	}
	return int(child), int(fd), nil
}

func (f fork) locked(args *cloneArgs, out *outcome) (pid, pidFD int, err error) {
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	return f.make(args, out)
}

// gated makes a process that waits until something is done for it.
func (l *List) gated(do func(pid int) error, way fork, args *cloneArgs, out *outcome) (pid, pidFD int, err error) {
	syscall.ForkLock.Lock()
	g, err := l.openGate(args, out)
	if err != nil {
		syscall.ForkLock.Unlock()
		return 0, 0, &Failure{What: "fork", None: true, Err: err}
	}
	defer unix.Close(g.ours)
	pid, pidFD, err = way.make(args, out)
	unix.Close(g.theirs) // before anybody else is made, who would have it, too
	syscall.ForkLock.Unlock()
	if err != nil {
		return 0, 0, err
	}
	if err = do(pid); err == nil {
		err = g.pass()
	}
	if err != nil {
		_ = unix.PidfdSendSignal(pidFD, unix.SIGKILL, nil, 0)
		unix.Close(pidFD)
		await(pid)
		return 0, 0, err
	}
	return pid, pidFD, nil
}

// gate is a pair of sockets. By a byte the new process, which has one of them, learns that it is
// to go on; by its end this one learns that the program was executed.
type gate struct{ ours, theirs int }

// openGate adds the calls that make the process wait. Its own copy of this one's socket would
// keep it from learning that there is nobody any more.
func (l *List) openGate(args *cloneArgs, out *outcome) (gate, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return gate{}, os.NewSyscallError("socketpair", err)
	}
	args.flags &^= unix.CLONE_VFORK
	wait := []call{
		{what: "close a socket", trap: unix.SYS_CLOSE, args: [5]uintptr{uintptr(fds[0])}},
		{what: "wait", trap: unix.SYS_READ, args: [5]uintptr{uintptr(fds[1]), uintptr(unsafe.Pointer(&out.passed)), 1}},
	}
	l.calls = slices.Concat(wait, l.calls)
	return gate{fds[0], fds[1]}, nil
}

// pass lets the process go on, and returns when it has executed the program or ended.
func (g gate) pass() error {
	var one [1]byte
	if err := unix.Sendmsg(g.ours, one[:], nil, nil, unix.MSG_NOSIGNAL); err != nil && err != unix.EPIPE { // it has ended
		return os.NewSyscallError("sendmsg", err)
	}
	for {
		if _, err := unix.Read(g.ours, one[:]); err != unix.EINTR {
			return nil // ECONNRESET if it has not read the byte
		}
	}
}

// await reaps a process that ends.
func await(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// cloneArgs are those of clone3(2).
type cloneArgs struct {
	flags, pidFD, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// exitFailure is the exit code of a process that could not execute its program. Nobody
// looks at it.
const exitFailure = 125

// forkCopied makes the calls in a new process. The kernel keeps this thread waiting until
// that executes the program or ends, as with vfork(2); but it has its own copy of the
// memory, so it cannot harm this one.
func (l *List) forkCopied(args *cloneArgs, pidFD *int32, out *outcome) (child uintptr, errno syscall.Errno) {
	return forkAndCall(l.calls, args, pidFD, out)
}

// forkAndCall does what syscall.ForkExec does, and in the new process nothing that package
// runtime would have to know of.
//
//go:noinline
//go:norace
//go:nosplit
func forkAndCall(list []call, args *cloneArgs, pidFD *int32, out *outcome) (child uintptr, errno syscall.Errno) {
	beforeFork()
	if args.flags&unix.CLONE_INTO_CGROUP != 0 {
		args.pidFD = uint64(uintptr(unsafe.Pointer(pidFD)))
		child, _, errno = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	} else {
		child, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(args.flags)|uintptr(args.exitSignal), 0, uintptr(unsafe.Pointer(pidFD)), 0, 0, 0)
	}
	if errno != 0 || child != 0 {
		afterFork()
		return child, errno
	}
	afterForkInChild()
	for i := range list {
		c := &list[i]
		var result uintptr
		result, _, errno = syscall.RawSyscall6(c.trap, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], 0)
		if errno != 0 {
			out.call, out.errno, out.failed = i, errno, true
			break
		}
		if c.forks && result != 0 {
			out.child = int32(result)
			break
		}
	}
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, exitFailure, 0, 0)
	}
}
