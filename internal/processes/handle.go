package processes

import (
	"context"
	"sync"
)

// ending is what those wait for who wait for the end of a process.
type ending struct {
	watch sync.Once
	done  chan struct{}
	err   error
}

func newEnding() ending { return ending{done: make(chan struct{})} }

// Wait returns when the process has ended.
func (h *Handle) Wait(ctx context.Context) error {
	h.watch.Do(func() {
		go func() { // ends with the process
			defer close(h.done)
			h.err = h.Await()
		}()
	})
	select {
	case <-h.done:
		return h.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
