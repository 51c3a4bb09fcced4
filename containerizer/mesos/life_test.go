//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/launcher"
)

func TestALife(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	process := f.launch(t, id)
	if err := f.Kill(t.Context(), id, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if s := <-process.signals; s != syscall.SIGTERM {
		t.Errorf("the signal %v", s)
	}
	process.exit(7)
	got, err := f.Wait(t.Context(), id)
	if diff := cmp.Diff(container.Termination{Status: exited(7)}, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if _, err := f.Wait(t.Context(), id); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("a second Wait after the end: %v", err)
	}
	if err := f.Kill(t.Context(), id, syscall.SIGTERM); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("Kill after the end: %v", err)
	}
	if existed, err := f.Destroy(t.Context(), id); existed || err != nil {
		t.Errorf("Destroy after the end: %v, %v", existed, err)
	}
	if diff := cmp.Diff([]string{"prepare c", "isolate c", "cleanup c"}, f.isolator.events); diff != "" {
		t.Error(diff)
	}
	f.assertNothingLeft(t)
}

func TestWhatTheInitProcessIsTold(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	f.isolator.prepare = func(context.Context, *isolator.Container) (*isolator.LaunchInfo, error) {
		return &isolator.LaunchInfo{Env: []string{"A=1"}, Controllers: []string{"pids"}, Namespaces: []launcher.Namespace{launcher.Mount}, Hostname: "h"}, nil
	}
	f.launch(t, id).exit(0)
	if _, err := f.Wait(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	spec := f.launcher.specs[id]
	command := spec.Plan.Command
	// Without a root filesystem nothing is to be made on the host, so it is the sandbox.
	if want := f.Layout.Sandbox(id); command.Dir != want {
		t.Errorf("the working directory is %s, want %s", command.Dir, want)
	}
	if !slices.Contains(command.Env, "A=1") || command.Path != "true" || command.UID != uint32(os.Geteuid()) {
		t.Errorf("the command is %+v", command)
	}
	if spec.Plan.Hostname != "h" || spec.Plan.Rootfs != "" || !slices.Equal(spec.Controllers, []string{"pids"}) || !slices.Equal(spec.Namespaces, []launcher.Namespace{launcher.Mount}) {
		t.Errorf("the spec is %+v", spec)
	}
}

func TestStopSendsTheSignalOfTheImage(t *testing.T) {
	for image, want := range map[syscall.Signal]syscall.Signal{0: syscall.SIGTERM, syscall.SIGQUIT: syscall.SIGQUIT, 37: 37} {
		f, id := newFixture(t), mustID(t, "c")
		f.isolator.prepare = func(context.Context, *isolator.Container) (*isolator.LaunchInfo, error) {
			return &isolator.LaunchInfo{StopSignal: image}, nil
		}
		process := f.launch(t, id)
		if err := f.Stop(t.Context(), id); err != nil {
			t.Error(err)
		}
		if s := <-process.signals; s != want {
			t.Errorf("an image with the stop signal %d is stopped by %d", image, s)
		}
		process.exit(0)
		if _, err := f.Wait(t.Context(), id); err != nil {
			t.Error(err)
		}
		if err := f.Stop(t.Context(), id); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("Stop after the end: %v", err)
		}
	}
}

