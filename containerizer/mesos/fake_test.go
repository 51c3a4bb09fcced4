//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/isolator"
	"berth/launcher"
	"berth/layer"
	"berth/provisioner"
	"berth/provisioner/backend"
	"berth/state"
)

// fakeLauncher is a launcher whose processes are values.
type fakeLauncher struct {
	onFork, onRelease, onDestroy func() error // may fail or block

	mu        sync.Mutex
	processes map[container.ID]*fakeProcess
	specs     map[container.ID]launcher.Spec
}

func newFakeLauncher() *fakeLauncher {
	ok := func() error { return nil }
	return &fakeLauncher{onFork: ok, onRelease: ok, onDestroy: ok,
		processes: map[container.ID]*fakeProcess{}, specs: map[container.ID]launcher.Spec{}}
}

func (l *fakeLauncher) Fork(_ context.Context, id container.ID, spec launcher.Spec) (launcher.Process, error) {
	l.mu.Lock()
	p := &fakeProcess{launcher: l, status: spec.Status, ended: make(chan struct{}), signals: make(chan os.Signal, 10)}
	l.processes[id], l.specs[id] = p, spec
	l.mu.Unlock()
	if err := l.onFork(); err != nil {
		return nil, err
	}
	return p, nil
}

func (l *fakeLauncher) Attach(_ context.Context, id container.ID) (launcher.Process, error) {
	if p := l.process(id); p != nil {
		return p, nil
	}
	return nil, container.ErrNotFound
}

func (l *fakeLauncher) Destroy(_ context.Context, id container.ID) error {
	if err := l.onDestroy(); err != nil {
		return err
	}
	if p := l.process(id); p != nil {
		p.end("")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.processes, id)
	return nil
}

// process returns what lives of a container.
func (l *fakeLauncher) process(id container.ID) *fakeProcess {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.processes[id]
}

type fakeProcess struct {
	launcher *fakeLauncher
	status   string
	signals  chan os.Signal
	once     sync.Once
	ended    chan struct{}
}

// end ends the process, with what the file of its status shall have.
func (p *fakeProcess) end(status string) {
	p.once.Do(func() {
		if status != "" {
			if err := os.WriteFile(p.status, []byte(status), 0o600); err != nil {
				panic(err)
			}
		}
		close(p.ended)
	})
}

func (p *fakeProcess) exit(code int) { p.end(strconv.Itoa(code << 8)) }

func (p *fakeProcess) Pid() int { return 1 }

func (p *fakeProcess) Release(context.Context) error { return p.launcher.onRelease() }

func (p *fakeProcess) Signal(s os.Signal) error {
	select {
	case <-p.ended:
		return container.ErrNotFound
	default:
		p.signals <- s
		return nil
	}
}

func (p *fakeProcess) Wait(ctx context.Context) error {
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fakeIsolator is an isolator with every power; what it does not say, it does not do.
type fakeIsolator struct {
	prepare func(context.Context, *isolator.Container) (*isolator.LaunchInfo, error)
	isolate func() error
	watch   func(context.Context) (*container.Limitation, error)
	cleanup func() error

	mu     sync.Mutex
	events []string
}

func (i *fakeIsolator) happen(what string, id container.ID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.events = append(i.events, what+" "+id.String())
}

func (i *fakeIsolator) Prepare(ctx context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	i.happen("prepare", c.ID)
	if i.prepare == nil {
		return nil, nil
	}
	return i.prepare(ctx, c)
}

func (i *fakeIsolator) Isolate(_ context.Context, c *isolator.Container, _ int) error {
	i.happen("isolate", c.ID)
	if i.isolate == nil {
		return nil
	}
	return i.isolate()
}

func (i *fakeIsolator) Watch(ctx context.Context, _ container.ID) (*container.Limitation, error) {
	if i.watch == nil {
		<-ctx.Done()
		return nil, nil
	}
	return i.watch(ctx)
}

func (i *fakeIsolator) Cleanup(_ context.Context, id container.ID) error {
	i.happen("cleanup", id)
	if i.cleanup == nil {
		return nil
	}
	return i.cleanup()
}

// fixture is a containerizer with nothing real below it but the files.
type fixture struct {
	*Containerizer
	launcher *fakeLauncher
	isolator *fakeIsolator
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	layout, err := state.NewLayout(filepath.Join(t.TempDir(), "work"), filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	return fixtureAt(t, layout)
}

// fixtureAt returns a containerizer as another process would have it.
func fixtureAt(t *testing.T, layout state.Layout) *fixture {
	t.Helper()
	layers, err := layer.Open(layout.Store(), layer.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	p, err := provisioner.New(provisioner.Options{
		Paths: layout.Provisioner(), Layers: layers, Backends: map[string]backend.Backend{"none": nil}, Backend: "none"})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{launcher: newFakeLauncher(), isolator: &fakeIsolator{}}
	f.Containerizer = New(Options{Layout: layout, Provisioner: p, Launcher: f.launcher, Isolators: []isolator.Isolator{f.isolator},
		SandboxDirectory: "/mnt/mesos/sandbox", Log: slog.New(slog.DiscardHandler)})
	return f
}

// request is for a command on the host's file system, by a user that any user may
// give the sandbox to.
func request() containerizer.Request {
	return containerizer.Request{Keeper: containerizer.Foreground, Config: &v1.ContainerConfig{
		ImageArguments: []string{"true"}, User: proto.String(fmt.Sprintf("%d:%d", os.Geteuid(), os.Getegid()))}}
}

func (f *fixture) launch(t *testing.T, id container.ID) *fakeProcess {
	t.Helper()
	if err := f.Launch(t.Context(), id, request()); err != nil {
		t.Fatal(err)
	}
	return f.launcher.process(id)
}

// leftOvers lists what containers have on disk.
func leftOvers(t testing.TB, l state.Layout) (found []string) {
	t.Helper()
	for _, dir := range []string{l.RuntimeContainers(), l.Sandboxes(), l.Provisioner().Containers()} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if path != dir && err == nil {
				found = append(found, path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func (f *fixture) assertNothingLeft(t *testing.T) {
	t.Helper()
	if found := leftOvers(t, f.Layout); len(found) > 0 {
		t.Errorf("left: %q", found)
	}
	f.launcher.mu.Lock()
	defer f.launcher.mu.Unlock()
	if len(f.launcher.processes) > 0 {
		t.Errorf("left: %d processes", len(f.launcher.processes))
	}
}

// soon waits for something that happens in another goroutine.
func soon(t testing.TB, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not happen", what)
		}
	}
}

func exited(code int) *syscall.WaitStatus {
	status := syscall.WaitStatus(code << 8)
	return &status
}
