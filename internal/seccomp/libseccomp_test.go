package seccomp

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"berth/internal/capability"
)

// byLibseccomp has libseccomp make a filter of rules, one of a line of JSON, and writes it to
// a file. What the library of this machine does not know it leaves out, and prints.
const byLibseccomp = `
import json, sys
import seccomp as s
actions = {"ALLOW": s.ALLOW, "LOG": s.LOG, "TRAP": s.TRAP, "KILL": s.KILL, "KILL_PROCESS": s.KILL_PROCESS}
def action(text):
    name, _, number = text.partition(":")
    return s.ERRNO(int(number)) if name == "ERRNO" else s.TRACE(int(number)) if name == "TRACE" else actions[name]
arches = {"386": s.Arch.X86, "arm": s.Arch.ARM}
ops = {"EQ": s.EQ, "NE": s.NE, "LT": s.LT, "LE": s.LE, "GT": s.GT, "GE": s.GE, "MASKED_EQ": s.MASKED_EQ}
head = json.loads(sys.stdin.readline())
f = s.SyscallFilter(action(head["default"]))
for a in head["arches"]:
    f.add_arch(arches[a])
for line in sys.stdin:
    r = json.loads(line)
    args = [s.Arg(a["index"], ops[a["op"]], *a["values"]) for a in r["args"]]
    try:
        f.add_rule(action(r["action"]), r["name"], *args)
    except (RuntimeError, ValueError, OSError) as e:
        print(r["name"])
f.export_bpf(open(sys.argv[1], "wb"))
`

// needPython skips the test where there is no libseccomp.
func needPython(t *testing.T) string {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the rules are compared on amd64")
	}
	const python = "/usr/bin/python3" // that of Debian, which has the package's module
	if err := exec.Command(python, "-c", "import seccomp").Run(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("Debian's package python3-seccomp is missing: %v", err)
		}
		t.Skip("Debian's package python3-seccomp is missing: run script/packages test")
	}
	return python
}

func actionText(decision uint32) string {
	switch decision & 0xffff0000 {
	case errno:
		return fmt.Sprint("ERRNO:", decision&0xffff)
	case trace:
		return fmt.Sprint("TRACE:", decision&0xffff)
	}
	return map[uint32]string{allow: "ALLOW", logged: "LOG", trap: "TRAP", killThread: "KILL", killProcess: "KILL_PROCESS"}[decision]
}

// libseccomp returns its filter for a profile, and the calls that it does not know.
func libseccomp(t *testing.T, p *Profile, to Target) (machine, []string) {
	t.Helper()
	python := needPython(t)
	file := filepath.Join(t.TempDir(), "filter")
	release, err := parseKernel(to.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-c", byLibseccomp, file)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer in.Close()
		e := json.NewEncoder(in)
		arches := []string{}
		for _, a := range p.arches(mustArch(t, to.Arch))[1:] {
			arches = append(arches, a.goarch)
		}
		_ = e.Encode(map[string]any{"default": actionText(p.defaultDecision), "arches": arches})
		for i := range p.Syscalls {
			rule := &p.Syscalls[i]
			if !rule.appliesTo(to, release) || rule.decision == p.defaultDecision {
				continue
			}
			for _, name := range rule.Names {
				for _, alternative := range rule.split() {
					args := []map[string]any{}
					for _, a := range alternative.args {
						values := []uint64{a.Value}
						if a.Op == "SCMP_CMP_MASKED_EQ" {
							values = []uint64{a.Value, a.ValueTwo}
						}
						args = append(args, map[string]any{"index": a.Index, "op": a.Op[len("SCMP_CMP_"):], "values": values})
					}
					_ = e.Encode(map[string]any{"action": actionText(rule.decision), "name": name, "args": args})
				}
			}
		}
	}()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, err.(*exec.ExitError).Stderr)
	}
	filter, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return newMachine(t, filter), slices.Sorted(strings.FieldsSeq(string(out)))
}

