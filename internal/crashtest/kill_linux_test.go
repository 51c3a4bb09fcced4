package crashtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"berth/engine"
	"berth/internal/disk"
)

// child is this program in a process of its own, which carries out one operation.
type child struct {
	Place     place
	Operation string
	Die       int    // the step at which it kills itself; 0: none
	DieAt     string // the named place at which it does
}

// lived is what a child that lived to its end tells of its operation.
type lived struct {
	Steps  int
	Places []string // in their order, each as often as it was reached
	Error  string
}

// childMain is the life of a child. It returns the exit status.
func childMain(text string) int {
	var c child
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	result, err := c.live()
	if err != nil {
		result.Error = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		return 1
	}
	return 0
}

func (c child) live() (result lived, err error) {
	op, err := findOperation(c.Operation)
	if err != nil {
		return result, err
	}
	var steps atomic.Int64
	places := make(chan string, 1000)
	disk.Intercept(func(step disk.Step) error {
		if n := int(steps.Add(1)); n == c.Die || step.Op == disk.Reached && step.Path == c.DieAt {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		if step.Op == disk.Reached {
			places <- step.Path
		}
		return nil
	})
	ctx := context.Background()
	err = c.Place.with(ctx, func(e *engine.Engine) error { return op.run(ctx, e, c.Place) })
	close(places)
	for name := range places {
		result.Places = append(result.Places, name)
	}
	result.Steps = int(steps.Load())
	return result, err
}

// errKilled says that a child died by its own hand.
var errKilled = errors.New("the child was killed")

// run runs a child to its end. The error is errKilled or that of its operation.
func (c child) run() (result lived, err error) {
	text, err := json.Marshal(c)
	if err != nil {
		return result, err
	}
	self, err := os.Executable()
	if err != nil {
		return result, err
	}
	cmd := exec.Command(self)
	// The race detector has a program linger for a second.
	cmd.Env = append(os.Environ(), childVariable+"="+string(text), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return result, errKilled
	}
	if err == nil {
		err = json.Unmarshal(stdout.Bytes(), &result)
	}
	switch {
	case err != nil:
		return result, fmt.Errorf("%w: %s%s", err, &stdout, &stderr)
	case result.Error != "":
		return result, errors.New(result.Error)
	}
	return result, nil
}

// fewestPlaces is how many named places there are in all operations together, at least.
const fewestPlaces = 24

// Wherever kill -9 meets a process, the next one finds all in order or puts it so.
func TestKilledAtAnyStep(t *testing.T) {
	w := newWorkshop(t)
	all := make(map[string]bool)
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			s := w.newScene(t, "", op.backend)
			want := s.undisturbed(op)
			op.ready(s)
			clean, err := child{Place: s.place, Operation: op.name}.run()
			if err != nil {
				t.Fatal(err)
			}
			op.done(s)
			for _, name := range slices.Compact(slices.Sorted(slices.Values(clean.Places))) {
				all[name] = true
				t.Run("at "+name, func(t *testing.T) {
					s := &scene{t, s.workshop, s.place}
					if !s.kill(op, child{DieAt: name}, want) {
						t.Error("the place was not reached")
					}
				})
			}
			if len(clean.Places) < op.places {
				t.Errorf("it went through the named places %q, want %d", clean.Places, op.places)
			}
			met, tried := 0, 0
			for n := 1; n <= clean.Steps; n += ordinarily(op.stride(clean.Steps), 1) {
				tried++
				t.Run(fmt.Sprintf("at step %d", n), func(t *testing.T) {
					s := &scene{t, s.workshop, s.place}
					if s.kill(op, child{Die: n}, want) {
						met++
					}
				})
			}
			if met < tried*3/4 { // goroutines do not always take the same number of steps
				t.Errorf("it was killed %d times, %d were tried", met, tried)
			}
			t.Logf("%d steps, killed at %d of them and at %q", clean.Steps, met, clean.Places)
		})
	}
	if len(all) < fewestPlaces {
		t.Errorf("the operations went through %d named places, want %d", len(all), fewestPlaces)
	}
}

// stride is how many steps lie between two at which an operation is killed.
func (op operation) stride(steps int) int {
	kills := 25
	if op.variation {
		kills = 6
	}
	return max(1, steps/kills)
}

// kill has a child carry out the operation and be killed at a step, which may not come.
func (s *scene) kill(op operation, c child, want outcome) (killed bool) {
	s.Helper()
	op.ready(s)
	c.Place, c.Operation = s.place, op.name
	_, err := c.run()
	if err != nil && err != errKilled {
		s.Error(err)
	}
	if err == nil {
		op.done(s)
	}
	s.succeedsAgain(op, err != nil, want)
	s.recovers()
	return err == errKilled
}

// Who is killed concerns nobody who works in the same place at the same time.
func TestKilledBesideAnother(t *testing.T) {
	w := newWorkshop(t)
	for _, pair := range []struct{ dies, lives string }{
		{"prune", "pull an archive"},
		{"rmi", "pull an archive"},
		{"pull", "prune"},
		{"repair", "pull an archive"},
		{"provision", "prune"},
	} {
		t.Run(pair.dies+" beside "+pair.lives, func(t *testing.T) {
			dies, err := findOperation(pair.dies)
			if err != nil {
				t.Fatal(err)
			}
			lives, err := findOperation(pair.lives)
			if err != nil {
				t.Fatal(err)
			}
			s := w.newScene(t, "", dies.backend)
			dies.ready(s)
			clean, err := child{Place: s.place, Operation: dies.name}.run()
			if err != nil {
				t.Fatal(err)
			}
			random := random(t)
			for range ordinarily(6, 200) {
				s.killBeside(dies, 1+random.IntN(clean.Steps), lives)
			}
		})
	}
}

func (s *scene) killBeside(dies operation, n int, lives operation) {
	s.Helper()
	lives.ready(s)
	dies.ready(s)
	other := make(chan error)
	go func() {
		_, err := child{Place: s.place, Operation: lives.name}.run()
		other <- err
	}()
	if _, err := (child{Place: s.place, Operation: dies.name, Die: n}).run(); err != nil && err != errKilled {
		s.Errorf("%s: %v", dies.name, err)
	}
	if err := <-other; err != nil {
		s.Errorf("%s, while %s was killed at step %d: %v", lives.name, dies.name, n, err)
	}
	s.recovers(dies.mends...)
	s.noContainer()
}
