package isolator

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"berth/container"
)

// Rounds are how a Watcher looks at a container that nothing tells it of: once in an Interval.
type Rounds struct {
	Interval time.Duration
	// Log takes why there was no look, which is no reason to end a container; Undone says it
	// in words: "the disk of a container was not measured".
	Log    *slog.Logger
	Undone string
}

// Watch implements Watcher, by looks that find how the container is to end, or nothing.
// ErrNotFound of a look: there is nothing to look at any more.
func (r Rounds) Watch(ctx context.Context, id container.ID, look func() (*container.Limitation, error)) (*container.Limitation, error) {
	ticker := time.NewTicker(r.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, nil
		case <-ticker.C:
		}
		limitation, err := look()
		switch {
		case ctx.Err() != nil, errors.Is(err, container.ErrNotFound):
			return nil, nil
		case err != nil:
			r.Log.Warn(r.Undone, slog.String("container", id.String()), slog.Any("error", err))
		case limitation != nil:
			return limitation, nil
		}
	}
}
