package layer

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"berth/image"
)

// However many lease layers all the time, in two processes, a sweep gets its turn, and
// they get theirs while sweeps follow each other. The limit is there to end a test that
// would never end.
func TestNobodyStarves(t *testing.T) {
	const workers, sweeps = 32, 50
	s := newStore(t, testLimits)
	stores := []*Store{s, openStore(t, s.Dir(), testLimits)}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	swept := make(chan struct{})
	var all sync.WaitGroup
	waits := make([][]time.Duration, workers)
	for n := range workers {
		all.Go(func() {
			for ended := false; !ended; {
				begin := time.Now()
				l, err := stores[n%2].Lease(ctx)
				if err != nil {
					t.Errorf("worker %d: %v", n, err)
					return
				}
				waits[n] = append(waits[n], time.Since(begin))
				if _, err := l.Hold(ctx, Tree, []image.Digest{image.DigestOf(nil)}); err != nil {
					t.Errorf("worker %d: %v", n, err)
				}
				release(t, l)
				select {
				case <-swept:
					ended = true
				default:
				}
			}
		})
	}
	var sweeping []time.Duration
	for n := range sweeps {
		begin := time.Now()
		if _, err := stores[n%2].Sweep(ctx, func(map[image.Digest]bool) (Decision, error) { return Decision{}, nil }); err != nil {
			t.Errorf("sweep %d: %v", n, err)
		}
		sweeping = append(sweeping, time.Since(begin))
	}
	close(swept)
	all.Wait()
	leasing := slices.Concat(waits...)
	t.Logf("%d sweeps took %v at most, %d leases %v", sweeps, slices.Max(sweeping), len(leasing), slices.Max(leasing))
}
