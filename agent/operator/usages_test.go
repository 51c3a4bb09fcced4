package operator

import (
	"context"
	"fmt"
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
	go u.takeAhead(ctx)
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
		first := u.of(t.Context(), id, time.Time{}, 1)
		if got := age(first); got != 0 || c.asked.Load() != 1 {
			t.Errorf("the first one gets what is %v old, taken %d times", got, c.asked.Load())
		}
		if again := u.of(t.Context(), id, time.Time{}, 1); again != first || c.asked.Load() != 1 {
			t.Errorf("who asks at the same time gets others, taken %d times", c.asked.Load())
		}
		last := first
		for range 10 {
			time.Sleep(time.Second)
			synctest.Wait()
			before := c.asked.Load()
			now := u.of(t.Context(), id, time.Time{}, 1)
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
		u.of(t.Context(), id, time.Time{}, 1)
		time.Sleep(time.Minute)
		if got := c.asked.Load(); got != 1 {
			t.Errorf("of a container that somebody has asked for once they are taken %d times", got)
		}
		u.of(t.Context(), id, time.Time{}, 1)
		u.of(t.Context(), id, time.Time{}, 1)
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
		earlier := u.of(t.Context(), id, time.Time{}, 1)
		time.Sleep(usageAge / 4)
		if now := u.of(t.Context(), id, time.Now(), 1); now == earlier || age(now) != 0 {
			t.Errorf("a container of the same id, launched now, has statistics %v old", age(now))
		}
		time.Sleep(usageAge / 4)
		if u.forget(id); age(u.of(t.Context(), id, time.Time{}, 1)) != 0 {
			t.Error("after an update there are those from before it")
		}
		c.ended.Store(true)
		time.Sleep(usageAge)
		if now := u.of(t.Context(), id, time.Time{}, 1); now != nil {
			t.Errorf("of one that has ended there are statistics, %v old", age(now))
		}
	})
}

// Who is the first to ask of many does not wait for the kernel, and who asks then gets what is
// so now.
func TestStatisticsOfManyAreThereBeforeSomebodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		u := measure(t, &c)
		var ids []container.ID
		for n := range usageMany + 1 {
			ids = append(ids, mustID(t, fmt.Sprint("c", n)))
		}
		go u.surveyAll(t.Context(), func() []container.ID { return ids })
		time.Sleep(time.Minute - time.Second)
		synctest.Wait()
		before := c.asked.Load()
		for _, id := range ids {
			if s := u.of(t.Context(), id, time.Time{}, len(ids)); age(s) >= surveyPeriod {
				t.Errorf("they are %v old", age(s))
			}
		}
		if got := c.asked.Load(); got != before {
			t.Errorf("for an answer about many the kernel is asked %d times", got-before)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		before = c.asked.Load()
		for _, id := range ids {
			if s := u.of(t.Context(), id, time.Time{}, 1); age(s) >= usageAge {
				t.Errorf("a second after the first answer they are %v old", age(s))
			}
		}
		if got := c.asked.Load(); got != before {
			t.Errorf("who asks again waits for the kernel %d times", got-before)
		}
		if s := u.of(t.Context(), ids[0], time.Now(), len(ids)); age(s) != 0 {
			t.Errorf("one that was launched now has statistics %v old", age(s))
		}
		if u.forget(ids[1]); age(u.of(t.Context(), ids[1], time.Time{}, len(ids))) != 0 {
			t.Error("after an update there are those from before it")
		}
	})
}

func TestOfFewContainersThereIsNoSurvey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		u, ids := measure(t, &c), []container.ID{mustID(t, "c")}
		go u.surveyAll(t.Context(), func() []container.ID { return ids })
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := c.asked.Load(); got != 0 {
			t.Errorf("nobody has asked, and they were taken %d times", got)
		}
	})
}

// An update while a survey goes on is not undone by it.
func TestASurveyKnowsWhatWasForgottenMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ids []container.ID
		for n := range usageMany + 1 {
			ids = append(ids, mustID(t, fmt.Sprint("c", n)))
		}
		u := newUsages(slow{})
		go u.surveyAll(t.Context(), func() []container.ID { return ids })
		time.Sleep(usageMany * time.Millisecond) // the first ones are there
		u.forget(ids[0])
		time.Sleep(time.Second)
		synctest.Wait()
		if s := u.of(t.Context(), ids[0], time.Time{}, len(ids)); age(s) > time.Millisecond {
			t.Errorf("after an update there are those from before it, %v old", age(s))
		}
		if s := u.of(t.Context(), ids[1], time.Time{}, len(ids)); age(s) < time.Second {
			t.Errorf("of another one they are %v old", age(s))
		}
	})
}

// slow is a meter that takes its time.
type slow struct{}

func (slow) Usage(context.Context, container.ID) (*v1.ResourceStatistics, error) {
	now := time.Now()
	time.Sleep(time.Millisecond)
	return &v1.ResourceStatistics{Timestamp: proto.Float64(float64(now.UnixNano()) / 1e9)}, nil
}

func mustID(t *testing.T, text string) container.ID {
	t.Helper()
	id, err := container.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
