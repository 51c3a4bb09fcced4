//go:build linux

package mesos

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/filelock"
)

func asAgent(p *parts) { p.agent = true }

// agent recovers as the agent does that comes back.
func (r *rig) agent() {
	r.Helper()
	r.open(asAgent)
	if err := r.Recover(r.Context()); err != nil {
		r.Errorf("Recover: %v", err)
	}
}

// diesAfter has a helper launch containers and die once they run.
func (r *rig) diesAfter(h helper) {
	r.Helper()
	h.Agent = true
	p := r.startHelper(h)
	p.says("ready")
	p.says("launched")
	p.kill()
}

// gone destroys and removes what a test has taken up.
func (r *rig) gone(id container.ID) {
	r.Helper()
	if _, err := r.Destroy(context.Background(), id); err != nil {
		r.Error(err)
	}
	if err := r.Remove(context.Background(), id); err != nil {
		r.Error(err)
	}
	r.assertNothingLeft()
}

func TestAnAgentThatComesBackTakesUpWhatRuns(t *testing.T) {
	r := newRig(t)
	r.diesAfter(helper{ID: "c", Args: []string{"sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.01; done"}})
	id := mustID(t, "c")
	// Another berth process leaves it alone, and does not destroy it.
	if err := r.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := r.Destroy(t.Context(), id); !errors.Is(err, container.ErrFailedPrecondition) {
		t.Errorf("Destroy by another process: %v", err)
	}
	if err := r.Remove(t.Context(), id); !errors.Is(err, container.ErrFailedPrecondition) {
		t.Errorf("Remove by another process: %v", err)
	}
	r.agent()
	status, err := r.Status(t.Context(), id)
	if err != nil || status.State != container.Running || syscall.Kill(status.Pid, 0) != nil {
		t.Errorf("%+v, %v", status, err)
	}
	if usage, err := r.Usage(t.Context(), id); err != nil || usage.GetMemTotalBytes() == 0 || usage.GetProcesses() < 2 {
		t.Errorf("usage %v, %v", usage, err)
	}
	child, err := r.try(r.child(id, "child"), config(baseImage, "sh", "-c", "exit 5"))
	if err != nil {
		t.Fatal(err)
	}
	if o := child.wait(); o.code() != 5 {
		t.Errorf("a child ended with %d", o.code())
	}
	if o := (&box{rig: r, id: id}).runIn("debug", debug("ls -d /mnt/mesos/sandbox")); o.stdout != "/mnt/mesos/sandbox\n" {
		t.Errorf("a look into it: %q %q %v", o.stdout, o.stderr, o.err)
	}
	if err := r.Stop(t.Context(), id); err != nil {
		t.Error(err)
	}
	for range 2 {
		if got, err := r.Wait(t.Context(), id); err != nil || got.ExitCode() != 9 {
			t.Errorf("%+v, %v", got, err)
		}
	}
	r.gone(id)
}

// A process that an agent cloned as it was killed has its locks until it executes its program.
func TestAnAgentWaitsForTheClonesOfTheOneBefore(t *testing.T) {
	r, id := newRig(t), mustID(t, "c")
	r.diesAfter(helper{ID: "c", Args: []string{"sleep", "1000"}})
	var clone *filelock.Lock
	soon(t, "the lock of its keeper", func() (ok bool) {
		var err error
		clone, err = filelock.Try(r.Layout.Container(id).Keeper(), filelock.Exclusive)
		return err == nil
	})
	time.AfterFunc(1500*time.Millisecond, func() { _ = clone.Unlock() })
	r.agent()
	if status, err := r.Status(t.Context(), id); err != nil || status.State != container.Running {
		t.Errorf("%+v, %v", status, err)
	}
	r.gone(id)
}

func TestAnAgentThatComesBackKnowsHowContainersEnded(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		want   func(container.Termination) bool
	}{
		"by themselves": {"sleep 0.2; exit 7", func(t container.Termination) bool { return t.ExitCode() == 7 }},
		"beyond a limit": {"sleep 0.2; exec tail /dev/zero", func(t container.Termination) bool {
			return t.Limitation != nil && t.Limitation.Reason == container.ReasonLimitationMemory
		}},
		"by a child's": {"sleep 0.2; tail /dev/zero; exit 0", func(t container.Termination) bool { return t.Limitation != nil }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.diesAfter(helper{ID: "c", Args: []string{"sh", "-c", c.script}})
			soon(t, "the end of the container", func() bool { return len(processesIn(r.world.CgroupsRoot)) == 0 })
			for range 3 { // the first one learns it, the others read it
				r.agent()
				if got, err := r.Wait(t.Context(), mustID(t, "c")); err != nil || !c.want(got) {
					t.Errorf("%+v, %v", got, err)
				}
				r.unlock(mustID(t, "c"))
			}
			r.agent()
			r.gone(mustID(t, "c"))
		})
	}
}

// unlock gives up the keeper's lock, as the end of this process would.
func (r *rig) unlock(id container.ID) {
	r.Helper()
	e, err := r.find(id)
	if err != nil {
		r.Fatal(err)
	}
	if err := e.launch.disown(); err != nil {
		r.Error(err)
	}
}

