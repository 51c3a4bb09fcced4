package seccomp

import (
	"embed"
	"strings"

	"berth/internal/capability"
)

// The programs of Default for most containers, made before berth is built: to compile them
// took each berth run half a millisecond.
//
//go:generate go test -count=1 -run TestTheDefaultIsCompiled . -update
//go:embed default_amd64.bpf default_arm64.bpf
var precompiled embed.FS

// commonCapabilities is what most containers have of the capabilities that Default asks for,
// which are decidingCapabilities.
const (
	commonCapabilities   = "SYS_CHROOT"
	decidingCapabilities = "DAC_READ_SEARCH SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_TIME " +
		"SYS_TTY_CONFIG SYS_NICE SYSLOG BPF PERFMON"
	decidingKernel = "4.8"
)

// CompileDefault is Compile for Default.
func CompileDefault(t Target) (*Program, error) {
	if isCommon(t) {
		if filter, err := precompiled.ReadFile(compiledName(t.Arch)); err == nil {
			return &Program{Filter: filter}, nil
		}
	}
	return Default().Compile(t)
}

func compiledName(arch string) string { return "default_" + arch + ".bpf" }

// isCommon reports whether Default decides for a target as for most.
func isCommon(t Target) bool {
	release, err := parseKernel(t.Kernel)
	deciding, _ := parseKernel(decidingKernel)
	return err == nil && release.atLeast(deciding) && t.Capabilities&capability.Of(strings.Fields(decidingCapabilities)...) == capability.Of(commonCapabilities)
}
