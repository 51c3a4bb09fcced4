//go:build linux

package mesos

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/containerizer"
)

// phaseTimes is a log handler that sums up how long each phase took.
type phaseTimes struct {
	slog.Handler
	mu    *sync.Mutex
	times map[string]time.Duration
}

func (h phaseTimes) Enabled(context.Context, slog.Level) bool { return true }
func (h phaseTimes) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h phaseTimes) WithGroup(string) slog.Handler            { return h }

func (h phaseTimes) Handle(_ context.Context, r slog.Record) error {
	var name string
	var took time.Duration
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "phase":
			name = a.Value.String()
		case "took":
			took = a.Value.Duration()
		}
		return true
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.times[name] += took
	return nil
}

// BenchmarkLaunch is from the launch to the moment when nothing is left of a container
// that executes true. It reports each phase and its undoing; between RUNNING and the
// first undoing the command runs and ends. After some idleness the first entry into a
// v1 cgroup waits for an RCU grace period.
func BenchmarkLaunch(b *testing.B) {
	b.Run("overlay", func(b *testing.B) { benchmarkLaunch(b, "overlay", 0) })
	b.Run("overlay after idleness", func(b *testing.B) { benchmarkLaunch(b, "overlay", 200*time.Millisecond) })
	b.Run("copy", func(b *testing.B) { benchmarkLaunch(b, "copy", 0) })
}

func benchmarkLaunch(b *testing.B, backend string, idle time.Duration) {
	phases := phaseTimes{mu: new(sync.Mutex), times: map[string]time.Duration{}}
	r := newRigWith(b, backend, func(p *parts) { p.log = slog.New(phases) })
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	request := containerizer.Request{Config: config(baseImage, "true"), Stdio: [3]*os.File{null, null, null}, Keeper: containerizer.Foreground}
	for b.Loop() {
		if idle > 0 {
			b.StopTimer()
			time.Sleep(idle)
			b.StartTimer()
		}
		id := r.newID()
		if err := r.Launch(b.Context(), id, request); err != nil {
			b.Fatal(err)
		}
		if t, err := r.Wait(b.Context(), id); err != nil || t.ExitCode() != 0 {
			b.Fatal(t.ExitCode(), err)
		}
	}
	for name, took := range phases.times {
		b.ReportMetric(float64(took.Microseconds())/float64(b.N), "µs/"+strings.ReplaceAll(name, " ", "-"))
	}
}