// Whatever had not returned when the agent died is undone, and the rest goes on.
func TestAnAgentKilledAtAnyPoint(t *testing.T) {
	for _, point := range points[:len(points)-1] {
		t.Run(point, func(t *testing.T) {
			r := newRig(t)
			r.startHelper(helper{ID: "c", Agent: true, Args: []string{"sleep", "1000"}, Die: point}).diesKilled()
			r.agent()
			r.assertNothingLeft()
		})
		t.Run("nested, "+point, func(t *testing.T) {
			r := newRig(t)
			r.startHelper(helper{ID: "c", Agent: true, Args: []string{"sleep", "1000"}, Nested: []string{"in", "deep"}, Die: point}).diesKilled()
			r.agent()
			for id, there := range map[string]bool{"c": true, "c.in": true, "c.in.deep": false} {
				if _, err := r.Status(t.Context(), mustID(t, id)); (err == nil) != there {
					t.Errorf("%s: %v", id, err)
				}
			}
			r.gone(mustID(t, "c"))
		})
	}
}

func TestAnAgentThatComesBackKillsWhatWasForDebugging(t *testing.T) {
	r := newRig(t)
	r.diesAfter(helper{ID: "c", Args: []string{"sleep", "1000"}, Nested: []string{"debug"}})
	r.agent()
	if got := r.Containers(); len(got) != 1 || got[0] != mustID(t, "c") {
		t.Errorf("taken up: %v", got)
	}
	r.gone(mustID(t, "c"))
}

// An agent that comes back looks into containers with user namespaces, and nests others, as
// before.
func TestAnAgentComesBackToContainersInAUserNamespace(t *testing.T) {
	r := newRig(t)
	r.diesAfter(helper{ID: "c", Mapped: true, Args: []string{"sleep", "1000"}, Nested: []string{"in", "debug"}})
	r.agent()
	root, nested := mustID(t, "c"), r.child(mustID(t, "c"), "in")
	if got := r.Containers(); len(got) != 2 {
		t.Errorf("taken up: %v", got)
	}
	for _, id := range []container.ID{root, nested} {
		if ids := r.launchOf(id).container.IDs; ids.Start != userPool.Start {
			t.Errorf("%s has %v", id, ids)
		}
		look := (&box{rig: r, id: id}).runIn("look", debug(whoAmI))
		if look.stdout != inRange(0) {
			t.Errorf("in %s: %v, %q", id, look.err, look.stdout)
		}
	}
	r.gone(root)
}

// A torn record is that of a container nobody can look after.
func TestAnAgentComesBackToTornRecords(t *testing.T) {
	for name, tear := range map[string]func(t *testing.T, r *rig, id container.ID){
		"an empty phase":  func(t *testing.T, r *rig, id container.ID) { truncate(t, r.Layout.Container(id).Phase()) },
		"half a phase":    func(t *testing.T, r *rig, id container.ID) { halve(t, r.Layout.Container(id).Phase()) },
		"no request":      func(t *testing.T, r *rig, id container.ID) { remove(t, r.Layout.Container(id).Config()) },
		"half a request":  func(t *testing.T, r *rig, id container.ID) { halve(t, r.Layout.Container(id).Config()) },
		"an empty launch": func(t *testing.T, r *rig, id container.ID) { truncate(t, r.Layout.Container(id).Launch()) },
		"an empty keeper": func(t *testing.T, r *rig, id container.ID) { truncate(t, r.Layout.Container(id).Keeper()) },
		"an empty format": func(t *testing.T, r *rig, id container.ID) {
			truncate(t, r.Layout.Format())
			remove(t, r.Layout.Container(id).Phase())
		},
		"half a layers": func(t *testing.T, r *rig, id container.ID) {
			halve(t, r.Layout.Provisioner().Layers(id))
			truncate(t, r.Layout.Container(id).Phase())
		},
		"half termination": func(t *testing.T, r *rig, id container.ID) {
			if err := os.WriteFile(r.Layout.Container(id).Termination(), []byte(`{"sta`), 0o600); err != nil {
				t.Fatal(err)
			}
			truncate(t, r.Layout.Container(id).Phase())
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.diesAfter(helper{ID: "c", Args: []string{"sleep", "1000"}, Nested: []string{"in"}})
			tear(t, r, mustID(t, "c"))
			r.agent()
			if got := r.Containers(); len(got) > 0 {
				t.Errorf("taken up: %v", got)
			}
			// Its sandbox was to stay.
			if err := os.RemoveAll(r.Layout.Sandboxes()); err != nil {
				t.Error(err)
			}
			r.assertNothingLeft()
		})
	}
}

