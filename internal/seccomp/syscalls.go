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

var arches = []arch{
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

// numbers has the system calls of each architecture by their names, and under "" every name
// that there is.
var numbers = sync.OnceValue(func() map[string]map[string]uint32 {
	all := map[string]map[string]uint32{"": {}}
	for line := range strings.Lines(syscallsText) {
		fields := strings.Fields(line)
		if fields[0] == "#" {
			continue
		}
		all[""][fields[0]] = 0
		for i, a := range arches {
			if all[a.goarch] == nil {
				all[a.goarch] = map[string]uint32{}
			}
			if n, err := strconv.ParseUint(fields[i+1], 10, 32); err == nil { // else it has none: "-"
				all[a.goarch][fields[0]] = uint32(n)
			}
		}
	}
	return all
})

// Supported reports whether filters can be made for this machine.
func Supported() bool {
	_, ok := archOf(runtime.GOARCH)
	return ok
}
