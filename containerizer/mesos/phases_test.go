//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"berth/container"
	"berth/state"
)

func mustID(t testing.TB, value string) container.ID {
	t.Helper()
	id, err := container.ParseID(value)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// script is a launch whose phases write down what happens to them.
type script struct {
	*launch
	names []phaseName
	// fail is what the do or the undo of a phase returns: "do PREPARING".
	fail   map[string]error
	before map[string]func()
	events []string
	// inUndo is checked in each undo.
	inUndo func(context.Context)
}

func newScript(t *testing.T) *script {
	layout, err := state.NewLayout(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l := New(Options{Layout: layout, Log: slog.New(slog.DiscardHandler)}).newLaunch(mustID(t, "c"))
	if err := os.MkdirAll(l.records.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return &script{launch: l, names: []phaseName{admitted, provisioned, prepared, forked, isolated, fetched, released, running},
		fail: map[string]error{}, before: map[string]func(){}, inUndo: func(context.Context) {}}
}

func (s *script) happen(event string) error {
	s.events = append(s.events, event)
	if before := s.before[event]; before != nil {
		before()
	}
	return s.fail[event]
}

func (s *script) table() (phases []phase) {
	for _, name := range s.names {
		p := phase{name: name, do: func(context.Context) error { return s.happen("do " + string(name)) }}
		if !slices.Contains([]phaseName{isolated, fetched, released, running}, name) {
			p.undo = func(ctx context.Context) error {
				s.inUndo(ctx)
				return s.happen("undo " + string(name))
			}
		}
		phases = append(phases, p)
	}
	return phases
}

const (
	doAll   = "do ADMITTED,do PROVISIONING,do PREPARING,do FORKING,do ISOLATING,do FETCHING,do RELEASING,do RUNNING"
	undoAll = "undo FORKING,undo PREPARING,undo PROVISIONING,undo ADMITTED"
)

func (s *script) check(t *testing.T, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.Split(want, ","), s.events); diff != "" {
		t.Error(diff)
	}
}

func TestALaunchThatSucceedsUndoesNothing(t *testing.T) {
	s := newScript(t)
	if err := s.run(t.Context(), s.table()); err != nil {
		t.Fatal(err)
	}
	s.check(t, doAll)
}

// Of an interrupted launch the record must say what there may be to undo.
func TestThePhaseIsRecordedBeforeItIsEntered(t *testing.T) {
	s := newScript(t)
	for _, name := range s.names[1:] { // admit makes the record by itself
		s.before["do "+string(name)] = func() {
			if data, err := os.ReadFile(s.records.Phase()); strings.TrimSpace(string(data)) != string(name) {
				t.Errorf("in the phase %s the record says %q, %v", name, data, err)
			}
		}
	}
	if err := s.run(t.Context(), s.table()); err != nil {
		t.Fatal(err)
	}
}

func TestAFailedPhaseAndThoseBeforeAreUndoneBackwards(t *testing.T) {
	for failing, want := range map[phaseName]string{
		admitted:    "do ADMITTED,undo ADMITTED",
		provisioned: "do ADMITTED,do PROVISIONING,undo PROVISIONING,undo ADMITTED",
		prepared:    "do ADMITTED,do PROVISIONING,do PREPARING,undo PREPARING,undo PROVISIONING,undo ADMITTED",
		forked:      "do ADMITTED,do PROVISIONING,do PREPARING,do FORKING," + undoAll,
		isolated:    "do ADMITTED,do PROVISIONING,do PREPARING,do FORKING,do ISOLATING," + undoAll,
		fetched:     "do ADMITTED,do PROVISIONING,do PREPARING,do FORKING,do ISOLATING,do FETCHING," + undoAll,
		released:    "do ADMITTED,do PROVISIONING,do PREPARING,do FORKING,do ISOLATING,do FETCHING,do RELEASING," + undoAll,
		running:     doAll + "," + undoAll,
	} {
		t.Run(string(failing), func(t *testing.T) {
			s := newScript(t)
			cause := errors.New("the cause")
			s.fail["do "+string(failing)] = cause
			if err := s.run(t.Context(), s.table()); !errors.Is(err, cause) {
				t.Errorf("error %v, want the cause", err)
			}
			s.check(t, want)
			if s.left != nil {
				t.Errorf("left: %v", s.left)
			}
		})
	}
}

// What lies before a phase that cannot be undone may still be in use.
func TestUndoingStopsWhereItFailsAndSaysSo(t *testing.T) {
	s := newScript(t)
	cause, second := errors.New("the cause"), errors.New("the second")
	s.fail["do RUNNING"], s.fail["undo PREPARING"] = cause, second
	err := s.run(t.Context(), s.table())
	if !errors.Is(err, cause) || !errors.Is(err, second) || !strings.Contains(err.Error(), "clean up container c") {
		t.Errorf("error %v, want both and what was tried", err)
	}
	s.check(t, doAll+",undo FORKING,undo PREPARING")
	if !errors.Is(s.left, second) {
		t.Errorf("left: %v", s.left)
	}
}

func TestACancelledLaunchEntersNoFurtherPhase(t *testing.T) {
	for _, during := range []phaseName{admitted, provisioned, prepared, forked, isolated, fetched} {
		t.Run(string(during), func(t *testing.T) {
			s := newScript(t)
			cause := errors.New("the cause")
			ctx, cancel := context.WithCancelCause(t.Context())
			s.before["do "+string(during)] = func() { cancel(cause) }
			s.inUndo = func(ctx context.Context) {
				if ctx.Err() != nil {
					t.Error("the undoing is cancelled too")
				}
				if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > undoTimeout {
					t.Error("the undoing has no deadline")
				}
			}
			if err := s.run(ctx, s.table()); !errors.Is(err, cause) {
				t.Errorf("error %v, want the cause", err)
			}
			if last := s.events[len(s.events)-1]; last != "undo ADMITTED" {
				t.Errorf("the last event is %q", last)
			}
			dos := 0
			for _, event := range s.events {
				if strings.HasPrefix(event, "do ") {
					dos++
				}
			}
			for i, name := range s.names {
				if name == during && dos != i+1 {
					t.Errorf("%d phases were entered: %v", dos, s.events)
				}
			}
		})
	}
}

func TestALaunchThatIsCancelledBeforehandDoesNothing(t *testing.T) {
	s := newScript(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.run(ctx, s.table()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	s.check(t, "undo ADMITTED") // which never happened
}

func TestAPhaseThatCannotBeRecordedIsNotEntered(t *testing.T) {
	s := newScript(t)
	s.before["do ADMITTED"] = func() { os.RemoveAll(s.records.Dir) }
	err := s.run(t.Context(), s.table())
	if err == nil || !strings.Contains(err.Error(), "record the phase") {
		t.Errorf("error %v", err)
	}
	s.check(t, "do ADMITTED,undo PROVISIONING,undo ADMITTED")
}

// Every phase that makes something has an undo, and the record goes last.
func TestTheTable(t *testing.T) {
	l := New(Options{Log: slog.New(slog.DiscardHandler)}).newLaunch(mustID(t, "c"))
	var got []string
	for _, p := range l.phases() {
		got = append(got, fmt.Sprintf("%s %s %v", p.name, p.state, p.undo != nil))
	}
	want := []string{"ADMITTED PROVISIONING true", "PROVISIONING PROVISIONING true", "PREPARING PREPARING true", "FORKING PREPARING true",
		"ISOLATING ISOLATING false", "FETCHING FETCHING false", "RELEASING FETCHING false", "RUNNING RUNNING false"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
