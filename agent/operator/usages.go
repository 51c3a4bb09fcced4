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
// is taken before the next one comes. For the first one who asks of many there are surveys,
// which take of all containers what they use, whether somebody asks or not.
const (
	usageAge      = time.Second     // how old statistics may be that somebody gets
	usagePeriod   = usageAge / 2    // how often they are taken while somebody asks
	usageInterest = 5 * time.Second // from one time that somebody asks to the next

	usageMany    = 64               // an answer about fewer containers waits for the kernel
	surveyPeriod = 15 * time.Second // between two surveys
	surveyAge    = 2 * surveyPeriod // how old statistics may be in an answer about many
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
	samples map[container.ID]*usage // of containers that somebody has asked for
	survey  map[container.ID]sample // the last one
	// forgotten are containers whose samples of a survey that goes on count for nothing.
	forgotten map[container.ID]struct{}
}

// sample is what a container used at a time.
type sample struct {
	statistics *v1.ResourceStatistics // which nobody changes
	taken      time.Time
}

// usage is a sample that somebody has asked for.
type usage struct {
	sample
	asked time.Time // last
	ahead int       // how often it is to be taken before somebody asks again
}

func newUsages(m meter) *usages {
	return &usages{meter: m, wanted: make(chan struct{}, 1), samples: make(map[container.ID]*usage), forgotten: make(map[container.ID]struct{})}
}

// of returns what a container uses that was launched at a time, for an answer about so many;
// nil: it has ended. It is not to be changed.
func (u *usages) of(ctx context.Context, id container.ID, launched time.Time, many int) *v1.ResourceStatistics {
	now, age, ahead := time.Now(), usageAge, 0
	if many > usageMany {
		age = surveyAge
	}
	u.mu.Lock()
	known, again := u.samples[id]
	if again {
		ahead = int(usageInterest / usagePeriod)
		known.asked, known.ahead = now, ahead
	} else if surveyed, ok := u.survey[id]; ok {
		known = &usage{surveyed, now, 1}
	}
	if known != nil && now.Sub(known.taken) < age && known.taken.After(launched) {
		defer u.mu.Unlock()
		u.keep(id, known)
		return known.statistics
	}
	u.mu.Unlock()
	statistics, err := u.meter.Usage(ctx, id)
	if err != nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.keep(id, &usage{sample{statistics, now}, now, ahead})
	return statistics
}

// keep lets others have a sample, too. The caller has mu.
func (u *usages) keep(id container.ID, of *usage) {
	u.samples[id] = of
	select {
	case u.wanted <- struct{}{}:
	default: // that is known
	}
}

// forget lets the next one who asks get what is so now.
func (u *usages) forget(id container.ID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.samples, id)
	delete(u.survey, id)
	u.forgotten[id] = struct{}{}
}

// surveyAll takes a survey again and again, until ctx ends. Of few containers none is taken.
func (u *usages) surveyAll(ctx context.Context, containers func() []container.ID) {
	for {
		u.takeSurvey(ctx, containers())
		select {
		case <-ctx.Done():
			return
		case <-time.After(surveyPeriod):
		}
	}
}

func (u *usages) takeSurvey(ctx context.Context, ids []container.ID) {
	u.mu.Lock()
	u.forgotten = make(map[container.ID]struct{})
	u.mu.Unlock()
	if len(ids) <= usageMany {
		ids = nil
	}
	survey := make(map[container.ID]sample, len(ids))
	for _, id := range ids {
		now := time.Now()
		if statistics, err := u.meter.Usage(ctx, id); err == nil { // it runs
			survey[id] = sample{statistics, now}
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for id := range u.forgotten {
		delete(survey, id)
	}
	u.survey = survey
}

// takeAhead takes what is asked for again and again, until ctx ends.
func (u *usages) takeAhead(ctx context.Context) {
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
		case known.ahead > 0:
			known.ahead--
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
		known.sample = sample{statistics, now}
	}
}
