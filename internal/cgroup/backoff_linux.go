package cgroup

import (
	"context"
	"time"
)

const (
	firstPause = 100 * time.Microsecond
	maxPause   = 10 * time.Millisecond
)

// backoff waits between two looks at something of which the kernel gives no notice.
// The zero value begins with the shortest pause.
type backoff struct {
	last time.Duration
}

// pause waits, each time twice as long as before up to a bound. It returns the
// context's error when that ended first.
func (b *backoff) pause(ctx context.Context) error {
	b.last = min(max(firstPause, 2*b.last), maxPause)
	timer := time.NewTimer(b.last)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
