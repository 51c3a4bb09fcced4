package stages

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

// clock is one whose instants the test chooses.
type clock struct {
	*Clock
	begin time.Time
}

func newClock() clock {
	begin := time.Now()
	return clock{StartAt(begin, Layer...), begin}
}

func (c clock) at(s int) time.Time { return c.begin.Add(time.Duration(s) * time.Second) }

func wantSpent(t *testing.T, got []Spent, want map[Stage]time.Duration) {
	t.Helper()
	var names []Stage
	for _, s := range got {
		names = append(names, s.Stage)
		if s.Time != want[s.Stage] {
			t.Errorf("%s in the stage %q, want %s", s.Time, s.Stage, want[s.Stage])
		}
	}
	if !slices.Equal(names, Layer) {
		t.Errorf("the stages are %v, want %v", names, Layer)
	}
}

func TestEachInstantBelongsToTheStageThatWasEntered(t *testing.T) {
	c := newClock()
	c.EnterAt(Connect, c.at(2))
	c.EnterAt(FirstByte, c.at(3))
	c.EnterAt(Connect, c.at(7))
	c.EnterAt(Sync, c.at(8))
	got := c.StopAt(c.at(16))
	wantSpent(t, got, map[Stage]time.Duration{
		Queue: 2 * time.Second, Connect: 2 * time.Second, FirstByte: 4 * time.Second, Sync: 8 * time.Second})
	if Sum(got) != 16*time.Second || Slowest(got).Stage != Sync {
		t.Errorf("they add up to %s, the slowest is %q", Sum(got), Slowest(got).Stage)
	}
}

// A stage that is told of too late takes no time from those before.
func TestTimeGoesNotBackwards(t *testing.T) {
	c := newClock()
	c.EnterAt(Connect, c.at(5))
	c.EnterAt(FirstByte, c.at(3))
	wantSpent(t, c.StopAt(c.at(9)), map[Stage]time.Duration{Queue: 5 * time.Second, FirstByte: 4 * time.Second})
}

func TestAPipelineIsWhereTheOthersWaitFor(t *testing.T) {
	for _, c := range []struct {
		unpackerWaits, inflaterWaits bool
		want                         Stage
	}{
		{false, false, Unpack},
		{false, true, Unpack},
		{true, false, Inflate},
		{true, true, Transfer},
	} {
		clock := Start(Layer...)
		clock.Flow()
		clock.UnpackerWaits(c.unpackerWaits)
		clock.InflaterWaits(c.inflaterWaits)
		if got := clock.current(); got != c.want {
			t.Errorf("the unpacker waits: %v, the inflater waits: %v: it is the stage %q, want %q", c.unpackerWaits, c.inflaterWaits, got, c.want)
		}
		clock.Enter(Wait)
		clock.UnpackerWaits(false) // too late
		if got := clock.current(); got != Wait {
			t.Errorf("after the pipeline it is the stage %q", got)
		}
	}
}

func TestStagesAddUpWhateverGoesOn(t *testing.T) {
	begin := time.Now()
	c := StartAt(begin, Layer...)
	c.Flow()
	var all sync.WaitGroup
	for _, change := range []func(bool){c.UnpackerWaits, c.InflaterWaits} {
		all.Go(func() {
			for i := range 10_000 {
				change(i%2 == 0)
			}
		})
	}
	all.Wait()
	end := time.Now()
	if got := Sum(c.StopAt(end)); got != end.Sub(begin) {
		t.Errorf("the stages take %s, the whole %s", got, end.Sub(begin))
	}
}

func TestNobodyMeasures(t *testing.T) {
	c := Of(With(t.Context(), nil))
	c.Enter(Queue)
	c.Flow()
	c.UnpackerWaits(true)
	c.InflaterWaits(true)
	if c != nil || c.StopAt(time.Now()) != nil || Of(context.Background()) != nil {
		t.Error("there is a clock")
	}
	if c := Start(Pull...); Of(With(t.Context(), c)) != c {
		t.Error("the clock of the context is another")
	}
}

func BenchmarkChange(b *testing.B) {
	c := Start(Layer...)
	c.Flow()
	for b.Loop() {
		c.InflaterWaits(true)
	}
}
