//go:build linux

package mesos

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"berth/container"
)

// interfere returns a hook that does something at one point.
func interfere(at string, do func(ctx context.Context) error) hook {
	return func(ctx context.Context, point string) error {
		if point != at {
			return nil
		}
		return do(ctx)
	}
}

func TestAFailureAtAnyPointLeavesNothing(t *testing.T) {
	for _, backend := range []string{"overlay", "copy"} {
		for _, point := range points[:len(points)-1] {
			t.Run(backend+"/"+point, func(t *testing.T) {
				cause := errors.New("the cause")
				r := newRigWith(t, backend, interfere(point, func(context.Context) error { return cause }).into)
				if o := r.run(withVolumes(shell("sleep 1000"))); !errors.Is(o.err, cause) {
					t.Errorf("error %v", o.err)
				}
				r.assertNothingLeft()
			})
		}
	}
}

func TestDestroyAtAnyPointOfTheLaunch(t *testing.T) {
	for _, point := range points[:len(points)-1] {
		t.Run(point, func(t *testing.T) {
			reached := make(chan struct{})
			r := newRigWith(t, "overlay", interfere(point, func(ctx context.Context) error {
				close(reached)
				<-ctx.Done()
				return context.Cause(ctx)
			}).into)
			id := r.newID()
			launched := make(chan error, 1)
			go func() {
				_, err := r.try(id, withVolumes(shell("sleep 1000")))
				launched <- err
			}()
			<-reached
			if existed, err := r.Destroy(t.Context(), id); !existed || err != nil {
				t.Errorf("Destroy: %v, %v", existed, err)
			}
			if err := <-launched; err == nil || !strings.Contains(err.Error(), "destroyed") {
				t.Errorf("Launch: %v", err)
			}
			r.assertNothingLeft()
		})
	}
}

func TestACancelledLaunchLeavesNothing(t *testing.T) {
	r := newRig(t)
	for n := range 15 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*time.Millisecond)
		c := &rig{TB: withContext{t, ctx}, Containerizer: r.Containerizer, dir: r.dir, world: r.world}
		box, err := c.try(r.newID(), config(baseImage, "true"))
		if err == nil {
			box.wait()
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %d ms: %v", n, err)
		}
		cancel()
		r.assertNothingLeft()
	}
}

// withContext is a test with another context.
type withContext struct {
	testing.TB
	ctx context.Context
}

func (t withContext) Context() context.Context { return t.ctx }

func TestTwoRealLaunchesWithOneID(t *testing.T) {
	r := newRig(t)
	first := r.start(config(baseImage, "sleep", "1000"))
	if _, err := r.try(first.id, shell("true")); !errors.Is(err, container.ErrExists) {
		t.Errorf("in this process: %v", err)
	}
	other := &rig{TB: t, world: r.world, dir: r.dir}
	other.open(nil)
	if _, err := other.try(first.id, shell("true")); !errors.Is(err, container.ErrExists) {
		t.Errorf("in another: %v", err)
	}
	if err := first.Kill(t.Context(), first.id, os.Interrupt); err != nil {
		t.Error(err)
	}
	if o := first.wait(); o.code() != 130 {
		t.Errorf("the first one ended with %d", o.code())
	}
}

func TestManyAtATime(t *testing.T) {
	r := newRig(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 5 {
				if o := r.run(shell("exit 4")); o.code() != 4 {
					t.Errorf("%d, %v", o.code(), o.err)
				}
			}
		})
	}
	all.Wait()
}

func TestAProcessKilledAtAnyPoint(t *testing.T) {
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			r := newRig(t)
			id := r.newID()
			r.startHelper(helper{ID: id.String(), Args: []string{"sleep", "0.01"}, Die: point}).diesKilled()
			if len(r.left()) == 0 {
				t.Error("there was nothing to recover")
			}
			r.recover()
			if c, err := r.try(id, shell("exit 0")); err != nil {
				t.Errorf("a launch of that name: %v", err)
			} else if o := c.wait(); o.code() != 0 {
				t.Error(o.code())
			}
		})
	}
}

// recover recovers as a new process does.
func (r *rig) recover() {
	r.Helper()
	r.open(nil)
	if err := r.Recover(r.Context()); err != nil {
		r.Errorf("Recover: %v", err)
	}
	r.assertNothingLeft()
}

func TestAProcessKilledAtARandomMoment(t *testing.T) {
	r := newRig(t)
	for range 30 {
		h := r.startHelper(helper{ID: r.newID().String(), Args: []string{"sleep", "1000"}})
		h.says("ready")
		time.Sleep(rand.N(12 * time.Millisecond))
		h.kill()
		r.recover()
	}
}

