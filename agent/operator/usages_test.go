package operator

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

// clock is a meter that says when it was asked, and counts.
type clock struct {
	asked atomic.Int64
	ended atomic.Bool
}

func (c *clock) Usage(context.Context, container.ID) (*v1.ResourceStatistics, error) {
	c.asked.Add(1)
	if c.ended.Load() {
		return nil, container.ErrNotFound
	}
	return &v1.ResourceStatistics{Timestamp: proto.Float64(float64(time.Now().UnixNano()) / 1e9)}, nil
}

// measure begins to take samples, until the test ends.
func measure(t *testing.T, m meter) *usages {
	u := newUsages(m)
	ctx, cancel := context.WithCancel(t.Context())
	go u.keep(ctx)
	t.Cleanup(cancel)
	return u
}

func age(s *v1.ResourceStatistics) time.Duration {
	return time.Since(time.Unix(0, int64(s.GetTimestamp()*1e9))).Round(time.Millisecond)
}

// Who asks again and again gets statistics that are there, no older than they may be, and never
// the same twice when a second lies between.
func TestStatisticsAreTakenAheadOfWhoAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		u, id := measure(t, &c), mustID(t, "c")
		first := u.of(t.Context(), id, time.Time{})
		if got := age(first); got != 0 || c.asked.Load() != 1 {
			t.Errorf("the first one gets what is %v old, taken %d times", got, c.asked.Load())
		}
		if again := u.of(t.Context(), id, time.Time{}); again != first || c.asked.Load() != 1 {
			t.Errorf("who asks at the same time gets others, taken %d times", c.asked.Load())
		}
		last := first
		for range 10 {
			time.Sleep(time.Second)
			synctest.Wait()
			before := c.asked.Load()
			now := u.of(t.Context(), id, time.Time{})
			if c.asked.Load() != before || age(now) >= usageAge || now.GetTimestamp() <= last.GetTimestamp() {
				t.Errorf("a second later they are %v old, and were taken %d times for it", age(now), c.asked.Load()-before)
			}
			last = now
		}
	})
}

func TestStatisticsOfWhoNobodyAsksAreNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		u, id := measure(t, &c), mustID(t, "c")
		u.of(t.Context(), id, time.Time{})
		time.Sleep(time.Minute)
		if got := c.asked.Load(); got != 1 {
			t.Errorf("of a container that somebody has asked for once they are taken %d times", got)
		}
		u.of(t.Context(), id, time.Time{})
		u.of(t.Context(), id, time.Time{})
		time.Sleep(time.Minute)
		if got, most := c.asked.Load(), int64(2+usageInterest/usagePeriod+1); got < 4 || got > most {
			t.Errorf("of one that somebody has asked for again they are taken %d times, at most %d", got, most)
		}
		synctest.Wait()
		u.mu.Lock()
		defer u.mu.Unlock()
		if len(u.samples) != 0 {
			t.Errorf("%d samples are kept that nobody asks for", len(u.samples))
		}
	})
}

func TestStatisticsAreOfTheContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		u, id := measure(t, &c), mustID(t, "c")
		earlier := u.of(t.Context(), id, time.Time{})
		time.Sleep(usageAge / 4)
		if now := u.of(t.Context(), id, time.Now()); now == earlier || age(now) != 0 {
			t.Errorf("a container of the same id, launched now, has statistics %v old", age(now))
		}
		time.Sleep(usageAge / 4)
		if u.forget(id); age(u.of(t.Context(), id, time.Time{})) != 0 {
			t.Error("after an update there are those from before it")
		}
		c.ended.Store(true)
		time.Sleep(usageAge)
		if now := u.of(t.Context(), id, time.Time{}); now != nil {
			t.Errorf("of one that has ended there are statistics, %v old", age(now))
		}
	})
}

func mustID(t *testing.T, text string) container.ID {
	t.Helper()
	id, err := container.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
