//go:build linux

package perfevent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "berth/api/v1"
	"berth/container"
)

// Event is what the kernel can count: a field of PerfStatistics, and its number in
// perf_event_open(2).
type Event struct {
	field  protoreflect.FieldDescriptor
	typ    uint32
	config uint64
}

// Name returns the name as perf(1) has it, in lower case.
func (e Event) Name() string { return strings.ReplaceAll(string(e.field.Name()), "_", "-") }

// known has every event by the name of its field.
var known = sync.OnceValue(func() map[string]Event {
	all := make(map[string]Event)
	fields := (&v1.PerfStatistics{}).ProtoReflect().Descriptor().Fields()
	add := func(name string, typ uint32, config uint64) {
		all[name] = Event{fields.ByName(protoreflect.Name(name)), typ, config}
	}
	for config, name := range []string{"cycles", "instructions", "cache_references", "cache_misses", "branches", "branch_misses", "bus_cycles",
		"stalled_cycles_frontend", "stalled_cycles_backend", "ref_cycles"} {
		add(name, unix.PERF_TYPE_HARDWARE, uint64(config))
	}
	for config, name := range []string{"cpu_clock", "task_clock", "page_faults", "context_switches", "cpu_migrations", "minor_faults", "major_faults",
		"alignment_faults", "emulation_faults"} {
		add(name, unix.PERF_TYPE_SOFTWARE, uint64(config))
	}
	// A cache, what is done with it and how that goes.
	for cache, name := range []string{"l1_dcache", "l1_icache", "llc", "dtlb", "itlb", "branch", "node"} {
		for op, words := range [][2]string{{"_loads", "_load_misses"}, {"_stores", "_store_misses"}, {"_prefetches", "_prefetch_misses"}} {
			for result, word := range words {
				if fields.ByName(protoreflect.Name(name+word)) != nil {
					add(name+word, unix.PERF_TYPE_HW_CACHE, uint64(cache|op<<8|result<<16))
				}
			}
		}
	}
	return all
})

// other names that perf has for some.
var aliases = map[string]string{
	"cpu_cycles": "cycles", "branch_instructions": "branches", "faults": "page_faults", "cs": "context_switches", "migrations": "cpu_migrations",
	"idle_cycles_frontend": "stalled_cycles_frontend", "idle_cycles_backend": "stalled_cycles_backend",
}

// usual are the events that are counted unless others are named, as far as the host can.
var usual = []string{"task-clock", "context-switches", "cpu-migrations", "page-faults", "minor-faults", "major-faults",
	"cycles", "instructions", "cache-references", "cache-misses", "branches", "branch-misses"}

// ParseEvents reads --perf_events: names of perf(1), in whichever case. None stands for the
// usual ones that this host can count. ErrInvalid: a name that is none, or is there twice;
// ErrNotSupported: what this host cannot count.
func ParseEvents(names []string) (events []Event, err error) {
	wanted := names
	if len(names) == 0 {
		wanted = usual
	}
	for _, name := range wanted {
		e, err := parseEvent(name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(events, e) {
			return nil, fmt.Errorf("event %q: %w: it is there twice", name, container.ErrInvalid)
		}
		switch err := e.try(); {
		case err == nil:
			events = append(events, e)
		case len(names) > 0:
			return nil, fmt.Errorf("event %q: %w", name, err)
		}
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("%w: this host counts none of %s", container.ErrNotSupported, strings.Join(usual, ", "))
	}
	return events, nil
}

func parseEvent(name string) (Event, error) {
	field := strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), "-", "_")
	if other, ok := aliases[field]; ok {
		field = other
	}
	e, ok := known()[field]
	if !ok {
		return Event{}, fmt.Errorf("event %q: %w: known are %s", name, container.ErrInvalid, strings.Join(allNames(), ", "))
	}
	return e, nil
}

func allNames() (names []string) {
	for _, e := range known() {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}

// try counts an event of this process for a moment.
func (e Event) try() error {
	fd, err := e.open(0, -1, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// open begins to count; the arguments are those of perf_event_open(2).
func (e Event) open(pid, cpu int, flags int) (int, error) {
	attr := unix.PerfEventAttr{Type: e.typ, Config: e.config, Size: unix.PERF_ATTR_SIZE_VER1,
		Read_format: unix.PERF_FORMAT_TOTAL_TIME_ENABLED | unix.PERF_FORMAT_TOTAL_TIME_RUNNING}
	fd, err := unix.PerfEventOpen(&attr, pid, cpu, -1, flags|unix.PERF_FLAG_FD_CLOEXEC)
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EINVAL):
		if e.typ == unix.PERF_TYPE_SOFTWARE {
			return -1, fmt.Errorf("%w: this kernel does not count it: %w", container.ErrNotSupported, err)
		}
		return -1, fmt.Errorf("%w: this processor (or the virtual machine) has no counter for it; task-clock, context-switches and page-faults need none: %w", container.ErrNotSupported, err)
	case errors.Is(err, unix.ENOSYS):
		return -1, fmt.Errorf("%w: the kernel needs CONFIG_PERF_EVENTS: %w", container.ErrNotSupported, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return -1, fmt.Errorf("%w: kernel.perf_event_paranoid forbids it, or berth lacks CAP_PERFMON: %w", container.ErrDenied, err)
	case errors.Is(err, unix.EMFILE):
		return -1, fmt.Errorf("%w: each event takes an open file for each CPU: raise the limit (LimitNOFILE), or count less: %w", container.ErrFailedPrecondition, err)
	}
	return -1, fmt.Errorf("perf_event_open: %w", err)
}
