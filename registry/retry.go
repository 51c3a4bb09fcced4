package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"berth/container"
)

const (
	defaultAttempts = 5
	defaultBackoff  = 250 * time.Millisecond
	maxBackoff      = 30 * time.Second

	// maxWait is the longest that a registry may ask for; who asks for more gets its error
	// told to the caller.
	maxWait = time.Minute
)

// busyError is an answer that says how long to wait before the next request.
type busyError struct {
	error
	wait time.Duration
}

func (e *busyError) Unwrap() error { return e.error }

// parseRetryAfter reads the field Retry-After (RFC 9110, section 10.2.3): seconds, or a
// date.
func parseRetryAfter(s string, now time.Time) (time.Duration, bool) {
	s = strings.TrimSpace(s)
	if s == "" {
		return 0, false
	}
	if seconds, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	date, err := http.ParseTime(s)
	if err != nil {
		return 0, false
	}
	return max(0, date.Sub(now)), true
}

// temporary reports whether what failed may succeed if it is tried again.
func temporary(err error) bool {
	var unknown *net.DNSError
	if errors.As(err, &unknown) && unknown.IsNotFound {
		return false
	}
	return errors.Is(err, container.ErrUnavailable)
}

// try asks one place after the other, and all of them again while that may help.
func (c *Client) try(ctx context.Context, places []endpoint, ask func(endpoint) error) error {
	for failures := 1; ; failures++ {
		err := round(ctx, places, ask)
		if err == nil || failures >= c.attempts || !temporary(err) {
			return err
		}
		if err := c.pause(ctx, failures, err); err != nil {
			return err
		}
	}
}

// round asks one place after the other until one answers. The error is that of the registry
// itself; what the mirrors said stands behind it.
func round(ctx context.Context, places []endpoint, ask func(endpoint) error) error {
	var decisive error
	var beside []string
	for _, e := range places {
		err := ask(e)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if decisive != nil {
			beside = append(beside, decisive.Error())
		}
		decisive = err
	}
	switch {
	case decisive == nil:
		return fmt.Errorf("%w: no mirror may be asked for this, and the registry itself is not configured", container.ErrFailedPrecondition)
	case len(beside) > 0:
		return fmt.Errorf("%w (before that: %s)", decisive, strings.Join(beside, "; "))
	}
	return decisive
}

// pause waits before what has failed is tried again. If the registry wants a longer wait
// than is sensible, the error is the one that it answered with.
func (c *Client) pause(ctx context.Context, failures int, why error) error {
	wait := min(c.backoff<<min(failures-1, 16), maxBackoff)
	wait = wait/2 + rand.N(wait) // many who failed together do not come back together
	if busy := (*busyError)(nil); errors.As(why, &busy) {
		if busy.wait > maxWait {
			return why
		}
		wait = max(wait, busy.wait+rand.N(c.backoff))
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
