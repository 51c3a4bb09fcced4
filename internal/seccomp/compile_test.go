package seccomp

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/bpf"

	"berth/container"
	"berth/internal/capability"
)

// machine runs a filter as the kernel does.
type machine struct{ *bpf.VM }

// newMachine loads a filter in the byte order of this machine.
func newMachine(t *testing.T, filter []byte) machine {
	t.Helper()
	var program []bpf.Instruction
	for i := 0; i < len(filter); i += 8 {
		raw := bpf.RawInstruction{Op: binary.NativeEndian.Uint16(filter[i:]), Jt: filter[i+2], Jf: filter[i+3], K: binary.NativeEndian.Uint32(filter[i+4:])}
		program = append(program, raw.Disassemble())
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return machine{vm}
}

// decide returns what becomes of a system call. The machine reads words of the network: so
// each word of struct seccomp_data is given it as one.
func (m machine) decide(t *testing.T, a arch, number uint32, args [6]uint64) uint32 {
	t.Helper()
	var data []byte
	for _, word := range []uint32{number, a.audit, 0, 0} {
		data = binary.BigEndian.AppendUint32(data, word)
	}
	for _, arg := range args {
		data = binary.BigEndian.AppendUint32(data, uint32(arg))
		data = binary.BigEndian.AppendUint32(data, uint32(arg>>32))
	}
	decision, err := m.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(decision)
}

func mustArch(t *testing.T, name string) arch {
	t.Helper()
	a, ok := archOf(name)
	if !ok {
		t.Fatal(name)
	}
	return a
}

func compiled(t *testing.T, text string, target Target) (*Program, error) {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p.Compile(target)
}

var target = Target{Arch: "amd64", Kernel: "6.12.0-1-amd64", Capabilities: capability.Of("CHOWN")}

const start = `{"names": ["execve", "exit_group"], "action": "SCMP_ACT_ALLOW"},`

func TestComparisons(t *testing.T) {
	const big = 1<<32 + 5
	for op, holds := range map[string]func(arg, value, mask uint64) bool{
		"SCMP_CMP_EQ": func(a, v, _ uint64) bool { return a == v }, "SCMP_CMP_NE": func(a, v, _ uint64) bool { return a != v },
		"SCMP_CMP_LT": func(a, v, _ uint64) bool { return a < v }, "SCMP_CMP_LE": func(a, v, _ uint64) bool { return a <= v },
		"SCMP_CMP_GT": func(a, v, _ uint64) bool { return a > v }, "SCMP_CMP_GE": func(a, v, _ uint64) bool { return a >= v },
		"SCMP_CMP_MASKED_EQ": func(a, v, m uint64) bool { return a&m == v },
	} {
		values := []uint64{0, 1, 5, 6, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, big, big + 1, big + 1<<32, 1<<63 + 5, 1<<64 - 1}
		for _, value := range values {
			for _, mask := range []uint64{0, 7, 1<<32 + 7, 1<<64 - 1} {
				one, two := value, uint64(0)
				if op == "SCMP_CMP_MASKED_EQ" {
					one, two = mask, value
				} else if mask != 0 {
					continue
				}
				text := fmt.Sprintf(`{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [%s{"names": ["kill"], "action": "SCMP_ACT_ALLOW",
					"args": [{"index": 3, "value": %d, "valueTwo": %d, "op": %q}]}]}`, start, one, two, op)
				program, err := compiled(t, text, target)
				if err != nil {
					t.Fatal(err)
				}
				m := newMachine(t, program.Filter)
				for _, arg := range values {
					got := m.decide(t, mustArch(t, "amd64"), 62, [6]uint64{3: arg}) == allow
					if want := holds(arg, value, mask); got != want {
						t.Errorf("%#x %s %#x (mask %#x): %v", arg, op, value, mask, got)
					}
				}
			}
		}
	}
}

// What no profile can change.
func TestOtherNumbersAndMachines(t *testing.T) {
	for _, text := range []string{
		`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]}`,
		`{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [` + strings.TrimSuffix(start, ",") + `]}`,
	} {
		program, err := compiled(t, text, target)
		if err != nil {
			t.Fatal(err)
		}
		m := newMachine(t, program.Filter)
		for _, number := range []uint32{x32, x32 + 59, x32 + 520, 1<<32 - 1} {
			if got := m.decide(t, mustArch(t, "amd64"), number, [6]uint64{}); got != errno|enosys {
				t.Errorf("x32 call %#x: %#x", number, got)
			}
		}
		for _, other := range []string{"386", "arm64", "riscv64"} {
			if got := m.decide(t, mustArch(t, other), 1, [6]uint64{}); got != killProcess {
				t.Errorf("a program of %s: %#x", other, got)
			}
		}
	}
}

func TestNewerCallsDoNotExist(t *testing.T) {
	for text, want := range map[string][3]uint32{ // of 60, 231, which execve and exit_group are around, and 232
		`{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [` + start + `{"name": "exit", "action": "SCMP_ACT_ALLOW"}]}`: {allow, allow, errno | enosys},
		`{"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [` + strings.TrimSuffix(start, ",") + `]}`:             {killProcess, allow, errno | enosys},
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "exit", "action": "SCMP_ACT_LOG"}]}`:                {logged, allow, allow},
	} {
		program, err := compiled(t, text, target)
		if err != nil {
			t.Fatal(err)
		}
		m := newMachine(t, program.Filter)
		for i, number := range []uint32{60, 231, 232} {
			if got := m.decide(t, mustArch(t, "amd64"), number, [6]uint64{}); got != want[i] {
				t.Errorf("%s\ncall %d: %#x, want %#x", text, number, got, want[i])
			}
		}
	}
}

func TestWhatIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		text  string
		class error
		words string
	}{
		"no JSON":            {`{`, container.ErrInvalid, "JSON"},
		"a list":             {`[]`, container.ErrInvalid, "JSON"},
		"no default":         {`{}`, container.ErrInvalid, "defaultAction"},
		"an unknown action":  {`{"defaultAction": "SCMP_ACT_MAYBE"}`, container.ErrInvalid, "SCMP_ACT_MAYBE"},
		"one who decides":    {`{"defaultAction": "SCMP_ACT_NOTIFY"}`, container.ErrNotSupported, "SCMP_ACT_NOTIFY"},
		"a listener":         {`{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}`, container.ErrNotSupported, "listenerPath"},
		"an unknown flag":    {`{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}`, container.ErrNotSupported, "NEW_LISTENER"},
		"an error too great": {`{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}`, container.ErrInvalid, "4096"},
		"two lists of machines": {`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}`,
			container.ErrInvalid, "archMap"},
		"a rule for nothing":      {`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ERRNO"}]}`, container.ErrInvalid, "syscalls[0]"},
		"a rule with two names":   {`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}]}`, container.ErrInvalid, "names"},
		"a misspelt call":         {`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "mountt", "action": "SCMP_ACT_ERRNO"}]}`, container.ErrInvalid, "mountt"},
		"a seventh argument":      {`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "kill", "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}]}`, container.ErrInvalid, "index 6"},
		"an unknown comparison":   {`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "kill", "action": "SCMP_ACT_ERRNO", "args": [{"op": "SCMP_CMP_IN"}]}]}`, container.ErrInvalid, "SCMP_CMP_IN"},
		"a kernel of letters":     {`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "kill", "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "six"}}]}`, container.ErrInvalid, "six"},
		"nothing may be executed": {`{"defaultAction": "SCMP_ACT_ERRNO"}`, container.ErrInvalid, "execve"},
		"nothing may end":         {`{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"name": "execve", "action": "SCMP_ACT_ALLOW"}]}`, container.ErrInvalid, "exit_group"},
		"it depends what may be executed": {`{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["execve", "exit_group"], "action": "SCMP_ACT_ALLOW", "args": [{"op": "SCMP_CMP_NE"}]}]}`,
			container.ErrInvalid, "execve"},
		"execution is an error": {`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "execve", "action": "SCMP_ACT_TRAP"}]}`, container.ErrInvalid, "execve"},
	} {
		p, err := Parse([]byte(c.text))
		if err == nil {
			_, err = p.Compile(target)
		}
		if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want the class %v and %q", name, err, c.class, c.words)
		}
	}
	if _, err := Default().Compile(Target{Arch: "s390x"}); !errors.Is(err, container.ErrNotSupported) {
		t.Errorf("an unknown machine: %v", err)
	}
}

