//go:build linux

package linux

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/testrig"
	"berth/launcher"
	"berth/launcher/launchertest"
	"berth/launcher/plan"
	"berth/state"
)

// newLauncher returns a launcher in directories and below a cgroup of its own.
func newLauncher(t *testing.T) *Launcher {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("BERTH_TEST_REQUIRE_ROOT") == "1" {
			t.Fatal("launching needs root")
		}
		t.Skip("launching needs root")
	}
	bin, err := testrig.Binaries()
	if err != nil {
		t.Fatal(err)
	}
	layout, err := state.NewLayout(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(Options{Layout: layout, Cgroups: host, CgroupsRoot: "berth-test-" + strings.ToLower(rand.Text()[:8]), Dir: bin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after all containers
		l.Close()
		for _, dir := range l.dirs(t, container.ID{}) {
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("left: %s, %v", dir, err)
			}
		}
	})
	return l
}

// newID returns the id of a container that has a record, and is gone at the end of the
// test.
func newID(t *testing.T, l *Launcher, value string) container.ID {
	t.Helper()
	id, err := container.ParseID(value)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(l.Layout.Container(id).Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := l.Destroy(context.Background(), id); err != nil {
				t.Error(err)
			}
		}
		for _, dir := range l.dirs(t, id) {
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("left: %s, %v", dir, err)
			}
		}
	})
	return id
}

// dirs returns where the container's cgroup may be.
func (l *Launcher) dirs(t *testing.T, id container.ID) (dirs []string) {
	t.Helper()
	controllers := l.everyController()
	group, err := l.Cgroups.Group(l.groupPath(id), controllers)
	if err != nil {
		t.Fatal(err)
	}
	for _, controller := range controllers {
		dir, err := group.Dir(controller)
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir.Path())
	}
	return dirs
}

func spec(t *testing.T, l *Launcher, id container.ID, args ...string) launcher.Spec {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	return launcher.Spec{
		Plan:        plan.Plan{Command: plan.Command{Path: args[0], Args: args, Env: []string{"PATH=" + os.Getenv("PATH")}, Dir: "/"}},
		Namespaces:  []launcher.Namespace{launcher.PID},
		Controllers: []string{"memory"},
		Stdio:       [3]*os.File{null, null, os.Stderr},
		Status:      l.Layout.Container(id).Status(),
	}
}

