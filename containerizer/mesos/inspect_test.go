//go:build linux

package mesos

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/container"
	"berth/containerizer"
)

func TestInspectTellsOfAContainerInEachState(t *testing.T) {
	r := newRig(t)
	before := time.Now()
	c := r.start(shell("echo ready; sleep 1000"))
	c.says("ready")
	found, err := r.Inspect(t.Context(), c.id)
	if err != nil || found.State != container.Running || found.Pid == 0 || found.Termination != nil || !found.Ended.IsZero() {
		t.Errorf("while it runs: %+v, %v", found, err)
	}
	if found.Launched.Before(before) || found.Launched.After(time.Now()) {
		t.Errorf("launched at %v, which is not after %v", found.Launched, before)
	}
	if got := found.Config.GetImageArguments(); !slices.Equal(got, []string{"sh", "-c", "echo ready; sleep 1000"}) {
		t.Errorf("its arguments are %q", got)
	}
	if _, err := r.Destroy(t.Context(), c.id); err != nil {
		t.Fatal(err)
	}
	found, err = r.Inspect(t.Context(), c.id)
	if err != nil || found.State != container.Ended || found.Pid != 0 || found.Termination == nil || found.Ended.Before(found.Launched) {
		t.Errorf("when it has ended: %+v, %v", found, err)
	}
	c.wait()
	if _, err := r.Inspect(t.Context(), c.id); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("when it is gone: %v", err)
	}
}

func TestWhatIsKnownOfAnEndedContainerSurvivesTheAgent(t *testing.T) {
	r := newRig(t)
	r.diesAfter(helper{ID: "c", Args: []string{"sh", "-c", "exit 9"}})
	for range 2 { // the first one sees it end, the second one reads what that one recorded
		r.agent()
		if _, err := r.Wait(t.Context(), mustID(t, "c")); err != nil {
			t.Fatal(err)
		}
		found, err := r.Inspect(t.Context(), mustID(t, "c"))
		if err != nil || found.State != container.Ended || found.Termination.ExitCode() != 9 {
			t.Errorf("%+v, %v", found, err)
		}
		if got := found.Config.GetImageArguments(); len(got) != 3 || got[2] != "exit 9" {
			t.Errorf("its arguments are %q", got)
		}
		if found.Launched.IsZero() || found.Ended.Before(found.Launched) {
			t.Errorf("launched at %v, ended at %v", found.Launched, found.Ended)
		}
		e, err := r.find(mustID(t, "c"))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.launch.disown(); err != nil { // as the kernel would, of a dead agent
			t.Fatal(err)
		}
	}
	r.agent()
	r.gone(mustID(t, "c"))
}

func TestProcessesAreThoseOfTheContainer(t *testing.T) {
	r := newRig(t)
	c := r.start(shell("sleep 1234 & until read -r name </proc/$!/comm && [ $name = sleep ]; do :; done; echo ready; wait"))
	c.says("ready")
	processes, err := r.Processes(t.Context(), c.id)
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, p := range processes {
		commands = append(commands, p.Command)
		if time.Since(p.Started) < 0 || time.Since(p.Started) > time.Hour || p.Parent == 0 || p.UID != 0 {
			t.Errorf("%+v", p)
		}
	}
	if !slices.ContainsFunc(commands, func(c string) bool { return strings.HasSuffix(c, "sleep 1234") }) || len(commands) != 3 {
		t.Errorf("the commands are %q", commands)
	}
	if slices.ContainsFunc(processes, func(p containerizer.Process) bool { return p.Pid == os.Getpid() }) {
		t.Error("this process is one of them")
	}
	if _, err := r.Destroy(t.Context(), c.id); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Processes(t.Context(), c.id); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("of an ended one: %v", err)
	}
	c.wait()
}

func TestWhoeverWantsToKnowIsTold(t *testing.T) {
	var mu sync.Mutex
	var events []containerizer.Event
	r := newRigWith(t, "overlay", func(p *parts) {
		p.agent = true
		p.observe = func(e containerizer.Event) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, e)
		}
	})
	c := r.start(shell("exit 3"))
	c.wait()
	if _, err := r.try(r.newID(), config("no/such:image", "true")); err == nil {
		t.Error("a container was made of no image")
	}
	mu.Lock()
	defer mu.Unlock()
	var kinds []containerizer.EventKind
	for _, e := range events {
		kinds = append(kinds, e.Kind)
	}
	if !slices.Equal(kinds, []containerizer.EventKind{containerizer.Launched, containerizer.Ended, containerizer.LaunchFailed}) {
		t.Fatalf("told of %q", kinds)
	}
	if ended := events[1]; ended.ID != c.id || ended.Termination.ExitCode() != 3 || ended.Err != nil {
		t.Errorf("told of its end: %+v", ended)
	}
	if !errors.Is(events[2].Err, container.ErrNotFound) {
		t.Errorf("told of the failure: %v", events[2].Err)
	}
}
