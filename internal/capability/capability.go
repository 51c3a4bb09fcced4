// Package capability has sets of the privileges that Linux takes root apart into, by the
// names of capabilities(7).
package capability

import (
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"

	"berth/container"
)

// Set is a set of capabilities: bit n is that with the number n.
type Set uint64

// names are those of the kernel without CAP_, by number.
var names = [...]string{"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO",
	"SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
	"LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
	"PERFMON", "BPF", "CHECKPOINT_RESTORE"}

// All has every capability that there is a name for.
const All Set = 1<<len(names) - 1

// Of returns the set of these; they must have no CAP_. It panics at others: it is for
// tables in programs.
func Of(known ...string) (set Set) {
	for _, name := range known {
		one, err := Parse(name)
		if err != nil {
			panic(err)
		}
		set |= one
	}
	return set
}

// Parse reads a name, in upper or lower case, with or without CAP_; ALL is every one.
// ErrInvalid: it is none.
func Parse(name string) (Set, error) {
	upper := strings.ToUpper(name)
	if upper == "ALL" {
		return All, nil
	}
	upper = strings.TrimPrefix(upper, "CAP_")
	for n, known := range names {
		if known == upper {
			return 1 << n, nil
		}
	}
	return 0, fmt.Errorf("capability %q: %w: there is none of that name: see capabilities(7)", name, container.ErrInvalid)
}

// Numbered returns the set of one by its number. ErrInvalid: there is none.
func Numbered(n int) (Set, error) {
	if n < 0 || n >= len(names) {
		return 0, fmt.Errorf("capability %d: %w: the last is %d", n, container.ErrInvalid, len(names)-1)
	}
	return 1 << n, nil
}

// Has reports whether a set is a part of this one.
func (s Set) Has(part Set) bool { return part&^s == 0 }

// String has the names, by number.
func (s Set) String() string {
	if s == 0 {
		return "none"
	}
	var known []string
	for rest := uint64(s); rest != 0; rest &= rest - 1 {
		if n := bits.TrailingZeros64(rest); n < len(names) {
			known = append(known, names[n])
		} else {
			known = append(known, strconv.Itoa(n))
		}
	}
	return strings.Join(known, ", ")
}

// Held returns what this process may give to others: what it has and what no exec takes
// from it.
func Held() (Set, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	return held(string(text))
}

func held(status string) (Set, error) {
	set := ^Set(0)
	for _, field := range []string{"CapPrm:", "CapBnd:"} {
		_, rest, ok := strings.Cut(status, "\n"+field)
		line, _, _ := strings.Cut(rest, "\n")
		value, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
		if !ok || err != nil {
			return 0, fmt.Errorf("/proc/self/status: %s is %q, which is no set of capabilities", field, line)
		}
		set &= Set(value)
	}
	return set, nil
}
