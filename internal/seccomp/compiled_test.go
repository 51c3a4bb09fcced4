package seccomp

import (
	"bytes"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"berth/internal/capability"
)

var update = flag.Bool("update", false, "compile the default profile anew: go generate ./internal/seccomp")

func TestTheDefaultIsCompiled(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		made, err := Default().Compile(Target{Arch: arch, Kernel: decidingKernel, Capabilities: capability.Of(commonCapabilities)})
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(compiledName(arch), made.Filter, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if there, err := os.ReadFile(compiledName(arch)); err != nil || !bytes.Equal(there, made.Filter) || made.Flags != 0 {
			t.Errorf("%s is not what the profile says (%v): go generate ./internal/seccomp", compiledName(arch), err)
		}
	}
}

// What was compiled before is for most containers, and for those alone for which it is the same.
func TestCompileDefault(t *testing.T) {
	usual := capability.Of("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
		"NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE")
	if !isCommon(Target{Arch: "amd64", Kernel: "6.12.0-1-amd64", Capabilities: usual}) {
		t.Error("the usual capabilities are not common")
	}
	var deciding []string
	for _, r := range Default().Syscalls {
		for _, name := range slices.Concat(r.Includes.Caps, r.Excludes.Caps) {
			deciding = append(deciding, strings.TrimPrefix(name, "CAP_"))
		}
		for _, kernel := range []string{r.Includes.MinKernel, r.Excludes.MinKernel} {
			if kernel != "" && kernel != decidingKernel {
				t.Errorf("the profile asks for kernel %s", kernel)
			}
		}
	}
	slices.Sort(deciding)
	deciding = slices.Compact(deciding)
	if listed := slices.Sorted(strings.FieldsSeq(decidingCapabilities)); !slices.Equal(deciding, listed) {
		t.Errorf("the profile asks for %q, listed are %q", deciding, listed)
	}
	rapid.Check(t, func(t *rapid.T) {
		target := Target{
			Arch:         rapid.SampledFrom([]string{"amd64", "arm64", "riscv64"}).Draw(t, "arch"),
			Kernel:       rapid.SampledFrom([]string{"4.7.9", "4.8", "6.12.0-1-amd64"}).Draw(t, "kernel"),
			Capabilities: usual,
		}
		for _, name := range rapid.SliceOfN(rapid.SampledFrom(append(deciding, "CHOWN", "SETFCAP")), 0, 2).Draw(t, "others") {
			target.Capabilities ^= capability.Of(name)
		}
		got, err := CompileDefault(target)
		want, wantErr := Default().Compile(target)
		if err != nil || wantErr != nil || !bytes.Equal(got.Filter, want.Filter) || got.Flags != want.Flags {
			t.Errorf("%+v: it is another program; %v, %v", target, err, wantErr)
		}
	})
}
