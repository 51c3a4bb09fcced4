package metrics

import (
	"maps"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestCountersAndGaugesAreInTheSnapshot(t *testing.T) {
	s := New()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				s.Counter("errors").Add(1)
				s.Snapshot()
			}
		})
	}
	all.Wait()
	s.Counter("none")
	s.Gauge("gauge", func() float64 { return 1 })
	s.Gauge("gauge", func() float64 { return 2.5 })
	want := map[string]float64{"errors": 8000, "none": 0, "gauge": 2.5}
	if got := s.Snapshot(); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestWithoutASetEverythingWorks(t *testing.T) {
	var s *Set
	c := s.Counter("c")
	c.Add(3)
	s.Timer("t_ms").Observe(time.Second)
	s.Gauge("g", func() float64 { return 1 })
	if got := s.Snapshot(); c.Value() != 3 || len(got) != 0 {
		t.Errorf("%d, %v", c.Value(), got)
	}
}

func TestTimerHasTheStatisticsOfMesos(t *testing.T) {
	s := New()
	pull := s.Timer("pull_ms")
	if got := s.Snapshot(); len(got) != 0 {
		t.Errorf("before the first sample there are %v", got)
	}
	pull.Observe(1500 * time.Microsecond)
	for name, v := range s.Snapshot() {
		if want := map[bool]float64{true: 1, false: 1.5}[name == "pull_ms/count"]; v != want {
			t.Errorf("of one sample, %s is %v", name, v)
		}
	}
	for ms := 100; ms >= 1; ms-- { // in any order
		s.Timer("pull_ms").Observe(time.Duration(ms) * time.Millisecond)
	}
	want := map[string]float64{
		"pull_ms": 1, "pull_ms/count": 101, "pull_ms/min": 1, "pull_ms/max": 100,
		// The sorted samples are 1, 1.5, 2, 3, ... 100.
		"pull_ms/p50": 50, "pull_ms/p90": 90, "pull_ms/p95": 95, "pull_ms/p99": 99, "pull_ms/p999": 99.9, "pull_ms/p9999": 99.99,
	}
	got := s.Snapshot()
	if !maps.EqualFunc(got, want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestTimerForgetsWhatIsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		pull := s.Timer("pull_ms")
		count := func(want float64, says string) {
			t.Helper()
			if got := s.Snapshot()["pull_ms/count"]; got != want {
				t.Errorf("%s, %v samples count; want %v", says, got, want)
			}
		}
		stop := pull.Start()
		time.Sleep(time.Second)
		stop()
		if got := s.Snapshot()["pull_ms"]; got != 1000 {
			t.Errorf("measured %v ms", got)
		}
		time.Sleep(40 * time.Minute)
		pull.Observe(time.Second)
		count(2, "within an hour")
		time.Sleep(40 * time.Minute)
		count(1, "when one is older than an hour")
		time.Sleep(time.Hour)
		count(1, "when all are, the last of them")
		for range 3 * maxSamples {
			pull.Observe(time.Second)
		}
		count(maxSamples, "after many")
		if got := cap(pull.samples); got > 2*maxSamples {
			t.Errorf("room for %d samples is kept", got)
		}
	})
}
