package fetch

import (
	"context"
	"slices"
	"sync"
)

// Slots bound how many layers are fetched and unpacked at a time, by all pulls of all stores
// that share them. A pull that has none under way need not wait for the large layers of others:
// it gets a slot beyond the usual number, up to several times as many.
type Slots struct {
	usual, most int

	mu      sync.Mutex
	running int
	of      map[any]int // running, by owner
	waiting []*slotWaiter
}

type slotWaiter struct {
	owner any
	start chan struct{} // closed when it may
}

// NewSlots returns as many as this machine can make use of.
func NewSlots() *Slots { return newSlots(parallel) }

func newSlots(usual int) *Slots { return &Slots{usual: usual, most: 4 * usual, of: make(map[any]int)} }

// acquire waits for a slot for one layer of an owner, who is any value that can be compared.
func (s *Slots) acquire(ctx context.Context, owner any) error {
	w := &slotWaiter{owner, make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	s.startSome()
	s.mu.Unlock()
	select {
	case <-w.start:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := slices.Index(s.waiting, w); at >= 0 {
		s.waiting = slices.Delete(s.waiting, at, at+1)
	} else {
		s.end(owner)
	}
	return context.Cause(ctx)
}

// release gives a slot back.
func (s *Slots) release(owner any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(owner)
}

func (s *Slots) end(owner any) {
	s.running--
	if s.of[owner]--; s.of[owner] == 0 {
		delete(s.of, owner)
	}
	s.startSome()
}

// startSome lets those go for whom there is room, first of all who has the fewest running.
func (s *Slots) startSome() {
	for {
		next := -1
		for i, w := range s.waiting {
			if s.hasRoom(w.owner) && (next < 0 || s.of[w.owner] < s.of[s.waiting[next].owner]) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		w := s.waiting[next]
		s.waiting = slices.Delete(s.waiting, next, next+1)
		s.running++
		s.of[w.owner]++
		close(w.start)
	}
}

func (s *Slots) hasRoom(owner any) bool {
	return s.running < s.usual || s.of[owner] == 0 && s.running < s.most
}