func TestConditions(t *testing.T) {
	admin := Target{Arch: "amd64", Kernel: "4.8", Capabilities: capability.Of("SYS_ADMIN")}
	old := Target{Arch: "amd64", Kernel: "3.10.0-1160.el7", Capabilities: target.Capabilities}
	for _, c := range []struct {
		target Target
		call   string
		args   [6]uint64
		want   uint32
	}{
		{target, "mount", [6]uint64{}, errno | eperm}, {admin, "mount", [6]uint64{}, allow},
		{target, "ptrace", [6]uint64{}, allow}, {old, "ptrace", [6]uint64{}, errno | eperm},
		{target, "clone", [6]uint64{0x11}, allow}, {target, "clone", [6]uint64{0x10000011}, errno | eperm}, {admin, "clone", [6]uint64{0x10000011}, allow},
		{target, "clone3", [6]uint64{}, errno | enosys}, {admin, "clone3", [6]uint64{}, allow},
		{target, "socket", [6]uint64{2}, allow}, {target, "socket", [6]uint64{38}, errno | eperm}, {target, "socket", [6]uint64{40}, errno | eperm},
		{target, "socket", [6]uint64{1<<32 + 2}, errno | eperm},
		{target, "personality", [6]uint64{0xffffffff}, allow}, {target, "personality", [6]uint64{0x40000}, errno | eperm},
		{target, "keyctl", [6]uint64{}, errno | eperm}, {target, "kexec_load", [6]uint64{}, errno | eperm}, {target, "bpf", [6]uint64{}, errno | eperm},
		{target, "unshare", [6]uint64{}, errno | eperm}, {target, "io_uring_setup", [6]uint64{}, errno | eperm}, {target, "userfaultfd", [6]uint64{}, errno | eperm},
		{target, "read", [6]uint64{}, allow}, {target, "arch_prctl", [6]uint64{}, allow},
	} {
		program, err := Default().Compile(c.target)
		if err != nil {
			t.Fatal(err)
		}
		if got := newMachine(t, program.Filter).decide(t, mustArch(t, "amd64"), mustArch(t, "amd64").numbers()[c.call], c.args); got != c.want {
			t.Errorf("%s%v on %+v: %#x, want %#x", c.call, c.args, c.target, got, c.want)
		}
	}
}

