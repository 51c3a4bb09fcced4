//go:build linux

package mesos

import (
	"context"
	"errors"
	"testing"
	"time"

	"berth/state"
)

// One at a time has the lock of the runtime directory, of this process and of all others.
func TestTheLockOfTheRuntimeDirectory(t *testing.T) {
	layout, err := state.NewLayout(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	one, another := New(Options{Layout: layout}), New(Options{Layout: layout})
	for round := range 3 { // whoever has given up waiting keeps nobody from it
		lock, err := one.lockRuntime(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := min(round, 1) * recordFormat; lock.format != want {
			t.Errorf("the format is %d, not %d", lock.format, want)
		}
		if err := one.writeFormat(); err != nil {
			t.Error(err)
		}
		for _, c := range []*Containerizer{one, another} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			if _, err := c.lockRuntime(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a second one: %v", err)
			}
			cancel()
		}
		if err := lock.Unlock(); err != nil {
			t.Error(err)
		}
	}
}
