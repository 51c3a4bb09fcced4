//go:build linux

package mesos

import (
	"context"
	"os"
	"syscall"
	"testing"

	"berth/internal/mount"
	"berth/internal/mount/mounttest"
)

// killPlaces are those of a launch and of the destruction after it at which a kill is worth a
// test: each phase, each step of the launcher, and each undo.
var killPlaces = []string{
	"ADMITTED", "PROVISIONING", "PREPARING",
	"FORKING", "fork: the cgroup is recorded", "fork: the cgroup is made", "fork: the process is cloned",
	"fork: the process is recorded",
	"ISOLATING", "FETCHING", "RELEASING", "RUNNING",
	"destroy: the processes are killed", "destroy: the cgroup is removed",
	"undo FORKING", "undo PREPARING", "undo PROVISIONING", "undo ADMITTED",
}

// Whoever comes after a killed berth finds the host as it was, but for what an agent's
// containers need that run.
func TestKilledAtAnyPlace(t *testing.T) {
	for _, place := range killPlaces {
		t.Run(place+"/foreground", func(t *testing.T) {
			r := newRig(t)
			r.startHelper(helper{ID: "c", Args: []string{"sleep", "1000"}, DieAt: place}).diesKilled()
			r.recover()
		})
		t.Run(place+"/agent", func(t *testing.T) {
			r := newRig(t)
			r.startHelper(helper{ID: "c", Agent: true, Args: []string{"sleep", "1000"}, DieAt: place}).diesKilled()
			r.agent()
			r.goneWhatever("c")
		})
		t.Run(place+"/nested", func(t *testing.T) {
			r := newRig(t)
			r.startHelper(helper{ID: "c", Agent: true, Args: []string{"sleep", "1000"}, Nested: []string{"in", "deep"}, DieAt: place}).diesKilled()
			r.agent()
			for _, id := range []string{"c", "c.in"} {
				if _, err := r.Status(t.Context(), mustID(t, id)); err != nil {
					t.Errorf("%s does not run on: %v", id, err)
				}
			}
			r.gone(mustID(t, "c"))
		})
		t.Run(place+"/reboot", func(t *testing.T) {
			r := newRig(t)
			r.startHelper(helper{ID: "c", Args: []string{"sleep", "1000"}, DieAt: place}).diesKilled()
			r.reboot("c")
			r.recover()
		})
	}
}

// goneWhatever removes what an agent may have taken up: a container that runs, or the
// termination of one that was destroyed.
func (r *rig) goneWhatever(value string) {
	r.Helper()
	id := mustID(r, value)
	for range 2 {
		if _, err := r.Destroy(context.Background(), id); err != nil {
			r.Error(err)
		}
	}
	if err := r.Remove(context.Background(), id); err != nil {
		r.Error(err)
	}
	// The sandbox of a container that runs is not marked any more.
	if err := os.RemoveAll(r.Layout.Sandbox(id)); err != nil {
		r.Error(err)
	}
	r.assertNothingLeft()
}

// reboot leaves of a container what a reboot does: no process, mount, cgroup and record.
func (r *rig) reboot(value string) {
	r.Helper()
	if err := r.launcher.Destroy(r.Context(), mustID(r, value)); err != nil {
		r.Error(err)
	}
	soon(r, "the end of the waiting init process", func() bool { return len(processesIn(r.world.CgroupsRoot)) == 0 })
	if err := mounttest.DetachBelow(r.dir); err != nil {
		r.Error(err)
	}
	if _, err := mount.RemoveAll(r.world.Runtime); err != nil {
		r.Error(err)
	}
}

// Between the places are hundreds of steps on disk. All of them are for those who have the
// time.
func TestKilledAtAnyStepOnDisk(t *testing.T) {
	every := 23
	if os.Getenv("BERTH_TEST_SOAK") != "" {
		every = 1
	}
	for step := 1; ; step += every {
		r := newRig(t)
		h := r.startHelper(helper{ID: "c", Agent: step%2 == 0, Args: []string{"sleep", "1000"}, DieStep: step})
		h.cmd.Wait()
		status, ok := h.cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !ok || !status.Signaled() {
			if step == 1 || status.ExitStatus() != 0 {
				t.Errorf("step %d: %v", step, h.cmd.ProcessState)
			}
			r.agent()
			r.goneWhatever("c")
			t.Logf("%d steps", step)
			return
		}
		r.agent()
		r.goneWhatever("c")
	}
}
