// Package stages tells where the time of a piece of work goes. At each instant the
// work is in exactly one stage, so the times of its stages add up to the whole.
//
// A layer of a pull goes through these, in this order:
//
//	queue       others have their turn
//	connect     until the request that is answered with the blob has a connection: name
//	            service, TCP, TLS, tokens, redirects
//	first byte  from there to the first byte of the blob
//	transfer    \ a pipeline, in which each instant belongs to the part that the others
//	inflate      } wait for: transfer while the inflater waits for bytes, inflate while
//	unpack      / the unpacker waits for the inflater, and else unpack
//	wait        it is unpacked, its siblings are not
//	sync        until it is durable and visible
package stages

import (
	"context"
	"sync"
	"time"
)

// Stage is a part of some work.
type Stage string

// The stages of a layer, see above.
const (
	Queue     Stage = "queue"
	Connect   Stage = "connect"
	FirstByte Stage = "first byte"
	Transfer  Stage = "transfer"
	Inflate   Stage = "inflate"
	Unpack    Stage = "unpack"
	Wait      Stage = "wait"
	Sync      Stage = "sync"
)

// The stages of a pull. While it fetches, each layer is in one of those above.
const (
	Resolve Stage = "resolve" // from the name to the manifest and the configuration
	Hold    Stage = "hold"    // which layers are there; after an unclean shutdown, verified
	Fetch   Stage = "fetch"
	Record  Stage = "record"
)

// Layer and Pull are the stages of both in their order.
var (
	Layer = []Stage{Queue, Connect, FirstByte, Transfer, Inflate, Unpack, Wait, Sync}
	Pull  = []Stage{Resolve, Hold, Fetch, Record}
)

// Spent is how long the work was in a stage.
type Spent struct {
	Stage Stage         `json:"stage"`
	Time  time.Duration `json:"ns"`
}

// Clock measures one piece of work. Several goroutines may use it. Its methods do
// nothing on nil, for work that nobody measures.
type Clock struct {
	mu    sync.Mutex
	order []Stage
	spent map[Stage]time.Duration
	since time.Time // not charged yet
	stage Stage     // entered last
	// A pipeline runs in the stage that was entered last, which then counts for nothing.
	flowing         bool
	starvedUnpacker bool
	starvedInflater bool
}

// Start starts a clock in the first of the stages that there are.
func Start(order ...Stage) *Clock { return StartAt(time.Now(), order...) }

// StartAt is Start at an instant that has passed.
func StartAt(at time.Time, order ...Stage) *Clock {
	return &Clock{order: order, spent: make(map[Stage]time.Duration), since: at, stage: order[0]}
}

// Enter goes on to a stage, and returns the instant.
func (c *Clock) Enter(s Stage) time.Time {
	now := time.Now()
	c.EnterAt(s, now)
	return now
}

// EnterAt is Enter at an instant that has passed, but not before the last change.
func (c *Clock) EnterAt(s Stage, at time.Time) {
	c.change(at, func() { c.stage, c.flowing = s, false })
}

// Flow goes on to the stages of the pipeline. Its unpacker waits for the inflater, and
// that one works.
func (c *Clock) Flow() {
	c.change(time.Now(), func() { c.flowing, c.starvedUnpacker, c.starvedInflater = true, true, false })
}

// UnpackerWaits says whether the unpacker waits for the inflater.
func (c *Clock) UnpackerWaits(yes bool) {
	c.change(time.Now(), func() { c.starvedUnpacker = yes })
}

// InflaterWaits says whether the inflater waits for bytes of the blob.
func (c *Clock) InflaterWaits(yes bool) {
	c.change(time.Now(), func() { c.starvedInflater = yes })
}

// change charges the time until at, then changes what goes on.
func (c *Clock) change(at time.Time, to func()) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.charge(at)
	to()
}

// StopAt ends the measurement at an instant that has passed, and returns the stages in
// their order, those without any time as well.
func (c *Clock) StopAt(at time.Time) []Spent {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.charge(at)
	all := make([]Spent, len(c.order))
	for i, s := range c.order {
		all[i] = Spent{s, c.spent[s]}
	}
	return all
}

// charge charges the time since the last change to the stage that it was.
func (c *Clock) charge(at time.Time) {
	took := at.Sub(c.since)
	if took <= 0 {
		return
	}
	c.spent[c.current()] += took
	c.since = at
}

func (c *Clock) current() Stage {
	switch {
	case !c.flowing:
		return c.stage
	case !c.starvedUnpacker:
		return Unpack
	case c.starvedInflater:
		return Transfer
	default:
		return Inflate
	}
}

// Sum is the time of all stages.
func Sum(all []Spent) (sum time.Duration) {
	for _, s := range all {
		sum += s.Time
	}
	return sum
}

// Slowest is the stage that took the longest, the first of several.
func Slowest(all []Spent) (slowest Spent) {
	for i, s := range all {
		if i == 0 || s.Time > slowest.Time {
			slowest = s
		}
	}
	return slowest
}

type contextKey struct{}

// With returns a context that carries the clock to whoever does part of the work.
func With(ctx context.Context, c *Clock) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// Of returns the clock that the context carries, or nil.
func Of(ctx context.Context) *Clock {
	c, _ := ctx.Value(contextKey{}).(*Clock)
	return c
}
