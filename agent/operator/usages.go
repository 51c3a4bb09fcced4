package operator

import (
	"context"
	"sync"
	"time"

	v1 "berth/api/v1"
	"berth/container"
)

// Of many containers it takes the kernel longer to say what they use than it takes to answer
// with it. So all who ask share what was taken, and as long as somebody asks again and again it
// is taken before the next one comes.
const (
	usageAge      = time.Second     // how old statistics may be that somebody gets
	usagePeriod   = usageAge / 2    // how often they are taken while somebody asks
	usageInterest = 5 * time.Second // from one time that somebody asks to the next
)

// meter says what a container uses. ErrNotFound: it has ended.
type meter interface {
	Usage(context.Context, container.ID) (*v1.ResourceStatistics, error)
}

// usages are what containers have used a moment ago. The timestamp of each says when.
type usages struct {
	meter  meter
	wanted chan struct{} // room for one: there are samples that may be asked for again

	mu      sync.Mutex
	samples map[container.ID]*usage
}

type usage struct {
	statistics   *v1.ResourceStatistics // which nobody changes
	taken, asked time.Time
	again        bool // it is not asked for once only
}

func newUsages(m meter) *usages {
	return &usages{meter: m, wanted: make(chan struct{}, 1), samples: make(map[container.ID]*usage)}
}

// of returns what a container uses that was launched at a time; nil: it has ended. It is not to
// be changed.
func (u *usages) of(ctx context.Context, id container.ID, launched time.Time) *v1.ResourceStatistics {
	now := time.Now()
	u.mu.Lock()
	known, again := u.samples[id]
	if again {
		known.asked, known.again = now, true
		if now.Sub(known.taken) < usageAge && known.taken.After(launched) {
			defer u.mu.Unlock()
			return known.statistics
		}
	}
	u.mu.Unlock()
	statistics, err := u.meter.Usage(ctx, id)
	if err != nil {
		return nil
	}
	u.mu.Lock()
	u.samples[id] = &usage{statistics, now, now, again}
	u.mu.Unlock()
	select {
	case u.wanted <- struct{}{}:
	default: // that is known
	}
	return statistics
}

// forget lets the next one who asks get what is so now.
func (u *usages) forget(id container.ID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.samples, id)
}

// keep takes what is asked for again and again, until ctx ends.
func (u *usages) keep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.wanted:
		}
		for ids := u.asked(); ids != nil; ids = u.asked() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(usagePeriod):
			}
			for _, id := range ids {
				u.retake(ctx, id)
			}
		}
	}
}

// asked forgets the samples that nobody has asked for of late, and returns whose are to be taken;
// nil: there are none any more.
func (u *usages) asked() []container.ID {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.samples) == 0 {
		return nil
	}
	ids := make([]container.ID, 0, len(u.samples))
	for id, known := range u.samples {
		switch {
		case time.Since(known.asked) > usageInterest:
			delete(u.samples, id)
		case known.again:
			ids = append(ids, id)
		}
	}
	return ids
}

// retake takes a sample, unless it was forgotten meanwhile.
func (u *usages) retake(ctx context.Context, id container.ID) {
	now := time.Now()
	statistics, err := u.meter.Usage(ctx, id)
	u.mu.Lock()
	defer u.mu.Unlock()
	known, ok := u.samples[id]
	switch {
	case !ok:
	case err != nil: // it has ended
		delete(u.samples, id)
	default:
		known.statistics, known.taken = statistics, now
	}
}
