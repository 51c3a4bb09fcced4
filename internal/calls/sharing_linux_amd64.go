package calls

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const sharesMemory = true

// forkSharing makes the calls in a new process that uses the memory of this one, and the stack
// of this thread, which goes on using it: with a gate at once, else when the kernel lets it go
// on. So no Go code runs in the process, only the assembly file beside this one, which has all
// that it needs in registers.
func (l *List) forkSharing(args *cloneArgs, pidFD *int32, out *outcome) (child uintptr, errno syscall.Errno) {
	// It must not run this one's handlers of signals.
	args.flags |= unix.CLONE_VM | unix.CLONE_CLEAR_SIGHAND
	args.pidFD = uint64(uintptr(unsafe.Pointer(pidFD)))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, _, errno = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, 0, 0, uintptr(unsafe.Pointer(&out.mask)), unsafe.Sizeof(out.mask), 0, 0); errno != 0 {
		return 0, errno
	}
	child, errno = forkAndCallSharing(l.calls, args, out)
	if errno == syscall.ENOSYS || errno == syscall.EINVAL {
		// A filter that does not know clone3(2), as berth itself may be in a container; or
		// before Linux 5.5.
		args.flags &^= unix.CLONE_VM | unix.CLONE_CLEAR_SIGHAND
		return l.forkCopied(args, pidFD, out)
	}
	return child, errno
}

//go:noinline
//go:norace
//go:nosplit
func forkAndCallSharing(list []call, args *cloneArgs, out *outcome) (child uintptr, errno syscall.Errno) {
	beforeFork()
	child, errno = cloneAndCall(args, unsafe.Sizeof(*args), &list[0], uintptr(len(list)), &out.mask, out)
	afterFork()
	return child, errno
}

// cloneAndCall calls clone3(2). The new process sets its mask of signals, makes the calls, and
// ends if one is not possible.
//
//go:noescape
func cloneAndCall(args *cloneArgs, size uintptr, list *call, count uintptr, mask *uint64, out *outcome) (child uintptr, errno syscall.Errno)