func fork(t *testing.T, l *Launcher, id container.ID, args ...string) launcher.Process {
	t.Helper()
	p, err := l.Fork(t.Context(), id, spec(t, l, id, args...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNewWantsTheInitProgram(t *testing.T) {
	_, err := New(Options{Dir: t.TempDir()})
	if !errors.Is(err, container.ErrFailedPrecondition) || os.Geteuid() == 0 && !strings.Contains(err.Error(), "--launcher_dir") {
		t.Errorf("error %v", err)
	}
}

func TestConformance(t *testing.T) {
	l := newLauncher(t)
	launchertest.Run(t, launchertest.Fixture{
		Launcher: l, Layout: l.Layout, Record: state.Container.Pid,
		Spec:       launcher.Spec{Namespaces: []launcher.Namespace{launcher.Mount}, Controllers: []string{"memory"}},
		Impossible: map[string]func(*launcher.Spec){"a controller that there is not": func(s *launcher.Spec) { s.Controllers = []string{"no_such"} }},
	})
}

// In its cgroups it is before anybody hears of it, in those of a user namespace, too.
func TestTheWaitingInitProcess(t *testing.T) {
	l := newLauncher(t)
	for name, change := range map[string]func(*launcher.Spec){
		"plain": func(*launcher.Spec) {},
		"in_a_user_namespace": func(s *launcher.Spec) {
			s.Namespaces = append(s.Namespaces, launcher.User, launcher.Mount)
			s.IDs = container.IDRange{Start: 3_000_000_000, Size: 65536}
			s.Plan.Rootfs = t.TempDir()
		},
	} {
		t.Run(name, func(t *testing.T) { l.testWaiting(t, newID(t, l, name), change) })
	}
}

func (l *Launcher) testWaiting(t *testing.T, id container.ID, change func(*launcher.Spec)) {
	s := spec(t, l, id, "sleep", "1000")
	change(&s)
	p, err := l.Fork(t.Context(), id, s)
	if err != nil {
		t.Fatal(err)
	}
	group, err := l.Group(id)
	if err != nil {
		t.Fatal(err)
	}
	if pids, err := group.Processes(); err != nil || !slices.Equal(pids, []int{p.Pid()}) {
		t.Errorf("in the cgroup: %v, %v, want %d", pids, err, p.Pid())
	}
	for _, controller := range group.Controllers() {
		dir, err := group.Dir(controller)
		if err != nil {
			t.Fatal(err)
		}
		if pids, err := dir.Processes(); err != nil || !slices.Equal(pids, []int{p.Pid()}) {
			t.Errorf("in the cgroup of %s: %v, %v, want %d", controller, pids, err, p.Pid())
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: %v", err)
	}
	if err := l.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAForkThatFailsHalfwayLeavesNobody(t *testing.T) {
	l := newLauncher(t)
	for name, breakIt := range map[string]func(id container.ID, s *launcher.Spec){
		"the cgroup cannot be written": func(id container.ID, _ *launcher.Spec) { os.MkdirAll(l.Layout.Container(id).Cgroup()+"/x", 0o700) },
		"an unknown controller":        func(_ container.ID, s *launcher.Spec) { s.Controllers = []string{"no_such"} },
	} {
		t.Run(name, func(t *testing.T) {
			id := newID(t, l, strings.ReplaceAll(name, " ", "_"))
			s := spec(t, l, id, "sleep", "1000")
			breakIt(id, &s)
			if _, err := l.Fork(t.Context(), id, s); err == nil {
				t.Error("forked")
			}
			os.RemoveAll(l.Layout.Container(id).Cgroup() + "/x")
			if stat, err := os.Stat(l.Layout.Container(id).Cgroup()); err == nil && stat.IsDir() {
				os.Remove(l.Layout.Container(id).Cgroup())
			}
			group, err := l.Cgroups.Group(l.groupPath(id), []string{"memory"})
			if err != nil {
				t.Fatal(err)
			}
			if pids, err := group.Processes(); err != nil || len(pids) > 0 {
				t.Errorf("in the cgroup: %v, %v", pids, err)
			}
		})
	}
}

func TestAContainerThatWasNeverForked(t *testing.T) {
	l := newLauncher(t)
	id := newID(t, l, "c")
	if _, err := l.Group(id); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("Group: %v", err)
	}
	if err := l.Destroy(t.Context(), id); err != nil {
		t.Errorf("Destroy: %v", err)
	}
}

// The record of a cgroup may be torn; the cgroup is where it would be.
func TestATornRecord(t *testing.T) {
	l := newLauncher(t)
	for _, text := range []string{"", "{", `{"path":"berth`, "\x00\x00\x00"} {
		id := newID(t, l, "c")
		fork(t, l, id, "sleep", "1000")
		if err := os.WriteFile(l.Layout.Container(id).Cgroup(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := l.Destroy(t.Context(), id); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		for _, dir := range l.dirs(t, id) {
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%q: left %s, %v", text, dir, err)
			}
		}
	}
}

// A container that was launched below another --cgroups_root is destroyed there.
func TestTheRecordedPathCounts(t *testing.T) {
	l := newLauncher(t)
	id := newID(t, l, "c")
	p := fork(t, l, id, "sleep", "1000")
	other := &Launcher{Options: l.Options}
	other.CgroupsRoot += "-other"
	if err := other.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

// low has the descriptors up to lowest, from before the runtime takes any of them.
var low = func() (held []int) {
	const lowest = 12
	for fd := 0; fd < lowest; held = append(held, fd) {
		var err error
		if fd, err = unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			panic(err)
		}
	}
	return held
}()

// The child gives the descriptors that are handed over the numbers from 0 on, which may
// be those of others that it has: among them the program that it is to execute.
func TestTheProgramIsFoundWhateverItsNumber(t *testing.T) {
	l := newLauncher(t)
	for _, free := range low {
		id := newID(t, l, "c"+strconv.Itoa(free))
		s := spec(t, l, id, "true")
		unix.Close(free) // so that it is the next one to be opened
		p, err := l.Fork(t.Context(), id, s)
		if err != nil {
			t.Fatalf("descriptor %d: %v", free, err)
		}
		if err := p.Release(t.Context()); err != nil {
			t.Errorf("descriptor %d: %v", free, err)
		}
		if err := p.Wait(t.Context()); err != nil {
			t.Errorf("descriptor %d: %v", free, err)
		}
		// Taken again, so that the next one is alone; the runtime may have been quicker.
		if fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, free); err != nil {
			t.Fatal(err)
		} else if fd != free {
			unix.Close(fd)
		}
	}
}

func TestCloneFlags(t *testing.T) {
	for _, c := range []struct {
		namespaces []launcher.Namespace
		want       uintptr
	}{
		{nil, unix.CLONE_NEWNS}, // unless the plan says that it lives in the host's
		{[]launcher.Namespace{launcher.Mount}, unix.CLONE_NEWNS},
		{[]launcher.Namespace{launcher.PID, launcher.IPC, launcher.UTS, launcher.Network},
			unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET},
	} {
		if got := cloneFlags(launcher.Spec{Namespaces: c.namespaces}); got != c.want {
			t.Errorf("%v: %x, want %x", c.namespaces, got, c.want)
		}
		onHost := launcher.Spec{Namespaces: c.namespaces, Plan: plan.Plan{HostMounts: true}}
		if !slices.Contains(c.namespaces, launcher.Mount) && cloneFlags(onHost)&unix.CLONE_NEWNS != 0 {
			t.Errorf("%v: a mount namespace, and the plan has none", c.namespaces)
		}
	}
}
