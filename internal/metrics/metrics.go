// Package metrics counts and measures what goes on, under the names that monitoring of
// Mesos knows.
//
// A Set is the metrics of one engine. Whoever counts something asks the Set for it by
// its name, once, and keeps it; a nil Set gives what works and nobody sees. Memory is
// bounded: a Timer keeps as many samples as its statistics need, and no more.
package metrics

import (
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Set is a set of metrics. Its methods may be called concurrently.
type Set struct {
	mu       sync.Mutex
	counters map[string]*Counter
	gauges   map[string]func() float64
	timers   map[string]*Timer
}

// New returns an empty set.
func New() *Set {
	return &Set{
		counters: make(map[string]*Counter),
		gauges:   make(map[string]func() float64),
		timers:   make(map[string]*Timer),
	}
}

// Counter only grows. It counts from the start of the process.
type Counter struct {
	n atomic.Int64
}

// Add adds n, which is not negative.
func (c *Counter) Add(n int64) { c.n.Add(n) }

// Value returns the sum.
func (c *Counter) Value() int64 { return c.n.Load() }

// Counter returns the counter of a name, the same one for each caller. It is in every
// Snapshot from now on.
func (s *Set) Counter(name string) *Counter {
	if s == nil {
		return new(Counter)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.counters[name]
	if !ok {
		c = new(Counter)
		s.counters[name] = c
	}
	return c
}

// Counts reports whether the metric of a name is a counter.
func (s *Set) Counts(name string) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, counts := s.counters[name]
	return counts
}

// Gauge has value called for every Snapshot, in the place of an earlier gauge of the
// name. It must not block, nor use the Set.
func (s *Set) Gauge(name string, value func() float64) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gauges[name] = value
}

// Timer returns the timer of a name, which ends in "_ms", the same one for each caller.
func (s *Set) Timer(name string) *Timer {
	if s == nil {
		return new(Timer)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.timers[name]
	if !ok {
		t = new(Timer)
		s.timers[name] = t
	}
	return t
}

// Snapshot returns the values of all metrics: counters and gauges under their names; of
// a timer that has a sample, the last one in milliseconds under its name, and under
// /count, /min, /max and the percentiles /p50, /p90, /p95, /p99, /p999 and /p9999 below
// it the statistics of its window.
func (s *Set) Snapshot() map[string]float64 {
	values := make(map[string]float64)
	if s == nil {
		return values
	}
	s.mu.Lock()
	counters, gauges, timers := maps.Clone(s.counters), maps.Clone(s.gauges), maps.Clone(s.timers)
	s.mu.Unlock()
	for name, c := range counters {
		values[name] = float64(c.Value())
	}
	for name, value := range gauges {
		values[name] = value()
	}
	for name, t := range timers {
		t.snapshot(name, values)
	}
	return values
}

const (
	// window is how long a sample counts. The last one always does.
	window = time.Hour
	// maxSamples bounds the memory of a timer. Of more within one window, the last
	// ones count.
	maxSamples = 1000
)

// Timer measures durations. The zero value works.
type Timer struct {
	mu      sync.Mutex
	samples []sample // oldest first
}

type sample struct {
	at time.Time
	ms float64
}

// Start begins a measurement, which stop ends.
func (t *Timer) Start() (stop func()) {
	start := time.Now()
	return func() { t.Observe(time.Since(start)) }
}

// Observe adds a sample.
func (t *Timer) Observe(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.samples) >= maxSamples {
		t.samples = slices.Delete(t.samples, 0, len(t.samples)-maxSamples+1)
	}
	t.samples = append(t.samples, sample{time.Now(), float64(d) / float64(time.Millisecond)})
}

// recent drops what is out of the window and returns the rest, oldest first.
func (t *Timer) recent() []float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	start := time.Now().Add(-window)
	old := 0
	for old < len(t.samples)-1 && t.samples[old].at.Before(start) {
		old++
	}
	t.samples = slices.Delete(t.samples, 0, old)
	var ms []float64
	for _, s := range t.samples {
		ms = append(ms, s.ms)
	}
	return ms
}

var percentiles = map[string]float64{"p50": .5, "p90": .9, "p95": .95, "p99": .99, "p999": .999, "p9999": .9999}

func (t *Timer) snapshot(name string, values map[string]float64) {
	ms := t.recent()
	if len(ms) == 0 {
		return
	}
	values[name] = ms[len(ms)-1]
	values[name+"/count"] = float64(len(ms))
	slices.Sort(ms)
	values[name+"/min"], values[name+"/max"] = ms[0], ms[len(ms)-1]
	for suffix, p := range percentiles {
		values[name+"/"+suffix] = percentile(ms, p)
	}
}

// percentile interpolates between the two nearest of the sorted values, as Mesos does.
func percentile(sorted []float64, p float64) float64 {
	whole, part := math.Modf(p * float64(len(sorted)-1))
	at := int(whole)
	if part == 0 {
		return sorted[at]
	}
	return sorted[at] + part*(sorted[at+1]-sorted[at])
}
