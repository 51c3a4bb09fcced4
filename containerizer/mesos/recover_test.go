//go:build linux

package mesos

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/container"
	"berth/containerizer"
	"berth/internal/filelock"
)

// record makes the record of a container of a dead process: files by name.
func record(t *testing.T, f *fixture, id container.ID, files map[string]string) {
	t.Helper()
	dir := f.Layout.Container(id).Dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRecoverDestroysWhatDeadProcessesLeft(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"a whole record":             {"keeper": "foreground", "phase": "RUNNING\n", "pid": "1\n", "config": "{}\n"},
		"no keeper":                  {},
		"no keeper, a phase":         {"phase": "ADMITTED\n"},
		"an empty keeper":            {"keeper": ""},
		"a keeper of zeros":          {"keeper": "\x00\x00\x00\x00", "phase": "\x00\x00"},
		"a keeper with its process":  {"keeper": "foreground 4194304\n"},
		"a keeper of another form":   {"keeper": "foreground x y\n"},
		"an empty phase":             {"keeper": "foreground", "phase": ""},
		"an unknown phase":           {"keeper": "foreground", "phase": "DANCING\n"},
		"a torn configuration":       {"keeper": "foreground", "phase": "RUNNING\n", "config": "{\"contai"},
		"left-over temporary files":  {"keeper": "foreground", ".phase.123": "RUN"},
		"a status that was not read": {"keeper": "foreground", "phase": "RUNNING\n", "status": "256"},
	} {
		t.Run(name, func(t *testing.T) {
			f, id := newFixture(t), mustID(t, "c")
			record(t, f, id, files)
			sandbox := f.Layout.Sandbox(id)
			if err := errors.Join(os.MkdirAll(sandbox, 0o755), os.WriteFile(f.Layout.Foreground(id), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time there is nothing
				if err := f.Recover(t.Context()); err != nil {
					t.Error(err)
				}
				f.assertNothingLeft(t)
			}
			f.launch(t, id).exit(0)
			if _, err := f.Wait(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRecoverLeavesTheLivingAlone(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	process := f.launch(t, id)
	other := fixtureAt(t, f.Layout)
	for _, g := range []*fixture{other, f} {
		if err := g.Recover(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := other.Destroy(t.Context(), id); !errors.Is(err, container.ErrFailedPrecondition) {
		t.Errorf("Destroy in another process: %v", err)
	}
	if len(other.isolator.events) > 0 {
		t.Errorf("another process did %q", other.isolator.events)
	}
	process.exit(4)
	if got, err := f.Wait(t.Context(), id); err != nil || got.ExitCode() != 4 {
		t.Errorf("%+v, %v", got, err)
	}
	f.assertNothingLeft(t)
}

// A failure for one container does not keep the others from being recovered.
func TestRecoverGoesOnPastFailures(t *testing.T) {
	f := newFixture(t)
	record(t, f, mustID(t, "a"), map[string]string{"keeper": "foreground"})
	// Its keeper can neither be read nor locked.
	record(t, f, mustID(t, "b"), nil)
	if err := os.Mkdir(f.Layout.Container(mustID(t, "b")).Keeper(), 0o700); err != nil {
		t.Fatal(err)
	}
	record(t, f, mustID(t, "c"), map[string]string{"keeper": "foreground"})
	err := f.Recover(t.Context())
	if err == nil || !strings.Contains(err.Error(), "container b") {
		t.Errorf("error %v does not name the container", err)
	}
	for _, id := range []string{"a", "c"} {
		if f.recorded(mustID(t, id)) {
			t.Errorf("%s is still there", id)
		}
	}
	if !f.recorded(mustID(t, "b")) {
		t.Error("b is gone")
	}
}

func TestRecoverOfSandboxesFromBeforeAReboot(t *testing.T) {
	f := newFixture(t)
	marked, half, unmarked := mustID(t, "marked"), mustID(t, "half"), mustID(t, "unmarked")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(f.Layout.Sandbox(marked), "deep/er"), 0o755), os.WriteFile(f.Layout.Foreground(marked), nil, 0o600),
		os.WriteFile(f.Layout.Foreground(half), nil, 0o600),
		os.MkdirAll(f.Layout.Sandbox(unmarked), 0o755)); err != nil {
		t.Fatal(err)
	}
	if existed, err := f.Destroy(t.Context(), half); !existed || err != nil {
		t.Errorf("Destroy of a left-over: %v, %v", existed, err)
	}
	if err := f.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if found := leftOvers(t, f.Layout); len(found) != 1 || found[0] != f.Layout.Sandbox(unmarked) {
		t.Errorf("left: %q", found)
	}
}

func TestWhatAnOperatorKeeps(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	made := filepath.Join(f.Layout.Provisioner().Container(id), "something")
	err := f.ProvisionOnly(t.Context(), id, func(context.Context) error { return os.MkdirAll(made, 0o700) })
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(made); err != nil {
		t.Errorf("after Recover: %v", err)
	}
	for name, err := range map[string]error{
		"a launch":     f.Launch(t.Context(), id, request()),
		"another such": f.ProvisionOnly(t.Context(), id, func(context.Context) error { return nil }),
	} {
		if !errors.Is(err, container.ErrExists) {
			t.Errorf("%s of that name: %v", name, err)
		}
	}
	other := fixtureAt(t, f.Layout)
	if existed, err := other.Destroy(t.Context(), id); !existed || err != nil {
		t.Errorf("Destroy: %v, %v", existed, err)
	}
	if existed, err := other.Destroy(t.Context(), id); existed || err != nil {
		t.Errorf("Destroy again: %v, %v", existed, err)
	}
	f.assertNothingLeft(t)
}

func TestAProvisionOnlyThatFailsLeavesNothing(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	cause := errors.New("the cause")
	if err := f.ProvisionOnly(t.Context(), id, func(context.Context) error { return cause }); !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
	f.assertNothingLeft(t)
}

// An admission that is under way in another process holds the lock of the runtime
// directory; its record, which has no keeper yet, is not to be judged.
func TestDestroyWaitsForAnAdmission(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	record(t, f, id, nil)
	lock, err := filelock.Try(f.Layout.RuntimeLock(), filelock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	destroyed := make(chan error, 1)
	go func() {
		_, err := f.Destroy(context.Background(), id)
		destroyed <- err
	}()
	select {
	case err := <-destroyed:
		t.Errorf("Destroy did not wait: %v", err)
	default:
	}
	keeper, err := filelock.Try(f.Layout.Container(id).Keeper(), filelock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keeper.File().WriteString(string(containerizer.Foreground)); err != nil {
		t.Fatal(err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	if err := <-destroyed; !errors.Is(err, container.ErrFailedPrecondition) {
		t.Errorf("Destroy: %v", err)
	}
	if err := keeper.Unlock(); err != nil {
		t.Fatal(err)
	}
	if existed, err := f.Destroy(t.Context(), id); !existed || err != nil {
		t.Errorf("Destroy, once its keeper is dead: %v, %v", existed, err)
	}
	f.assertNothingLeft(t)
}
