package seccomp

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"berth/container"
)

// Profile is a profile as it was written.
type Profile struct {
	DefaultAction   string    `json:"defaultAction"`
	DefaultErrno    *uint16   `json:"defaultErrnoRet"`
	Architectures   []string  `json:"architectures"`
	ArchMap         []archMap `json:"archMap"`
	Flags           []string  `json:"flags"`
	ListenerPath    string    `json:"listenerPath"`
	Syscalls        []Rule    `json:"syscalls"`
	defaultDecision uint32
}

type archMap struct {
	Architecture     string   `json:"architecture"`
	SubArchitectures []string `json:"subArchitectures"`
}

// Rule says what happens to some system calls.
type Rule struct {
	Name     string     `json:"name"` // of one, as older profiles have it
	Names    []string   `json:"names"`
	Action   string     `json:"action"`
	Errno    *uint16    `json:"errnoRet"`
	Args     []Argument `json:"args"`
	Includes Condition  `json:"includes"` // of each that is named, something must hold
	Excludes Condition  `json:"excludes"` // nothing of it may
	decision uint32
}

// Condition is one on the container and the host.
type Condition struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"`
	MinKernel string   `json:"minKernel"`
}

// Argument compares an argument of a system call: all of a rule must hold, but two of one
// argument are alternatives, which is how runc reads them.
type Argument struct {
	Index    uint   `json:"index"`
	Value    uint64 `json:"value"`    // the mask of SCMP_CMP_MASKED_EQ
	ValueTwo uint64 `json:"valueTwo"` // what that is compared with
	Op       string `json:"op"`
}

// The decisions of a program.
const (
	killProcess uint32 = 0x80000000
	killThread  uint32 = 0
	trap        uint32 = 0x00030000
	errno       uint32 = 0x00050000
	trace       uint32 = 0x7ff00000
	logged      uint32 = 0x7ffc0000
	allow       uint32 = 0x7fff0000
)

const (
	eperm    = 1
	enosys   = 38
	maxErrno = 4095
)

var actions = map[string]uint32{
	"SCMP_ACT_KILL": killThread, "SCMP_ACT_KILL_THREAD": killThread, "SCMP_ACT_KILL_PROCESS": killProcess, "SCMP_ACT_TRAP": trap,
	"SCMP_ACT_ERRNO": errno, "SCMP_ACT_TRACE": trace, "SCMP_ACT_LOG": logged, "SCMP_ACT_ALLOW": allow,
}

// flags are those of seccomp(2). The container is one thread when it gets its filter, so
// that there is nothing to synchronize.
var flags = map[string]uint{"SECCOMP_FILTER_FLAG_TSYNC": 0, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4}

// Parse reads a profile. ErrInvalid: it is none. ErrNotSupported: it needs somebody who
// decides about system calls while the container runs.
func Parse(data []byte) (*Profile, error) {
	p := &Profile{}
	if err := json.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("%w: it is no JSON of a profile: %w", container.ErrInvalid, err)
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Profile) check() (err error) {
	if p.defaultDecision, err = decisionOf(p.DefaultAction, p.DefaultErrno); err != nil {
		return fmt.Errorf("defaultAction: %w", err)
	}
	if len(p.Architectures) > 0 && len(p.ArchMap) > 0 {
		return fmt.Errorf("%w: it has architectures and archMap, which are two ways to say one thing", container.ErrInvalid)
	}
	if p.ListenerPath != "" {
		return fmt.Errorf("listenerPath: %w: nobody here decides about system calls while a container runs", container.ErrNotSupported)
	}
	for _, f := range p.Flags {
		if _, ok := flags[f]; !ok {
			return fmt.Errorf("flag %q: %w", f, container.ErrNotSupported)
		}
	}
	for i := range p.Syscalls {
		if err := p.Syscalls[i].check(p.lets()); err != nil {
			return fmt.Errorf("syscalls[%d]: %w", i, err)
		}
	}
	return nil
}

// lets reports whether a call may be made that no rule names.
func (p *Profile) lets() bool { return p.defaultDecision == allow || p.defaultDecision == logged }

// check refuses what it makes no sense of. Where what is not named may be done, a name that
// there is not is misspelt; elsewhere it may be one of another machine.
func (r *Rule) check(othersMay bool) (err error) {
	if r.Name != "" && len(r.Names) > 0 {
		return fmt.Errorf("%w: it has name and names", container.ErrInvalid)
	}
	if r.Name != "" {
		r.Names = []string{r.Name}
	}
	if len(r.Names) == 0 {
		return fmt.Errorf("%w: it names no system call", container.ErrInvalid)
	}
	if r.decision, err = decisionOf(r.Action, r.Errno); err != nil {
		return fmt.Errorf("action: %w", err)
	}
	for _, name := range r.Names {
		if othersMay && r.decision != allow && !isSyscall(name) {
			return fmt.Errorf("%q: %w: there is no system call of that name", name, container.ErrInvalid)
		}
	}
	for _, a := range r.Args {
		if _, ok := comparisons[a.Op]; !ok || a.Index > 5 {
			return fmt.Errorf("args: %w: index %d, op %q: there are arguments 0 to 5, and SCMP_CMP_{EQ,NE,LT,LE,GT,GE,MASKED_EQ}", container.ErrInvalid, a.Index, a.Op)
		}
	}
	for _, c := range []Condition{r.Includes, r.Excludes} {
		if _, err := parseKernel(c.MinKernel); err != nil {
			return err
		}
	}
	return nil
}

// decisionOf returns what the kernel is told. Without a number a forbidden call fails with
// EPERM.
func decisionOf(action string, number *uint16) (uint32, error) {
	if action == "SCMP_ACT_NOTIFY" {
		return 0, fmt.Errorf("%s: %w: nobody here decides about system calls while a container runs", action, container.ErrNotSupported)
	}
	decision, ok := actions[action]
	if !ok {
		return 0, fmt.Errorf("%q: %w: there is no such action", action, container.ErrInvalid)
	}
	if decision != errno && decision != trace {
		return decision, nil
	}
	if number == nil {
		return decision | eperm, nil
	}
	if *number > maxErrno {
		return 0, fmt.Errorf("errnoRet %d: %w: the last is %d", *number, container.ErrInvalid, maxErrno)
	}
	return decision | uint32(*number), nil
}

// kernel is a version, its first two numbers.
type kernel struct{ major, minor int }

// parseKernel reads 5.10 of "5.10", and of "5.10.0-8-amd64"; "" is the first of all.
func parseKernel(release string) (k kernel, err error) {
	if release == "" {
		return k, nil
	}
	major, rest, ok := strings.Cut(release, ".")
	minor := strings.FieldsFunc(rest+" ", func(r rune) bool { return r < '0' || r > '9' })
	if k.major, err = strconv.Atoi(major); err != nil || !ok || len(minor) == 0 {
		return k, fmt.Errorf("kernel %q: %w: it is a version as 5.10", release, container.ErrInvalid)
	}
	k.minor, err = strconv.Atoi(minor[0])
	return k, err
}

func (k kernel) atLeast(other kernel) bool {
	return k.major > other.major || k.major == other.major && k.minor >= other.minor
}