// A fault of the host is no reason to end what runs.
func TestAnAgentThatCannotReadARecordLetsTheContainerRun(t *testing.T) {
	r := newRig(t)
	r.diesAfter(helper{ID: "c", Args: []string{"sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.01; done"}})
	id := mustID(t, "c")
	record := r.Layout.Container(id).Config()
	if err := errors.Join(os.Rename(record, record+".away"), os.Mkdir(record, 0o700)); err != nil {
		t.Fatal(err)
	}
	r.open(asAgent)
	if err := r.Recover(t.Context()); !errors.Is(err, syscall.EISDIR) || !strings.Contains(err.Error(), "runs on") {
		t.Errorf("Recover: %v", err)
	}
	if err := errors.Join(os.Remove(record), os.Rename(record+".away", record)); err != nil {
		t.Fatal(err)
	}
	r.agent()
	if status, err := r.Status(t.Context(), id); err != nil || status.State != container.Running {
		t.Errorf("%+v, %v", status, err)
	}
	r.gone(id)
}

func TestRecordsOfANewerBerthAreLeftAlone(t *testing.T) {
	r := newRig(t)
	r.diesAfter(helper{ID: "c", Args: []string{"sleep", "1000"}})
	if err := os.WriteFile(r.Layout.Format(), []byte("2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := strings.Join(leftOvers(t, r.Layout), "\n")
	r.open(asAgent)
	for name, err := range map[string]error{
		"Recover": r.Recover(t.Context()),
		"Destroy": func() error { _, err := r.Destroy(t.Context(), mustID(t, "c")); return err }(),
		"Launch":  func() error { _, err := r.try(r.newID(), shell("true")); return err }(),
	} {
		if !errors.Is(err, container.ErrFailedPrecondition) || !strings.Contains(err.Error(), "format 2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := strings.Join(leftOvers(t, r.Layout), "\n"); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if len(processesIn(r.world.CgroupsRoot)) < 2 {
		t.Error("it does not run any more")
	}
	remove(t, r.Layout.Format())
	r.agent()
	r.gone(mustID(t, "c"))
}

func TestUpdateOfLimits(t *testing.T) {
	r := newRig(t)
	c := r.start(limits(config(baseImage, "sleep", "1000"), map[string]float64{"cpus": 0.5, "mem": 64, "pids": 50}))
	update := func(amounts map[string]float64) error {
		return r.Update(t.Context(), c.id, nil, limits(&v1.ContainerConfig{}, amounts).Limits)
	}
	check := func(quota, mem, pids string) {
		t.Helper()
		for _, f := range []struct{ controller, v1, v2, want string }{
			{"cpu", "cpu.cfs_quota_us", "cpu.max", quota}, {"memory", "memory.limit_in_bytes", "memory.max", mem}, {"pids", "pids.max", "pids.max", pids},
		} {
			got := c.cgroupFile(f.controller, f.v1, f.v2)
			if !slices.ContainsFunc(strings.Split(f.want, "|"), func(want string) bool { return strings.HasPrefix(got, want) }) {
				t.Errorf("%s: %q, want %q", f.controller, got, f.want)
			}
		}
	}
	if err := update(map[string]float64{"cpus": 1.5, "mem": 32, "pids": 60}); err != nil {
		t.Error(err)
	}
	check("150000", "33554432", "60")
	// All or nothing.
	if err := update(map[string]float64{"cpus": 1, "mem": 128, "pids": 1}); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("a bad limit: %v", err)
	}
	check("150000", "33554432", "60")
	unrecorded := r.Layout.Container(c.id).Config()
	if err := errors.Join(os.Rename(unrecorded, unrecorded+".away"), os.Mkdir(unrecorded, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := update(map[string]float64{"cpus": 1, "mem": 128, "pids": 70}); err == nil {
		t.Error("limits that cannot be recorded")
	}
	check("150000", "33554432", "60")
	if err := errors.Join(os.Remove(unrecorded), os.Rename(unrecorded+".away", unrecorded)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(r.Layout.Container(c.id).Dir, "config")); err != nil || !strings.Contains(string(got), "32") {
		t.Errorf("recorded is %s, %v", got, err)
	}
	if err := update(nil); err != nil {
		t.Error(err)
	}
	check("-1|max", "9223372036854771712|max", "max") // v1|v2
	nested := c.startIn("sharing", config(baseImage, "sleep", "1000"))
	if err := r.Update(t.Context(), nested.id, nil, limits(&v1.ContainerConfig{}, map[string]float64{"mem": 64}).Limits); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("of what shares its parent's cgroups: %v", err)
	}
	big := r.start(limits(shell("head -c 20000000 /dev/zero > /dev/shm/x; echo full; sleep 1000"), map[string]float64{"mem": 64}))
	big.says("full")
	if err := r.Update(t.Context(), big.id, nil, limits(&v1.ContainerConfig{}, map[string]float64{"mem": 8}).Limits); !errors.Is(err, container.ErrFailedPrecondition) {
		t.Errorf("below what is used: %v", err)
	}
	if err := r.Update(t.Context(), r.newID(), nil, nil); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("of no container: %v", err)
	}
}

func TestURIsWantAFetcher(t *testing.T) {
	r := newRig(t)
	request := shell("true")
	request.CommandInfo = &v1.CommandInfo{Uris: []*v1.CommandInfo_URI{{Value: proto.String("file:///etc/passwd")}}}
	if o := r.run(request); !errors.Is(o.err, container.ErrNotSupported) {
		t.Errorf("%v", o.err)
	}
}
