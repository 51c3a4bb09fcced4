//go:build linux && amd64

package main

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A container mostly waits, and a Go program needs half a megabyte for that. So this
// process becomes another program when its command has run for a while: the waiter, a
// hundred instructions in the assembly file beside this one, with two pages of memory. It
// is executed from a memfd, keeps pid, children and the descriptors that it needs, and does
// what child.wait does.
//
// No signal is lost on the way. Handlers write signals to a pipe, from which the waiter
// reads first. Before the execve the calling thread blocks all signals, and all other
// threads are ended, each by a handler of its own: so none of them is inside another
// handler. What comes after that stays pending, across the execve, until the waiter asks.

// entry has the addresses of the assembly file.
var entry struct {
	onSignal, onFault, endThread, restore uintptr
	waiter                                unsafe.Pointer
}

// What handlers need.
var (
	//lint:ignore U1000 the assembly file reads it
	signalPipe int32
	//lint:ignore U1000 the assembly file reads it
	runtimeHandler uintptr
)

// action is struct sigaction of the kernel.
type action struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const allSignals = ^uint64(0)

// setAction returns the handler that there was.
//
//go:nosplit
func setAction(s unix.Signal, handler uintptr) (before uintptr, err syscall.Errno) {
	const flags = 0x4 | 0x04000000 | 0x08000000 | 0x10000000 // SA_SIGINFO, SA_RESTORER, SA_ONSTACK, SA_RESTART
	old, now := action{}, action{handler, flags, entry.restore, allSignals}
	_, _, err = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&now)), uintptr(unsafe.Pointer(&old)), unsafe.Sizeof(now.mask), 0, 0)
	return old.handler, err
}

// lastSignal is the highest number of a signal.
const lastSignal = 64

// sendSignals has all signals written to the pipe.
func sendSignals(pipe int) error {
	signalPipe = int32(pipe)
	for s := unix.Signal(1); s <= lastSignal; s++ {
		var err syscall.Errno
		switch s {
		case unix.SIGKILL, unix.SIGSTOP: // nobody's to handle
		case unix.SIGURG, 32, 33: // the runtime's, for its own threads
		case unix.SIGILL, unix.SIGTRAP, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSYS:
			runtimeHandler, err = setAction(s, entry.onFault)
		default:
			_, err = setAction(s, entry.onSignal)
		}
		if err != 0 {
			return os.NewSyscallError("rt_sigaction", err)
		}
	}
	return nil
}

// waiterParameters are what the assembly file knows by their offsets.
type waiterParameters struct {
	Command int32 // its pid
	PidFD   int32
	Status  int32 // descriptor that takes the wait status
	Pipe    int32
	Name    [16]byte
}

// The main goroutine stays on the first thread of the process: an execve gives its number to
// whoever calls it, and as long as it has ended but is still there, no other one is alone.
func init() { runtime.LockOSThread() }

// becomeWaiter returns when that is not possible here. Nothing has changed then.
func becomeWaiter(c *child, s *signals, status *os.File) error {
	p := waiterParameters{Command: int32(c.pid), PidFD: int32(c.pidFD), Status: int32(status.Fd()), Pipe: int32(s.pipe)}
	copy(p.Name[:], "berth-init")
	program, err := newWaiterFile(p).open()
	if err != nil {
		return err
	}
	for _, fd := range []int32{p.PidFD, p.Status, p.Pipe} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return errors.Join(os.NewSyscallError("fcntl", err), unix.Close(program))
		}
	}
	turnInto(program, &p, [2]*byte{&p.Name[0], nil})
	return nil
}

// turnInto must not call what could want another thread, or give this one to another
// goroutine: that is, anything that is not nosplit.
//
//go:nosplit
func turnInto(program int, p *waiterParameters, args [2]*byte) {
	blocked := allSignals
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&blocked)), 0, unsafe.Sizeof(blocked), 0, 0)
	setAction(unix.SIGURG, entry.endThread) // not before this thread blocks it: the runtime uses it
	pid, _, _ := syscall.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
	for {
		// Only a process with one thread may do this; for it, nothing happens.
		if _, _, err := syscall.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_THREAD, 0, 0); err == 0 {
			break
		}
		// Some thread takes it that does not block it. The last one stays pending, and the
		// waiter does not forward it.
		syscall.RawSyscall(unix.SYS_KILL, pid, uintptr(unix.SIGURG), 0)
		syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	noEnvironment, path := args[1:], [1]byte{}
	syscall.RawSyscall6(unix.SYS_EXECVEAT, uintptr(program), uintptr(unsafe.Pointer(&path)), uintptr(unsafe.Pointer(&args)), uintptr(unsafe.Pointer(&noEnvironment[0])), unix.AT_EMPTY_PATH, 0)
	waitHere(p) // no memory for an execve, or a policy against it
}

// waitHere is the waiter as a function, which does not return.
//
//go:noescape
func waitHere(p *waiterParameters)

// waiterAddress is where the waiter's file is in memory.
const waiterAddress = 0x400000

// waiterFile is the executable of the waiter.
type waiterFile struct {
	header struct {
		ident      [16]byte
		kind       uint16 // ET_EXEC
		machine    uint16
		version    uint32
		entry      uint64
		segments   uint64 // offset
		sections   uint64
		flags      uint32
		headerSize uint16
		segment    uint16 // size
		count      uint16
		none       [3]uint16
	}
	segments [2]struct {
		kind           uint32
		flags          uint32
		offset         uint64
		address, _     uint64
		inFile, memory uint64
		align          uint64
	}
	parameters   waiterParameters
	instructions [512]byte // more than there are
}

func newWaiterFile(p waiterParameters) *waiterFile {
	const executable, readable, writable = 1, 4, 2
	f := &waiterFile{parameters: p, instructions: *(*[512]byte)(entry.waiter)}
	size := uint64(unsafe.Sizeof(*f))
	h := &f.header
	copy(h.ident[:], "\x7fELF\x02\x01\x01") // 64 bits, little-endian, version
	h.kind, h.machine, h.version = 2, waiterMachine, 1
	h.entry = waiterAddress + uint64(unsafe.Offsetof(f.instructions))
	h.headerSize, h.segments = uint16(unsafe.Sizeof(*h)), uint64(unsafe.Offsetof(f.segments))
	h.segment, h.count = uint16(unsafe.Sizeof(f.segments[0])), uint16(len(f.segments))
	load := &f.segments[0] // PT_LOAD
	load.kind, load.flags, load.address, load.inFile, load.memory, load.align = 1, readable|executable, waiterAddress, size, size, 4096
	stack := &f.segments[1] // PT_GNU_STACK
	stack.kind, stack.flags = 0x6474e551, readable|writable
	return f
}

// open returns the file, which nobody can change: the container reaches it by /proc/1/exe.
func (f *waiterFile) open() (fd int, err error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	if fd, err = unix.MemfdCreate("berth-init", flags|unix.MFD_EXEC); errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("berth-init", flags) // before Linux 6.3
	}
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	if _, err = unix.Write(fd, (*[unsafe.Sizeof(*f)]byte)(unsafe.Pointer(f))[:]); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}
