package fetch

import (
	"context"
	"testing"
	"time"
)

func TestSlotsAreShared(t *testing.T) {
	s := newSlots(2)
	begin := func(owner string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		return s.acquire(ctx, owner)
	}
	for i, step := range []struct {
		owner string
		goes  bool
	}{{"big", true}, {"big", true}, {"big", false}, {"small", true}, {"small", false}, {"third", true}} {
		if err := begin(step.owner); (err == nil) != step.goes {
			t.Errorf("step %d, %s: %v", i, step.owner, err)
		}
	}
	s.release("big")
	s.release("third")
	if err := begin("big"); err == nil {
		t.Error("big goes beyond the usual number")
	}
	s.release("small")
	if err := begin("big"); err != nil {
		t.Error(err)
	}
	s.release("big")
	s.release("big")
	if s.running != 0 || len(s.of) != 0 || len(s.waiting) != 0 {
		t.Errorf("left: %d, %v, %d", s.running, s.of, len(s.waiting))
	}
}
