//go:build linux

package initproc

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// Whoever waits gives up when it wants to, also while another one awaits the end itself.
func TestSeveralWaitForTheEndOfAProcess(t *testing.T) {
	for name, first := range map[string]func(*testing.T) context.Context{
		"the first never gives up": func(*testing.T) context.Context { return context.Background() },
		"the first may give up":    (*testing.T).Context,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, ended, result := newEnd(), make(chan struct{}), errors.New("that of the end")
				calls := 0
				await := func() error { calls++; <-ended; return result }
				returned := make(chan error, 2)
				go func() { returned <- e.wait(first(t), await) }()
				synctest.Wait()
				ctx, cancel := context.WithCancelCause(t.Context())
				go func() { returned <- e.wait(ctx, await) }()
				synctest.Wait()
				impatient := errors.New("impatient")
				cancel(impatient)
				if err := <-returned; err != impatient {
					t.Errorf("who gives up gets %v", err)
				}
				close(ended)
				if err := errors.Join(<-returned, e.wait(t.Context(), await)); !errors.Is(err, result) || calls != 1 {
					t.Errorf("who waits gets %v; the end was awaited %d times", err, calls)
				}
			})
		})
	}
}