// The rows of the final environment, working directory and user that Mesos has, and those
// of the request's own fields.
func TestWhatTheRequestAndTheImageSay(t *testing.T) {
	root := t.TempDir()
	accounts := "root:x:0:0::/root:\none:x:1:11::/one:\ntwo:x:2:12::/two:\nthree:x:3:13:::\n"
	if err := errors.Join(os.Mkdir(filepath.Join(root, "etc"), 0o755), os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(accounts), 0o644)); err != nil {
		t.Fatal(err)
	}
	s := proto.String
	withEnv := func(c *v1.ContainerConfig) *v1.ContainerConfig {
		c.CommandInfo = variables("HOME=/request", "PATH=/request").CommandInfo
		return c
	}
	image := isolator.LaunchInfo{User: "one", WorkingDir: "/image"}
	for _, c := range []struct {
		name       string
		config     *v1.ContainerConfig
		image      isolator.LaunchInfo
		uid        uint32
		dir        string
		home, path string
	}{
		{"nothing: root, in the sandbox, with default PATH", &v1.ContainerConfig{}, isolator.LaunchInfo{}, 0, sandboxDir, "/root", defaultPath},
		{"the image", &v1.ContainerConfig{}, image, 1, "/image", "/one", defaultPath},
		{"the user of the command, over that of the image", &v1.ContainerConfig{CommandInfo: &v1.CommandInfo{User: s("two")}}, image, 2, "/image", "/two", defaultPath},
		{"the user of the request, over that of the command", &v1.ContainerConfig{User: s("three"), CommandInfo: &v1.CommandInfo{User: s("two")}}, image, 3, "/image", "/", defaultPath},
		{"a number without an account", &v1.ContainerConfig{User: s("77")}, image, 77, "/image", "/", defaultPath},
		{"the directory of the request", &v1.ContainerConfig{WorkingDirectory: s("/request")}, image, 1, "/request", "/one", defaultPath},
		{"an empty directory is none", &v1.ContainerConfig{WorkingDirectory: s("")}, image, 1, "/image", "/one", defaultPath},
		{"a relative directory is below the root", &v1.ContainerConfig{WorkingDirectory: s("a/../b")}, image, 1, "/b", "/one", defaultPath},
		{"so is one of the image", &v1.ContainerConfig{}, isolator.LaunchInfo{WorkingDir: "../c/"}, 0, "/c", "/root", defaultPath},
		{"the environment of the image", &v1.ContainerConfig{}, isolator.LaunchInfo{Env: []string{"HOME=/image", "PATH=/image"}}, 0, sandboxDir, "/image", "/image"},
		{"that of the request over it", withEnv(&v1.ContainerConfig{}), isolator.LaunchInfo{Env: []string{"HOME=/image", "PATH=/image"}}, 0, sandboxDir, "/request", "/request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newFixture(t).newLaunch(mustID(t, "c"))
			c.config.Rootfs, c.config.ImageArguments = s(root), []string{"true"}
			l.container, l.info = &isolator.Container{Config: c.config}, c.image
			p, err := l.plan()
			if err != nil {
				t.Fatal(err)
			}
			got := p.Command
			if got.UID != c.uid || got.Dir != c.dir || !slices.Contains(got.Env, "HOME="+c.home) || !slices.Contains(got.Env, "PATH="+c.path) {
				t.Errorf("user %d in %s with %q, want %d in %s with HOME=%s and PATH=%s", got.UID, got.Dir, got.Env, c.uid, c.dir, c.home, c.path)
			}
		})
	}
}

