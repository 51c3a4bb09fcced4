package crashtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"berth/engine"
	"berth/internal/disk"
)

// faultsFor returns the faults that a step may have. Those that matter most to it come
// first, the others take turns with n.
func faultsFor(step disk.Step, n int) []error {
	all := []error{syscall.EIO, syscall.ENOSPC, syscall.EMFILE, syscall.EDQUOT, syscall.EINTR}
	turn := n % len(all)
	all = slices.Concat(all[turn:], all[:turn])
	switch step.Op {
	case "fsync", "syncfs":
		return []error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT}
	case "write":
		return append([]error{disk.ErrShort}, all...)
	case disk.Reached:
		return []error{syscall.EIO}
	}
	return all
}

// saboteur lets the n-th step of an operation fail, or all from that one on.
type saboteur struct {
	n       int
	round   int // which of the step's faults
	forEver bool

	mu    sync.Mutex
	steps int
	step  disk.Step // that failed
	fault error
}

func (s *saboteur) intercept(step disk.Step) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps++
	if s.forEver && s.steps >= s.n {
		s.step, s.fault = step, syscall.EIO
		return s.fault
	}
	if s.steps == s.n {
		if faults := faultsFor(step, s.n); s.round < len(faults) {
			s.step, s.fault = step, faults[s.round]
		}
		return s.fault
	}
	return nil
}

// allows says whether an operation that has met the fault may end with err.
func (s *saboteur) allows(err error) bool {
	switch {
	case s.fault == syscall.EINTR:
		return err == nil // the call is made again
	case err == nil:
		return true // when it is the truth, which is looked into
	case errors.Is(s.fault, disk.ErrShort):
		return errors.Is(err, syscall.ENOSPC)
	}
	return errors.Is(err, s.fault)
}

// Whatever step of whatever operation fails: it is told, and what was tried can be tried
// again.
func TestAFaultAtAnyStep(t *testing.T) {
	w := newWorkshop(t)
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			s := w.newScene(t, "", op.backend)
			want := s.undisturbed(op)
			steps := s.count(op)
			every := 1
			if op.variation {
				every = ordinarily(3, 1)
			}
			met := 0
			for n := 1; n <= steps; n += every {
				t.Run(fmt.Sprintf("step %d", n), func(t *testing.T) {
					s := &scene{t, s.workshop, s.place}
					met += s.sabotage(op, sabotages(n), want)
				})
			}
			if met < steps/every {
				t.Errorf("it met %d faults at %d steps", met, steps/every)
			}
			t.Logf("%d steps, %d faults", steps, met)
		})
	}
}

// sabotages are what is tried at one step, one after the other: every fault that it may have,
// or now one and now another of the two that matter most.
func sabotages(n int) (all []*saboteur) {
	const kinds = 6
	if soak {
		for round := range kinds {
			all = append(all, &saboteur{n: n, round: round})
		}
	} else {
		all = append(all, &saboteur{n: n, round: n % 2})
	}
	if soak || n%5 == 0 {
		all = append(all, &saboteur{n: n, forEver: true})
	}
	return all
}

// do carries an operation out.
func (s *scene) do(op operation) error {
	ctx := context.WithoutCancel(s.Context())
	return s.with(ctx, func(e *engine.Engine) error { return op.run(ctx, e, s.place) })
}

// undisturbed carries an operation out and returns what comes of it.
func (s *scene) undisturbed(op operation) outcome {
	s.Helper()
	op.ready(s)
	if err := s.do(op); err != nil {
		s.Fatal(err)
	}
	op.done(s)
	s.recovers()
	return s.look()
}

// count counts the steps of an operation.
func (s *scene) count(op operation) int {
	s.Helper()
	op.ready(s)
	none := &saboteur{}
	restore := disk.Intercept(none.intercept)
	err := s.do(op)
	restore()
	if err != nil {
		s.Fatal(err)
	}
	op.done(s)
	return none.steps
}

// sabotage tries an operation once with each fault, and then without. It returns how many
// faults the operation met.
func (s *scene) sabotage(op operation, faults []*saboteur, want outcome) (met int) {
	s.Helper()
	interrupted := false
	for _, saboteur := range faults {
		switch {
		case !interrupted:
			op.ready(s)
		case op.owed != nil:
			op.owed(s)
		}
		restore := disk.Intercept(saboteur.intercept)
		err := s.do(op)
		restore()
		s.Logf("%v at %s %s: %v", saboteur.fault, saboteur.step.Op, filepath.Base(saboteur.step.Path), err)
		if saboteur.fault != nil {
			met++
		}
		if !saboteur.allows(err) {
			s.Errorf("the fault was %v, the error is %v", saboteur.fault, err)
		}
		if open, err := s.openFiles(); err != nil || len(open) > 0 {
			s.Errorf("still open are %q, %v", open, err)
		}
		if interrupted = err != nil; !interrupted {
			op.done(s)
		}
	}
	s.succeedsAgain(op, interrupted, want)
	if soak || faults[0].n%4 == 0 { // it takes long, and has been done before the last attempt
		s.recovers()
	}
	return met
}

// succeedsAgain checks that an interrupted operation has left nothing that stands in
// its own way or in that of others. One that was not interrupted has done its work.
func (s *scene) succeedsAgain(op operation, interrupted bool, want outcome) {
	s.Helper()
	if !interrupted {
		s.recovers()
	} else {
		s.recovers(op.mends...)
		if op.owed != nil {
			op.owed(s)
		}
		if err := s.do(op); err != nil {
			s.Errorf("tried again: %v", err)
		}
		op.done(s)
	}
	s.wantSame(want, s.look())
}