// Every name of the table is a system call somewhere: a misspelt one would be forbidden.
func TestTheDefaultNamesRealCalls(t *testing.T) {
	for _, r := range Default().Syscalls {
		for _, name := range r.Names {
			if !isSyscall(name) {
				t.Errorf("there is no system call %q", name)
			}
		}
	}
}

// A profile of 300 calls takes few steps for any.
func TestTheSearchIsShort(t *testing.T) {
	program, err := Default().Compile(target)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(program.Filter) / 8; n > 800 {
		t.Errorf("%d instructions", n)
	}
	steps := func(number uint32) (n int) {
		for at := 0; ; n++ {
			i := instruction{binary.NativeEndian.Uint16(program.Filter[at*8:]), program.Filter[at*8+2], program.Filter[at*8+3], binary.NativeEndian.Uint32(program.Filter[at*8+4:])}
			at++
			switch {
			case i.code == ret:
				return n + 1
			case i.code == jumpAlways:
				at += int(i.k)
			case i.code == jumpAtLeast && number >= i.k, i.code == jumpEqual && i.k == mustArch(t, "amd64").audit:
				at += int(i.jt)
			case i.code == jumpAtLeast, i.code == jumpEqual:
				at += int(i.jf)
			}
		}
	}
	for _, name := range []string{"read", "futex", "openat2", "mount", "keyctl"} {
		if n := steps(mustArch(t, "amd64").numbers()[name]); n > 20 {
			t.Errorf("%s takes %d instructions", name, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	text, err := json.Marshal(Default())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err != nil {
			return
		}
		program, err := p.Compile(target)
		if err == nil {
			m := newMachine(t, program.Filter)
			for _, number := range slices.Sorted(maps.Values(mustArch(t, "amd64").numbers())) {
				m.decide(t, mustArch(t, "amd64"), number, [6]uint64{})
			}
		}
	})
}