func TestEveryWaiterIsTold(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	process := f.launch(t, id)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if got, err := f.Wait(context.Background(), id); err != nil || got.ExitCode() != 3 {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := f.Wait(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	process.exit(3)
	all.Wait()
}

// One that has waited for a container must not take away the next one of that name.
func TestAnOldWaiterLeavesTheNewContainerAlone(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	f.launch(t, id).exit(0)
	old, err := f.find(id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Wait(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	process := f.launch(t, id)
	f.remove(old)
	process.exit(0)
	if _, err := f.Wait(t.Context(), id); err != nil {
		t.Error(err)
	}
}

func TestASecondLaunchWithOneID(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	process := f.launch(t, id)
	for name, second := range map[string]*fixture{"in this process": f, "in another": fixtureAt(t, f.Layout)} {
		if err := second.Launch(t.Context(), id, request()); !errors.Is(err, container.ErrExists) {
			t.Errorf("%s: error %v, want ErrExists", name, err)
		}
	}
	select {
	case <-process.ended:
		t.Error("the first one was ended")
	default:
	}
	process.exit(5)
	if got, err := f.Wait(t.Context(), id); err != nil || got.ExitCode() != 5 {
		t.Errorf("the first one: %+v, %v", got, err)
	}
	f.assertNothingLeft(t)
}

func TestManyLaunchesWithOneID(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	var all sync.WaitGroup
	results := make(chan error, 8)
	for n := range 8 {
		g := f
		if n%2 == 1 {
			g = fixtureAt(t, f.Layout)
		}
		all.Go(func() {
			err := g.Launch(t.Context(), id, request())
			if err == nil {
				defer g.Wait(context.Background(), id)
				defer g.launcher.process(id).exit(0)
				time.Sleep(50 * time.Millisecond)
			}
			results <- err
		})
	}
	all.Wait()
	launched := 0
	for range 8 {
		switch err := <-results; {
		case err == nil:
			launched++
		case !errors.Is(err, container.ErrExists):
			t.Error(err)
		}
	}
	if launched == 0 {
		t.Error("none was launched")
	}
	f.assertNothingLeft(t)
}

// fail makes one step of a launch fail.
var fail = map[string]func(f *fixture, err error){
	"prepare": func(f *fixture, err error) {
		f.isolator.prepare = func(context.Context, *isolator.Container) (*isolator.LaunchInfo, error) { return nil, err }
	},
	"fork":    func(f *fixture, err error) { f.launcher.onFork = func() error { return err } },
	"isolate": func(f *fixture, err error) { f.isolator.isolate = func() error { return err } },
	"release": func(f *fixture, err error) { f.launcher.onRelease = func() error { return err } },
}

func TestALaunchThatFailsLeavesNothing(t *testing.T) {
	for step, breakIt := range fail {
		t.Run(step, func(t *testing.T) {
			f, id := newFixture(t), mustID(t, "c")
			cause := &launcher.StartError{Message: "the cause", Code: 126}
			breakIt(f, cause)
			err := f.Launch(t.Context(), id, request())
			var start *launcher.StartError
			if !errors.As(err, &start) || start != cause {
				t.Errorf("error %v, want the cause", err)
			}
			f.assertNothingLeft(t)
			if _, err := f.Wait(t.Context(), id); !errors.Is(err, container.ErrNotFound) {
				t.Errorf("Wait: %v", err)
			}
			if existed, err := f.Destroy(t.Context(), id); existed || err != nil {
				t.Errorf("Destroy: %v, %v", existed, err)
			}
		})
	}
}

func TestABadRequestLeavesNothing(t *testing.T) {
	for name, change := range map[string]func(*v1.ContainerConfig){
		"nothing to execute":   func(c *v1.ContainerConfig) { c.ImageArguments = nil },
		"an unknown user":      func(c *v1.ContainerConfig) { c.User = proto.String("no such user") },
		"a user out of range":  func(c *v1.ContainerConfig) { c.User = proto.String("4294967295") },
		"a bad environment":    func(c *v1.ContainerConfig) { c.CommandInfo = variables("=1").CommandInfo },
		"an image of no store": func(c *v1.ContainerConfig) { c.ContainerInfo = imageInfo("x") },
	} {
		t.Run(name, func(t *testing.T) {
			f, id := newFixture(t), mustID(t, "c")
			r := request()
			change(r.Config)
			err := f.Launch(t.Context(), id, r)
			if !slices.ContainsFunc([]error{container.ErrInvalid, container.ErrNotFound, container.ErrNotSupported}, func(class error) bool { return errors.Is(err, class) }) {
				t.Errorf("error %v has no class", err)
			}
			f.assertNothingLeft(t)
		})
	}
}

func imageInfo(name string) *v1.ContainerInfo {
	return &v1.ContainerInfo{Type: v1.ContainerInfo_MESOS.Enum(), Mesos: &v1.ContainerInfo_MesosInfo{
		Image: &v1.Image{Type: v1.Image_DOCKER.Enum(), Docker: &v1.Image_Docker{Name: proto.String(name)}}}}
}

// block makes one step wait until the launch is cancelled, and tells when it does.
var block = map[string]func(f *fixture, reached chan<- struct{}, proceed <-chan struct{}){
	"prepare": func(f *fixture, reached chan<- struct{}, _ <-chan struct{}) {
		f.isolator.prepare = func(ctx context.Context, _ *isolator.Container) (*isolator.LaunchInfo, error) {
			close(reached)
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
	},
	"fork": func(f *fixture, reached chan<- struct{}, proceed <-chan struct{}) {
		f.launcher.onFork = func() error { close(reached); <-proceed; return nil }
	},
	"isolate": func(f *fixture, reached chan<- struct{}, proceed <-chan struct{}) {
		f.isolator.isolate = func() error { close(reached); <-proceed; return nil }
	},
	"release": func(f *fixture, reached chan<- struct{}, proceed <-chan struct{}) {
		f.launcher.onRelease = func() error { close(reached); <-proceed; return nil }
	},
}

func TestDestroyDuringTheLaunch(t *testing.T) {
	for step, hold := range block {
		t.Run(step, func(t *testing.T) {
			f, id := newFixture(t), mustID(t, "c")
			reached, proceed := make(chan struct{}), make(chan struct{})
			hold(f, reached, proceed)
			launched := make(chan error, 1)
			go func() { launched <- f.Launch(t.Context(), id, request()) }()
			<-reached
			time.AfterFunc(20*time.Millisecond, func() { close(proceed) })
			if existed, err := f.Destroy(t.Context(), id); !existed || err != nil {
				t.Errorf("Destroy: %v, %v", existed, err)
			}
			f.assertNothingLeft(t)
			err := <-launched
			// After the release nothing is left to cancel: the container ran.
			if step != "release" && !errors.Is(err, errDestroyed) || step == "release" && err != nil {
				t.Errorf("Launch: %v", err)
			}
		})
	}
}

func TestDestroyOfARunningContainer(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	f.launch(t, id)
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if existed, err := f.Destroy(context.Background(), id); !existed || err != nil {
				t.Errorf("%v, %v", existed, err)
			}
		})
	}
	all.Wait()
	f.assertNothingLeft(t)
	got, err := f.Wait(t.Context(), id)
	if err != nil || got.ExitCode() != 137 {
		t.Errorf("%+v, %v, want 137: nobody wrote a status", got, err)
	}
}

// After a container is forgotten its id may be another's, which must not be killed.
func TestDestroyDoesNotKillTheNextOfThatName(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	f.launch(t, id).exit(0)
	e, err := f.find(id)
	if err != nil {
		t.Fatal(err)
	}
	<-e.done
	other := fixtureAt(t, f.Layout)
	other.launcher = f.launcher // one host
	other.Containerizer.Launcher = f.launcher
	process := other.launch(t, id)
	if _, err := f.Destroy(t.Context(), id); err != nil {
		t.Error(err)
	}
	select {
	case <-process.ended:
		t.Error("the other container was killed")
	default:
	}
	if existed, err := other.Destroy(t.Context(), id); !existed || err != nil {
		t.Error(existed, err)
	}
}

func TestALimitationEndsTheContainer(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	limitation := &container.Limitation{Reason: container.ReasonLimitationMemory, Message: "too much"}
	f.isolator.watch = func(context.Context) (*container.Limitation, error) { return limitation, nil }
	f.launch(t, id)
	got, err := f.Wait(t.Context(), id)
	killed := syscall.WaitStatus(syscall.SIGKILL)
	want := container.Termination{Status: &killed, Limitation: limitation, Message: "too much"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	f.assertNothingLeft(t)
}

// The cause must not be lost when the exit that it brings about is seen first.
func TestALimitationThatComesWithTheExitIsNotLost(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	limitation := &container.Limitation{Reason: container.ReasonLimitationMemory}
	f.isolator.watch = func(ctx context.Context) (*container.Limitation, error) { <-ctx.Done(); return limitation, nil }
	f.launch(t, id).exit(1)
	if got, err := f.Wait(t.Context(), id); err != nil || got.Limitation != limitation || got.ExitCode() != 137 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAWatchThatFailsEndsTheContainer(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	cause := errors.New("the cause")
	f.isolator.watch = func(context.Context) (*container.Limitation, error) { return nil, cause }
	f.launch(t, id)
	if _, err := f.Wait(t.Context(), id); !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
	f.assertNothingLeft(t)
}

// What the init process left, a container that runs as root may have overwritten.
func TestStatus(t *testing.T) {
	for text, want := range map[string]int{"": 137, "0": 0, "1792": 7, "15": 143, "139": 139, "9": 137} {
		f, id := newFixture(t), mustID(t, "c")
		f.launch(t, id).end(text)
		if got, err := f.Wait(t.Context(), id); err != nil || got.ExitCode() != want {
			t.Errorf("%q: %d, %v, want %d", text, got.ExitCode(), err, want)
		}
	}
	for _, text := range []string{"x", "-1", "65536", "256256256256256256256", " 0", strings.Repeat("1", 1<<20)} {
		f, id := newFixture(t), mustID(t, "c")
		f.launch(t, id).end(text)
		if got, err := f.Wait(t.Context(), id); err == nil || got.ExitCode() != 125 {
			t.Errorf("%.20q: %d, %v, want an error", text, got.ExitCode(), err)
		}
		f.assertNothingLeft(t)
	}
}

func TestASandboxThatIsSomebodysStays(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	file := filepath.Join(f.Layout.Sandbox(id), "precious")
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("data"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := f.Launch(t.Context(), id, request()); !errors.Is(err, container.ErrExists) || !strings.Contains(err.Error(), filepath.Dir(file)) {
		t.Errorf("error %v, want ErrExists with the path", err)
	}
	if err := f.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := f.Destroy(t.Context(), id); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "data" {
		t.Errorf("the file has %q, %v", data, err)
	}
	if err := os.RemoveAll(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	f.assertNothingLeft(t)
}

func TestASandboxThatNobodyWantsIsReplaced(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	sandbox := f.Layout.Sandbox(id)
	if err := errors.Join(os.MkdirAll(filepath.Join(sandbox, "old"), 0o755), os.WriteFile(f.Layout.Foreground(id), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	process := f.launch(t, id)
	if _, err := os.Lstat(filepath.Join(sandbox, "old")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was in the sandbox: %v", err)
	}
	process.exit(0)
	if _, err := f.Wait(t.Context(), id); err != nil {
		t.Error(err)
	}
	f.assertNothingLeft(t)
}

func TestAnUndoThatFailsCanBeTriedAgain(t *testing.T) {
	cause := errors.New("the cause")
	for name, again := range map[string]func(f *fixture, id container.ID) error{
		"by Destroy": func(f *fixture, id container.ID) error {
			existed, err := f.Destroy(context.Background(), id)
			if !existed {
				err = errors.Join(err, errors.New("there was none"))
			}
			return err
		},
		"by Recover": func(f *fixture, _ container.ID) error { return f.Recover(context.Background()) },
		"by Recover in another process": func(f *fixture, _ container.ID) error {
			return fixtureAt(t, f.Layout).Recover(context.Background())
		},
	} {
		broken := func(f *fixture) {
			f.isolator.cleanup = func() error { return cause }
		}
		mended := func(f *fixture) { f.isolator.cleanup = nil }
		check := func(t *testing.T, f *fixture, id container.ID) {
			t.Helper()
			if found := leftOvers(t, f.Layout); !slices.Contains(found, f.Layout.Container(id).Dir) {
				t.Errorf("the record is gone, only %q is left", found)
			}
			mended(f)
			if err := again(f, id); err != nil {
				t.Error(err)
			}
			f.assertNothingLeft(t)
		}
		t.Run("of a launch, "+name, func(t *testing.T) {
			f, id := newFixture(t), mustID(t, "c")
			broken(f)
			f.launcher.onRelease = func() error { return errors.New("the launch fails") }
			if err := f.Launch(t.Context(), id, request()); !errors.Is(err, cause) {
				t.Errorf("Launch: %v", err)
			}
			check(t, f, id)
		})
		t.Run("of a container that has ended, "+name, func(t *testing.T) {
			f, id := newFixture(t), mustID(t, "c")
			broken(f)
			f.launch(t, id).exit(3)
			got, err := f.Wait(t.Context(), id)
			if !errors.Is(err, cause) || got.ExitCode() != 3 {
				t.Errorf("Wait: %+v, %v", got, err)
			}
			check(t, f, id)
		})
		t.Run("of a container that was destroyed, "+name, func(t *testing.T) {
			f, id := newFixture(t), mustID(t, "c")
			broken(f)
			f.launch(t, id)
			if _, err := f.Destroy(t.Context(), id); !errors.Is(err, cause) {
				t.Errorf("Destroy: %v", err)
			}
			check(t, f, id)
		})
	}
}

// A process that cannot be killed keeps everything that it may use.
func TestNothingIsRemovedUnderALivingProcess(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	cause := errors.New("stuck in the kernel")
	f.launcher.onDestroy = func() error { return cause }
	f.isolator.isolate = func() error { return errors.New("the launch fails") }
	if err := f.Launch(t.Context(), id, request()); !errors.Is(err, cause) {
		t.Errorf("Launch: %v", err)
	}
	if slices.Contains(f.isolator.events, "cleanup c") {
		t.Error("the isolators cleaned up")
	}
	if _, err := os.Stat(f.Layout.Sandbox(id)); err != nil {
		t.Error(err)
	}
	f.launcher.onDestroy = func() error { return nil }
	if _, err := f.Destroy(t.Context(), id); err != nil {
		t.Error(err)
	}
	f.assertNothingLeft(t)
}

func TestIsolatorsCleanUpInReverseOrderAndPastFailures(t *testing.T) {
	f, id := newFixture(t), mustID(t, "c")
	var mu sync.Mutex
	var order []string
	f.Isolators = nil
	for n := range 3 {
		i := &fakeIsolator{}
		i.prepare = func(context.Context, *isolator.Container) (*isolator.LaunchInfo, error) {
			order = append(order, fmt.Sprint("prepare ", n))
			return nil, nil
		}
		i.cleanup = func() error {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, fmt.Sprint("cleanup ", n))
			return fmt.Errorf("failure %d", n)
		}
		f.Isolators = append(f.Isolators, i)
	}
	f.launch(t, id).exit(0)
	_, err := f.Wait(t.Context(), id)
	for n := range 3 {
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint("failure ", n)) {
			t.Errorf("error %v does not have failure %d", err, n)
		}
	}
	if diff := cmp.Diff([]string{"prepare 0", "prepare 1", "prepare 2", "cleanup 2", "cleanup 1", "cleanup 0"}, order); diff != "" {
		t.Error(diff)
	}
}