// Two that recover at the same time do not disturb each other.
func TestTwoRecoverAtATime(t *testing.T) {
	r := newRig(t)
	for range 5 {
		for range 3 {
			h := r.startHelper(helper{ID: r.newID().String(), Args: []string{"sleep", "1000"}})
			h.says("ready")
			h.says("launched")
			h.kill()
		}
		var all sync.WaitGroup
		for range 3 {
			c, _, err := r.world.open(nil)
			if err != nil {
				t.Fatal(err)
			}
			r.opened = append(r.opened, c)
			all.Go(func() {
				if err := c.Recover(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		r.assertNothingLeft()
	}
}

func TestTheInitProcessEndsWithItsUnreleasedLaunch(t *testing.T) {
	r := newRig(t)
	r.startHelper(helper{ID: "c", Die: "isolated", Args: []string{"sleep", "1000"}}).diesKilled()
	soon(t, "the end of the waiting init process", func() bool { return len(processesIn(r.world.CgroupsRoot)) == 0 })
	r.recover()
}

// A running container outlives the process that launched it, and leaves its status.
func TestAContainerOutlivesItsLauncher(t *testing.T) {
	r := newRig(t)
	h := r.startHelper(helper{ID: "c", Args: []string{"sh", "-c", "cd $MESOS_SANDBOX; until [ -e asked ]; do sleep 0.01; done; >answered; until [ -e end ]; do sleep 0.01; done; exit 5"}})
	h.says("ready")
	h.says("launched")
	h.kill()
	id := mustID(t, "c")
	say := func(name string) {
		if err := os.WriteFile(r.Layout.Sandbox(id)+"/"+name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	say("asked")
	soon(t, "an answer", func() bool {
		_, err := os.Lstat(r.Layout.Sandbox(id) + "/answered")
		return err == nil
	})
	if running := processesIn(r.world.CgroupsRoot); len(running) < 2 {
		t.Errorf("running: %v", running)
	}
	say("end")
	soon(t, "the exit status", func() bool {
		data, err := os.ReadFile(r.Layout.Container(id).Status())
		return err == nil && string(data) == "1280"
	})
	r.recover()
}

func TestRecoverOfTornRecords(t *testing.T) {
	for name, tear := range map[string]func(t *testing.T, r *rig, id container.ID){
		"no keeper":            func(t *testing.T, r *rig, id container.ID) { remove(t, r.Layout.Container(id).Keeper()) },
		"an empty phase":       func(t *testing.T, r *rig, id container.ID) { truncate(t, r.Layout.Container(id).Phase()) },
		"no phase":             func(t *testing.T, r *rig, id container.ID) { remove(t, r.Layout.Container(id).Phase()) },
		"an empty cgroup":      func(t *testing.T, r *rig, id container.ID) { truncate(t, r.Layout.Container(id).Cgroup()) },
		"half a cgroup":        func(t *testing.T, r *rig, id container.ID) { halve(t, r.Layout.Container(id).Cgroup()) },
		"an empty request":     func(t *testing.T, r *rig, id container.ID) { truncate(t, r.Layout.Container(id).Config()) },
		"no pid":               func(t *testing.T, r *rig, id container.ID) { remove(t, r.Layout.Container(id).Pid()) },
		"an empty layers file": func(t *testing.T, r *rig, id container.ID) { truncate(t, r.Layout.Provisioner().Layers(id)) },
		"half a layers file":   func(t *testing.T, r *rig, id container.ID) { halve(t, r.Layout.Provisioner().Layers(id)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			h := r.startHelper(helper{ID: "c", Args: []string{"sleep", "1000"}})
			h.says("ready")
			h.says("launched")
			h.kill()
			tear(t, r, mustID(t, "c"))
			r.recover()
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, path string) {
	t.Helper()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
}

func halve(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()/2); err != nil {
		t.Fatal(err)
	}
}

func TestRecoverLeavesALivingProcessAlone(t *testing.T) {
	r := newRig(t)
	h := r.startHelper(helper{ID: "c", Args: []string{"sleep", "1000"}})
	h.says("ready")
	h.says("launched")
	before := processesIn(r.world.CgroupsRoot)
	if err := r.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	id := mustID(t, "c")
	if _, err := r.Destroy(t.Context(), id); !errors.Is(err, container.ErrFailedPrecondition) {
		t.Errorf("Destroy: %v", err)
	}
	for pid := range before {
		if _, ok := processesIn(r.world.CgroupsRoot)[pid]; !ok {
			t.Errorf("process %d is gone", pid)
		}
	}
	if !slices.Contains(r.left(), r.Layout.Container(id).Dir) {
		t.Error("the record is gone")
	}
	h.stdin.Close()
	if err := h.cmd.Wait(); err != nil {
		t.Errorf("the helper: %v", err)
	}
	r.assertNothingLeft()
}

func TestARootFilesystemForAnOperator(t *testing.T) {
	r := newRig(t)
	if err := r.startHelper(helper{ID: "kept", Operator: true}).cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	mounted := func() bool {
		return slices.ContainsFunc(r.left(), func(s string) bool { return strings.HasPrefix(s, "mount ") })
	}
	for range 2 {
		r.open(nil)
		if err := r.Recover(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if !mounted() {
		t.Error("Recover took it away")
	}
	if existed, err := r.Destroy(t.Context(), mustID(t, "kept")); !existed || err != nil {
		t.Errorf("Destroy: %v, %v", existed, err)
	}
	r.assertNothingLeft()
	// One that dies while it provisions leaves it to the operator, too.
	h := r.startHelper(helper{ID: "half", Operator: true, Die: "provisioning"})
	h.diesKilled()
	if existed, err := r.Destroy(t.Context(), mustID(t, "half")); !existed || err != nil {
		t.Errorf("Destroy: %v, %v", existed, err)
	}
}
