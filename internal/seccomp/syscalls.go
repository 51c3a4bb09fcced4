package seccomp

import (
	_ "embed"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

//go:generate ./generate.sh
//go:embed syscalls.txt
var syscallsText string

// arch is an architecture for whose programs a kernel may run a filter.
type arch struct {
	goarch string // of a column of syscalls.txt
	docker string // what Docker's profiles call it
	audit  uint32 // AUDIT_ARCH_*, in struct seccomp_data
	wide   bool   // it has registers of 64 bits
	// compat are those whose programs run on its kernels, too.
	compat []string
}

var arches = [...]arch{
	{"amd64", "SCMP_ARCH_X86_64", 0xc000003e, true, []string{"386"}},
	{"386", "SCMP_ARCH_X86", 0x40000003, false, nil},
	{"arm64", "SCMP_ARCH_AARCH64", 0xc00000b7, true, []string{"arm"}},
	{"arm", "SCMP_ARCH_ARM", 0x40000028, false, nil},
	{"riscv64", "SCMP_ARCH_RISCV64", 0xc00000f3, true, nil},
	{"loong64", "SCMP_ARCH_LOONGARCH64", 0xc0000102, true, nil},
}

// archOf finds an architecture by Go's name or Docker's.
func archOf(name string) (arch, bool) {
	for _, a := range arches {
		if a.goarch == name || a.docker == name {
			return a, true
		}
	}
	return arch{}, false
}

// numbers returns the system calls of an architecture by their names. Each column of the table
// is read when it is needed: all six would take longer than a container to start.
func (a arch) numbers() map[string]uint32 {
	for i, known := range arches {
		if known.goarch == a.goarch {
			return columns[i]()
		}
	}
	return nil
}

var columns = func() (all [len(arches)]func() map[string]uint32) {
	for i := range arches {
		all[i] = sync.OnceValue(func() map[string]uint32 { return readColumn(i) })
	}
	return all
}()

// readColumn reads the numbers of arches[i]. Calls that it has not are "-" there.
func readColumn(i int) map[string]uint32 {
	numbers := make(map[string]uint32, strings.Count(syscallsText, "\n"))
	for line := range strings.Lines(syscallsText) {
		name, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		for range i {
			_, rest, _ = strings.Cut(rest, " ")
		}
		text, _, _ := strings.Cut(rest, " ")
		if name == "#" || text == "-" {
			continue
		}
		if n, err := strconv.ParseUint(text, 10, 32); err == nil {
			numbers[name] = uint32(n)
		}
	}
	return numbers
}

// isSyscall reports whether any architecture has a system call of a name.
func isSyscall(name string) bool {
	for line := range strings.Lines(syscallsText) {
		if known, _, _ := strings.Cut(line, " "); known == name {
			return name != "#"
		}
	}
	return false
}

// Supported reports whether filters can be made for this machine.
func Supported() bool {
	_, ok := archOf(runtime.GOARCH)
	return ok
}
