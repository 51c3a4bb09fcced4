// Package nofile knows how many files a process might open when it was executed. The
// standard library raises that bound for itself, before anything else of a program runs,
// and takes it back only for programs that it executes itself.
package nofile

import (
	"runtime"
	"unsafe"
)

// Limit is a bound of setrlimit(2).
type Limit struct {
	Soft, Hard uint64
}

// Inherited is the RLIMIT_NOFILE with which this process was executed; zero: it could not be
// found out.
//
// It is read before package syscall raises it: packages that import nothing uninitialized
// come in the order of their paths (the specification of Go, "Program initialization"), and
// this one imports neither syscall nor anything that does.
var Inherited = read()

//go:linkname rawSyscall6 syscall.RawSyscall6
func rawSyscall6(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2, errno uintptr)

const rlimitNofile = 7

// prlimit64 is the number of the system call.
func prlimit64() uintptr {
	switch runtime.GOARCH {
	case "amd64":
		return 302
	case "arm64", "riscv64", "loong64":
		return 261
	}
	return ^uintptr(0) // ENOSYS
}

func read() (limit Limit) {
	_, _, errno := rawSyscall6(prlimit64(), 0, rlimitNofile, 0, uintptr(unsafe.Pointer(&limit)), 0, 0)
	if errno != 0 {
		return Limit{}
	}
	return limit
}
