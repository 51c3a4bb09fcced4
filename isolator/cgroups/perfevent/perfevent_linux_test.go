package perfevent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

// software returns events that every host counts.
func software(t *testing.T) []Event {
	t.Helper()
	events, err := ParseEvents([]string{"task-clock", "context-switches", "page-faults", "minor-faults"})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func TestConformance(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	i := New(Options{Groups: groups, Events: software(t), Interval: 20 * time.Millisecond, Duration: 5 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	isolatortest.Run(t, i, isolatortest.Requests{Fork: groups.Fork, Gone: groups.Gone})
	if len(i.samples)+len(i.finished) > 0 {
		t.Errorf("left: %v, %v", i.samples, i.finished)
	}
}

func TestEvents(t *testing.T) {
	if n := len(known()); n != (&v1.PerfStatistics{}).ProtoReflect().Descriptor().Fields().Len()-2 {
		t.Errorf("%d events are known, and not all fields", n)
	}
	for name, e := range known() {
		if e.field == nil || string(e.field.Name()) != name {
			t.Errorf("%s: no such field", name)
		}
	}
	for name, want := range map[string]string{"L1-dcache-load-misses": "l1-dcache-load-misses", "dTLB-stores": "dtlb-stores", "cs": "context-switches", "LLC_loads": "llc-loads"} {
		if e, err := parseEvent(name); err != nil || e.Name() != want {
			t.Errorf("%s: %v, %v", name, e.Name(), err)
		}
	}
	if e, _ := parseEvent("node-store-misses"); e.config != 6|1<<8|1<<16 {
		t.Errorf("node-store-misses is %x", e.config)
	}
	for words, names := range map[string][]string{"known are": {"task-clock", "wonders"}, "twice": {"cs", "context-switches"}, "known": {""}} {
		if _, err := ParseEvents(names); !errors.Is(err, container.ErrInvalid) || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v", names, err)
		}
	}
	// Whatever the host has: the usual ones work, others are refused by name.
	if events, err := ParseEvents(nil); err != nil || len(events) < 6 {
		t.Errorf("%v, %v", events, err)
	}
	if _, err := ParseEvents([]string{"cycles"}); err != nil && (!errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), "cycles")) {
		t.Errorf("cycles: %v", err)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range [][2]time.Duration{{time.Second, 0}, {time.Second, -1}, {time.Second, 2 * time.Second}, {0, 0}} {
		if err := Check(c[0], c[1]); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%v: %v", c, err)
		}
	}
	if err := Check(time.Second, time.Second); err != nil {
		t.Error(err)
	}
}

// A sample has what the processes of the cgroup did, those of others do not count.
func TestCountsGrow(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	i := New(Options{Groups: groups, Events: software(t), Interval: 300 * time.Millisecond, Duration: 200 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	counts := make(map[string]*v1.PerfStatistics)
	for _, value := range []string{"busy", "idle"} {
		id, err := container.ParseID(value)
		if err != nil {
			t.Fatal(err)
		}
		groups.Fork(t, id)
		if err := i.Isolate(t.Context(), &isolator.Container{ID: id}, 1); err != nil {
			t.Fatal(err)
		}
		if value == "busy" {
			work(t, groups, id)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := i.Watch(ctx, id)
			done <- err
		}()
		usage := &v1.ResourceStatistics{}
		for usage.Perf.GetDuration() < 0.2 {
			if err := i.Usage(t.Context(), id, usage); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		counts[value] = usage.Perf
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := i.Cleanup(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if c := counts["busy"]; c.GetTaskClock() < 20 || c.GetPageFaults() == 0 || c.GetMinorFaults() == 0 || c.GetContextSwitches() == 0 || c.Cycles != nil {
		t.Errorf("busy: %v", c)
	}
	if c := counts["idle"]; c.GetTaskClock() != 0 || c.GetPageFaults() != 0 || c.GetContextSwitches() != 0 {
		t.Errorf("idle: %v", c)
	}
}

// work keeps a CPU busy in the cgroup of a container until the end of the test.
func work(t *testing.T, groups *isolatortest.Groups, id container.ID) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "read go; while :; do /bin/true; done")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Kill); err != nil {
			t.Error(err)
		}
		cmd.Wait()
	})
	group, err := groups.Group(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := group.Enter(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
}
