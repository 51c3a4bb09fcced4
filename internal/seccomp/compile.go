package seccomp

import (
	"encoding/binary"
	"fmt"
	"slices"

	"berth/container"
	"berth/internal/capability"
)

// Target is what a profile is compiled for.
type Target struct {
	Arch         string // as runtime.GOARCH
	Kernel       string // its release
	Capabilities capability.Set
}

// Program is a compiled profile.
type Program struct {
	// Filter has one struct sock_filter after the other.
	Filter []byte
	Flags  uint
}

// needed are the system calls that bring a program into its own, or, if that fails, to its
// end: berth-init makes them under the filter.
var needed = []string{"execve", "exit_group"}

// maxInstructions is BPF_MAXINSNS.
const maxInstructions = 4096

// Compile makes the program. ErrInvalid: the rules are too many, or would not
// let any container start. ErrNotSupported: nothing is known of the architecture.
func (p *Profile) Compile(t Target) (*Program, error) {
	native, ok := archOf(t.Arch)
	if !ok {
		return nil, fmt.Errorf("architecture %s: %w: nobody has told berth its system calls", t.Arch, container.ErrNotSupported)
	}
	program := []instruction{load(archOffset)}
	for _, a := range p.arches(native) {
		decide, err := p.rulesFor(a, t)
		if err != nil {
			return nil, err
		}
		if a.goarch == native.goarch {
			if err := decide.letStart(a); err != nil {
				return nil, err
			}
		}
		body := decide.code(a)
		program = append(program, jump(jumpEqual, a.audit, 1, 0), instruction{code: jumpAlways, k: uint32(len(body))})
		program = append(program, body...)
	}
	program = append(program, giveBack(killProcess))
	if len(program) > maxInstructions {
		return nil, fmt.Errorf("%w: it becomes a program of %d instructions, and the kernel takes %d", container.ErrInvalid, len(program), maxInstructions)
	}
	made := &Program{Filter: encode(program)}
	for _, f := range p.Flags {
		made.Flags |= flags[f]
	}
	return made, nil
}

// arches are those that the profile is for, as far as this machine runs their programs.
func (p *Profile) arches(native arch) []arch {
	named := p.Architectures
	for _, m := range p.ArchMap {
		if m.Architecture == native.docker {
			named = m.SubArchitectures
		}
	}
	all := []arch{native}
	for _, compat := range native.compat {
		if a, ok := archOf(compat); ok && slices.Contains(named, a.docker) {
			all = append(all, a)
		}
	}
	return all
}

// rules say what happens to each system call of an architecture, by its number.
type rules struct {
	other uint32 // to all that are not in calls
	calls map[uint32]outcome
	last  uint32 // the greatest number of those that the profile names
}

// outcome is what happens to one system call: always, or the first alternative that holds,
// or else what the default is.
type outcome struct {
	always       *uint32
	alternatives []alternative
}

// alternative is a decision if every comparison holds.
type alternative struct {
	args     []Argument
	decision uint32
}

func (p *Profile) rulesFor(a arch, t Target) (*rules, error) {
	release, err := parseKernel(t.Kernel)
	if err != nil {
		return nil, err
	}
	numbers := a.numbers()
	r := &rules{other: p.defaultDecision, calls: make(map[uint32]outcome, len(numbers))}
	for i := range p.Syscalls {
		rule := &p.Syscalls[i]
		if !rule.appliesTo(t, release) {
			continue
		}
		for _, name := range rule.Names {
			number, ok := numbers[name]
			if !ok {
				continue
			}
			if number < privateCalls {
				r.last = max(r.last, number)
			}
			if rule.decision == r.other {
				continue
			}
			r.add(number, rule)
		}
	}
	return r, nil
}

// privateCalls is where the numbers begin that arm has beside those of all.
const privateCalls = 0xf0000

// add puts a rule to those of a call. The first without conditions counts for more than all
// others, wherever they stand: so has libseccomp it.
func (r *rules) add(number uint32, rule *Rule) {
	o := r.calls[number]
	if len(rule.Args) > 0 {
		o.alternatives = append(o.alternatives, rule.split()...)
	} else if o.always == nil {
		o.always = &rule.decision
	}
	r.calls[number] = o
}

// split returns the alternatives of a rule: all comparisons together, or each by itself if
// two are about one argument.
func (r *Rule) split() []alternative {
	var seen [6]bool
	twice := false
	for _, a := range r.Args {
		twice = twice || seen[a.Index]
		seen[a.Index] = true
	}
	if !twice {
		return []alternative{{r.Args, r.decision}}
	}
	var each []alternative
	for _, a := range r.Args {
		each = append(each, alternative{[]Argument{a}, r.decision})
	}
	return each
}

// appliesTo reports whether the rule counts for a container on a host, whose kernel is release.
func (r *Rule) appliesTo(t Target, release kernel) bool {
	has := func(name string) bool {
		set, err := capability.Parse(name)
		return err == nil && t.Capabilities.Has(set)
	}
	is := func(name string) bool { return name == t.Arch }
	in, out := r.Includes, r.Excludes
	required, _ := parseKernel(in.MinKernel)
	barred, _ := parseKernel(out.MinKernel)
	switch {
	case !all(in.Caps, has), len(in.Arches) > 0 && !slices.ContainsFunc(in.Arches, is), !release.atLeast(required):
		return false
	case slices.ContainsFunc(out.Caps, has), slices.ContainsFunc(out.Arches, is), out.MinKernel != "" && release.atLeast(barred):
		return false
	}
	return true
}

func all(names []string, hold func(string) bool) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !hold(name) })
}

// letStart refuses what would keep every container from starting, or from ending when it
// cannot start.
func (r *rules) letStart(a arch) error {
	for _, name := range needed {
		decision, certain := r.other, true
		if o, ok := r.calls[a.numbers()[name]]; ok {
			certain = o.always != nil
			if certain {
				decision = *o.always
			}
		}
		if !certain || decision != allow && decision != logged {
			return fmt.Errorf("%w: it does not allow %s whatever its arguments are, and berth-init needs that to start the command", container.ErrInvalid, name)
		}
	}
	return nil
}

func encode(program []instruction) []byte {
	out := make([]byte, 0, 8*len(program))
	for _, i := range program {
		out = binary.NativeEndian.AppendUint16(out, i.code)
		out = append(out, i.jt, i.jf)
		out = binary.NativeEndian.AppendUint32(out, i.k)
	}
	return out
}