// compare compares the decisions of both over all system calls, with arguments around those
// that rules name.
func compare(t *testing.T, p *Profile, to Target) (decisions int) {
	t.Helper()
	theirs, unknown := libseccomp(t, p, to)
	program, err := p.Compile(to)
	if err != nil {
		t.Fatal(err)
	}
	ours := newMachine(t, program.Filter)
	for _, a := range p.arches(mustArch(t, to.Arch)) {
		r, err := p.rulesFor(a, to)
		if err != nil {
			t.Fatal(err)
		}
		names := map[uint32]string{}
		for name, number := range a.numbers() {
			names[number] = name
		}
		for number := range r.last + 1 {
			if slices.Contains(unknown, names[number]) {
				continue
			}
			for _, args := range probes(r.calls[number], a) {
				decisions++
				if mine, its := ours.decide(t, a, number, args), theirs.decide(t, a, number, args); mine != its {
					t.Errorf("%s call %d (%s) %x: %#x, libseccomp decides %#x", a.goarch, number, names[number], args, mine, its)
				}
			}
		}
	}
	return decisions
}

// probes are arguments for which a call may be decided differently.
func probes(o outcome, a arch) (all [][6]uint64) {
	all = [][6]uint64{{}, {1<<64 - 1, 1<<64 - 1, 1<<64 - 1, 1<<64 - 1, 1<<64 - 1, 1<<64 - 1}}
	for _, alternative := range o.alternatives {
		for _, arg := range alternative.args {
			for _, value := range []uint64{arg.Value, arg.Value + 1, arg.Value - 1, arg.ValueTwo, arg.Value | 1<<33, arg.Value | arg.ValueTwo, ^arg.Value} {
				one := [6]uint64{}
				for _, other := range alternative.args {
					one[other.Index] = other.Value
				}
				one[arg.Index] = value
				all = append(all, one)
			}
		}
	}
	if !a.wide { // its registers have 32 bits
		for i := range all {
			for j := range all[i] {
				all[i][j] &= 1<<32 - 1
			}
		}
	}
	return all
}

func TestTheDefaultDecidesAsLibseccomp(t *testing.T) {
	for _, caps := range []capability.Set{0, capability.Of("SYS_ADMIN"), capability.All} {
		n := compare(t, Default(), Target{Arch: "amd64", Kernel: "6.12", Capabilities: caps})
		t.Logf("%s: %d decisions", caps, n)
	}
}

func TestAProfileOfOthersDecidesAsLibseccomp(t *testing.T) {
	text, err := os.ReadFile("/usr/share/containers/seccomp.json")
	if err != nil {
		t.Skip("Debian's package golang-github-containers-common is missing: run script/packages test")
	}
	p, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	n := compare(t, p, Target{Arch: "amd64", Kernel: "6.12", Capabilities: capability.Of("CHOWN", "SYS_CHROOT")})
	t.Logf("%d decisions", n)
}

// Profiles of all actions and comparisons, one condition for a call.
func TestRandomProfilesDecideAsLibseccomp(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	calls := slices.Sorted(maps.Keys(mustArch(t, "amd64").numbers()))
	names := slices.DeleteFunc(calls, func(name string) bool {
		return slices.Contains(needed, name) || mustArch(t, "amd64").numbers()[name] > 440
	})
	ops := slices.Sorted(maps.Keys(comparisons))
	for range 8 {
		p := &Profile{DefaultAction: []string{"SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL"}[random.IntN(3)]}
		p.allow(Rule{}, "execve exit_group")
		random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for _, name := range names[:150] {
			r := Rule{Names: []string{name}, Action: slices.Sorted(maps.Keys(actions))[random.IntN(len(actions))]}
			for index := range uint(random.IntN(4)) {
				r.Args = append(r.Args, Argument{index, random.Uint64() >> random.IntN(64), 0, ops[random.IntN(len(ops))]})
				if last := &r.Args[len(r.Args)-1]; last.Op == "SCMP_CMP_MASKED_EQ" {
					last.ValueTwo = random.Uint64() & last.Value
				}
			}
			p.Syscalls = append(p.Syscalls, r)
		}
		if err := p.check(); err != nil {
			t.Fatal(err)
		}
		compare(t, p, target)
	}
}
