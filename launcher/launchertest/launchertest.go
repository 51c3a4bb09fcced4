//go:build linux

// Package launchertest is the conformance suite of launchers. A new one is done when Run is
// green for it.
package launchertest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"berth/container"
	"berth/internal/testrig"
	"berth/launcher"
	"berth/launcher/plan"
	"berth/state"
)

// Fixture is a launcher and what the suite has to know of it.
type Fixture struct {
	Launcher launcher.Launcher
	Layout   state.Layout
	// Spec has what the launcher holds a container together by; the suite adds a command.
	Spec launcher.Spec
	// Record is where the init process of a container is recorded.
	Record func(state.Container) string
	// Impossible are requests that it cannot fulfil, by what they ask for.
	Impossible map[string]func(*launcher.Spec)
}

// Init returns the directory of a berth-init.
func Init(t testing.TB) string {
	t.Helper()
	dir, err := testrig.Binaries()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Run checks a launcher against the contract in package launcher.
func Run(t *testing.T, f Fixture) {
	t.Run("a life", f.life)
	t.Run("a command that is not executed", f.notExecuted)
	t.Run("the streams, the environment and the directory are the command's", f.command)
	t.Run("it waits until it is released", f.waits)
	t.Run("a release ends with its context", f.releaseEnds)
	t.Run("a fork that fails halfway leaves nobody", f.failsHalfway)
	t.Run("what it cannot give is refused", f.impossible)
	t.Run("Destroy of a container that was never forked", f.neverForked)
	t.Run("Destroy ends everything", f.destroyEndsEverything)
	t.Run("Destroy after the end leaves nobody", f.destroyAfterTheEnd)
	t.Run("Destroy ends what is nested", f.nested)
	t.Run("Destroy by another process", f.destroyByAnother)
	t.Run("many at a time", f.many)
	t.Run("Processes", f.processes)
	t.Run("Attach", f.attach)
	t.Run("Attach to what was not forked", f.attachToNothing)
}

// id returns the id of a container that has a directory for its records. At the end of the
// test it is gone.
func (f Fixture) id(t *testing.T, value string) container.ID {
	t.Helper()
	id, err := container.ParseID(value)
	if err != nil {
		t.Fatal(err)
	}
	f.admit(t, id)
	return id
}

func (f Fixture) admit(t *testing.T, id container.ID) {
	t.Helper()
	dir := f.Layout.Container(id).Dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := f.Launcher.Destroy(context.Background(), id); err != nil {
				t.Error(err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
}

func (f Fixture) spec(id container.ID, args ...string) launcher.Spec {
	spec := f.Spec
	spec.Plan.Command = plan.Command{Path: args[0], Args: args, Env: []string{"PATH=" + os.Getenv("PATH")}, Dir: "/",
		UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	spec.Stdio[2] = os.Stderr
	spec.Status = f.Layout.Container(id).Status()
	return spec
}

func (f Fixture) fork(t *testing.T, id container.ID, args ...string) launcher.Process {
	t.Helper()
	p, err := f.Launcher.Fork(t.Context(), id, f.spec(id, args...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// run forks and releases.
func (f Fixture) run(t *testing.T, id container.ID, args ...string) launcher.Process {
	t.Helper()
	p := f.fork(t, id, args...)
	if err := p.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

func (f Fixture) status(t *testing.T, id container.ID) string {
	t.Helper()
	data, err := os.ReadFile(f.Layout.Container(id).Status())
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

func (f Fixture) life(t *testing.T) {
	id := f.id(t, "c")
	p := f.fork(t, id, "sh", "-c", "exit 7")
	if got := f.status(t, id); got != "" {
		t.Errorf("before the release the status is %q", got)
	}
	if err := p.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if got := f.status(t, id); got != "1792" {
		t.Errorf("the status is %q", got)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("a signal after the end: %v", err)
	}
}

func (f Fixture) notExecuted(t *testing.T) {
	for value, c := range map[string]struct {
		path string
		code int
	}{"missing": {"/no/such/command", 127}, "denied": {"/etc/passwd", 126}} {
		id := f.id(t, value)
		p := f.fork(t, id, c.path)
		var start *launcher.StartError
		if err := p.Release(t.Context()); !errors.As(err, &start) || start.Code != c.code {
			t.Errorf("%s: %v", value, err)
		}
		if err := p.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if got := f.status(t, id); got != strconv.Itoa(c.code<<8) {
			t.Errorf("%s: the status is %q", value, got)
		}
	}
}

func (f Fixture) command(t *testing.T) {
	id := f.id(t, "c")
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	// Beside the streams only what ls has open itself.
	spec := f.spec(id, "sh", "-c", "pwd; echo $NAME; cat; ls /proc/self/fd | wc -l; id -u")
	spec.Plan.Command.Dir, spec.Stdio[1] = "/usr", out
	spec.Plan.Command.Env = append(spec.Plan.Command.Env, "NAME=value")
	p, err := f.Launcher.Fork(t.Context(), id, spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Release(t.Context()), p.Wait(t.Context())); err != nil {
		t.Error(err)
	}
	want := "/usr\nvalue\n4\n" + strconv.Itoa(os.Geteuid()) + "\n"
	if text, err := os.ReadFile(out.Name()); err != nil || string(text) != want {
		t.Errorf("it prints %q, %v, want %q", text, err, want)
	}
}

func (f Fixture) waits(t *testing.T) {
	id, mark := f.id(t, "c"), newMark()
	p := f.fork(t, id, "sleep", mark)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: %v", err)
	}
	if n := living(t, mark); n > 0 {
		t.Errorf("%d commands run", n)
	}
	if err := errors.Join(f.Launcher.Destroy(t.Context(), id), p.Wait(t.Context())); err != nil {
		t.Error(err)
	}
}

// Whatever keeps the init process from going on, a release can be cancelled.
func (f Fixture) releaseEnds(t *testing.T) {
	p := f.fork(t, f.id(t, "c"), "sleep", "1000")
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("the cause")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
	if err := p.Release(ctx); !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
}

func (f Fixture) failsHalfway(t *testing.T) {
	for name, breakIt := range map[string]func(id container.ID, s *launcher.Spec) error{
		"no directory for the status": func(_ container.ID, s *launcher.Spec) error { s.Status = "/no/such/directory/status"; return nil },
		"it cannot be recorded": func(id container.ID, _ *launcher.Spec) error {
			return os.MkdirAll(f.Record(f.Layout.Container(id))+"/x", 0o700)
		},
		"the plan is too big": func(_ container.ID, s *launcher.Spec) error {
			s.Plan.Command.Dir = strings.Repeat("x", 9<<20)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := f.id(t, strings.ReplaceAll(name, " ", "_"))
			s := f.spec(id, "sleep", "1000")
			if err := breakIt(id, &s); err != nil {
				t.Fatal(err)
			}
			before := inits(t)
			if _, err := f.Launcher.Fork(t.Context(), id, s); err == nil {
				t.Error("forked")
			}
			if now := inits(t); now > before {
				t.Errorf("%d init processes, and there were %d", now, before)
			}
			if err := os.RemoveAll(f.Record(f.Layout.Container(id))); err != nil {
				t.Error(err)
			}
		})
	}
}

func (f Fixture) impossible(t *testing.T) {
	for name, ask := range f.Impossible {
		id := f.id(t, strings.ReplaceAll(name, " ", "_"))
		s := f.spec(id, "sleep", "1000")
		ask(&s)
		before := inits(t)
		if _, err := f.Launcher.Fork(t.Context(), id, s); !errors.Is(err, container.ErrNotSupported) {
			t.Errorf("%s: %v", name, err)
		}
		if now := inits(t); now > before {
			t.Errorf("%s: it was forked", name)
		}
	}
}

func (f Fixture) neverForked(t *testing.T) {
	if err := f.Launcher.Destroy(t.Context(), f.id(t, "c")); err != nil {
		t.Error(err)
	}
}

// hostile are commands that do not want to end. Each has processes with the argument MARK.
var hostile = map[string]string{
	"children":                 "sleep MARK & sleep MARK & sleep MARK",
	"forked twice":             "(setsid sleep MARK &); (sleep MARK &); sleep MARK",
	"they ignore signals":      "trap '' HUP INT TERM QUIT; sleep MARK & exec sleep MARK",
	"one is stopped":           "sleep MARK & kill -STOP $!; exec sleep MARK",
	"it stops itself":          "sleep MARK & kill -STOP $$",
	"forks as fast as it can":  "f() { sleep MARK & f & }; sleep MARK & while :; do f; done",
	"in sessions of their own": "sleep MARK & while :; do setsid sh -c 'sleep MARK & exit' & done",
}

func (f Fixture) destroyEndsEverything(t *testing.T) {
	for name, script := range hostile {
		t.Run(name, func(t *testing.T) {
			id, mark := f.id(t, "c"), newMark()
			// A bound on what a mistake here costs the host.
			script := "ulimit -u 3000 2>/dev/null; " + strings.ReplaceAll(script, "MARK", mark)
			p := f.run(t, id, "sh", "-c", script)
			soon(t, "the command", func() bool { return living(t, mark) > 0 })
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := errors.Join(f.Launcher.Destroy(ctx, id), p.Wait(ctx)); err != nil {
				t.Error(err)
			}
			if n := living(t, mark); n > 0 {
				t.Errorf("%d live on", n)
			}
		})
	}
}

// The command is not all there is of a container.
func (f Fixture) destroyAfterTheEnd(t *testing.T) {
	id, mark := f.id(t, "c"), newMark()
	p := f.run(t, id, "sh", "-c", strings.ReplaceAll("(setsid sleep MARK &); sleep MARK & sleep MARK & exit 3", "MARK", mark))
	if err := errors.Join(p.Wait(t.Context()), f.Launcher.Destroy(t.Context(), id)); err != nil {
		t.Error(err)
	}
	if got := f.status(t, id); got != "768" {
		t.Errorf("the status is %q", got)
	}
	if n := living(t, mark); n > 0 {
		t.Errorf("%d live on", n)
	}
}

func (f Fixture) nested(t *testing.T) {
	id, mark := f.id(t, "parent"), newMark()
	f.run(t, id, "sleep", mark)
	child, err := id.Child("child")
	if err != nil {
		t.Fatal(err)
	}
	f.admit(t, child)
	spec := f.spec(child, "sleep", mark)
	spec.Parent, spec.SharesCgroups, spec.Controllers = id, true, nil
	p, err := f.Launcher.Fork(t.Context(), child, spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Launcher.Destroy(t.Context(), id), p.Wait(t.Context())); err != nil {
		t.Error(err)
	}
	if n := living(t, mark); n > 0 {
		t.Errorf("%d live on", n)
	}
}

// Another process has only what was recorded: the process was not forked by it, and may not
// have been waited for.
func (f Fixture) destroyByAnother(t *testing.T) {
	for value, end := range map[string]syscall.Signal{"running": 0, "killed": syscall.SIGKILL} {
		id, mark := f.id(t, value), newMark()
		p := f.run(t, id, "sh", "-c", strings.ReplaceAll("sleep MARK & exec sleep MARK", "MARK", mark))
		soon(t, "the command", func() bool { return living(t, mark) == 2 })
		if end != 0 {
			if err := syscall.Kill(p.Pid(), end); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Launcher.Destroy(t.Context(), id); err != nil {
			t.Error(err)
		}
		if n := living(t, mark); n > 0 {
			t.Errorf("%s: %d live on", value, n)
		}
		if err := p.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func (f Fixture) many(t *testing.T) {
	var all sync.WaitGroup
	for n := range 6 {
		id := f.id(t, "c"+strconv.Itoa(n))
		all.Go(func() {
			for range 3 {
				p, err := f.Launcher.Fork(t.Context(), id, f.spec(id, "sh", "-c", "exit "+strconv.Itoa(n)))
				if err != nil {
					t.Error(err)
					return
				}
				if err := errors.Join(p.Release(t.Context()), p.Wait(t.Context()), f.Launcher.Destroy(t.Context(), id)); err != nil {
					t.Error(err)
				}
				if got := f.status(t, id); got != strconv.Itoa(n<<8) {
					t.Errorf("the status of %s is %q", id, got)
				}
			}
		})
	}
	all.Wait()
}

func (f Fixture) processes(t *testing.T) {
	lister, ok := f.Launcher.(launcher.Lister)
	if !ok {
		t.Skip("it is no Lister")
	}
	id, mark := f.id(t, "c"), newMark()
	if _, err := lister.Processes(id); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("before the fork: %v", err)
	}
	p := f.run(t, id, "sh", "-c", strings.ReplaceAll("(setsid sleep MARK &); sleep MARK & exec sleep MARK", "MARK", mark))
	soon(t, "the command", func() bool { return living(t, mark) == 3 })
	pids, err := lister.Processes(id)
	if err != nil || len(pids) != 4 || !slices.Contains(pids, p.Pid()) {
		t.Errorf("%v, %v, want %d and three more", pids, err, p.Pid())
	}
}

func (f Fixture) attach(t *testing.T) {
	id := f.id(t, "c")
	ready := filepath.Join(t.TempDir(), "ready")
	p := f.run(t, id, "sh", "-c", "trap 'exit 3' TERM; : >"+ready+"; while :; do sleep 0.01; done")
	soon(t, "the trap", func() bool { _, err := os.Stat(ready); return err == nil })
	a, err := f.Launcher.Attach(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if a.Pid() != p.Pid() {
		t.Errorf("attached to %d, want %d", a.Pid(), p.Pid())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := a.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: %v", err)
	}
	if err := errors.Join(a.Release(t.Context()), a.Signal(syscall.SIGTERM)); err != nil {
		t.Error(err)
	}
	if err := errors.Join(a.Wait(t.Context()), a.Wait(t.Context()), p.Wait(t.Context())); err != nil {
		t.Error(err)
	}
	if got := f.status(t, id); got != "768" {
		t.Errorf("the status is %q", got)
	}
	if err := a.Signal(syscall.SIGTERM); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("a signal after the end: %v", err)
	}
	if _, err := f.Launcher.Attach(t.Context(), id); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("Attach after the end: %v", err)
	}
}

// A later process of the same number is another one; a torn record is of nobody. Neither
// is killed.
func (f Fixture) attachToNothing(t *testing.T) {
	id := f.id(t, "c")
	for _, record := range []string{"", "1", "1 ", strconv.Itoa(os.Getpid()) + " 1\n", "-1 5\n", "0 0\n", "x y\n", "\x00\x00"} {
		if err := os.WriteFile(f.Record(f.Layout.Container(id)), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Launcher.Attach(t.Context(), id); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("%q: %v", record, err)
		}
		if err := f.Launcher.Destroy(t.Context(), id); err != nil {
			t.Errorf("%q: Destroy: %v", record, err)
		}
	}
}

var marks struct {
	sync.Mutex
	n int
}

// newMark returns a number of seconds that no other sleep has.
func newMark() string {
	marks.Lock()
	defer marks.Unlock()
	marks.n++
	return "1000." + strconv.Itoa(os.Getpid()) + "0" + strconv.Itoa(marks.n)
}

// living counts the processes that live and have an argument.
func living(t *testing.T, argument string) int {
	t.Helper()
	return count(t, func(dir string) bool {
		line, _ := os.ReadFile(dir + "/cmdline") // empty of the dead
		return strings.Contains(string(line), "\x00"+argument+"\x00")
	})
}

// inits counts the children of this process that are, or are to be, berth-init.
func inits(t *testing.T) int {
	t.Helper()
	return count(t, func(dir string) bool {
		stat, _ := os.ReadFile(dir + "/stat")
		_, fields, _ := strings.Cut(string(stat), ") ")
		words := strings.Fields(fields)
		return len(words) > 1 && words[0] != "Z" && words[1] == strconv.Itoa(os.Getpid())
	})
}

func count(t *testing.T, is func(dir string) bool) (n int) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) && is(dir) {
			n++
		}
	}
	return n
}

func soon(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not happen", what)
		}
	}
}
