package processes

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
)

func TestMain(m *testing.M) {
	if os.Getenv("BERTH_TEST_REAPER") == "1" {
		reap()
		return
	}
	os.Exit(m.Run())
}

// reap is a subreaper that executes its arguments and then waits for everything.
func reap() {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); errors.Is(err, unix.ECHILD) {
			return
		}
	}
}

// start starts a script below a subreaper, in a session of its own, and waits for its first
// line.
func start(t *testing.T, script string) (ID, *exec.Cmd) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A file: whatever lives on holds nobody up.
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	cmd := exec.Command("sh", "-c", "exec \"$@\" >"+out.Name(), "sh", self, "sh", "-c", script)
	cmd.Env, cmd.Stderr = append(os.Environ(), "BERTH_TEST_REAPER=1"), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Look(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	id := p.ID
	t.Cleanup(func() {
		if err := KillTree(context.Background(), id); err != nil && !isGone(err) {
			t.Error(err)
		}
		cmd.Wait()
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if text, err := os.ReadFile(out.Name()); err == nil && len(text) > 0 {
			return id, cmd
		}
		if time.Now().After(end) {
			t.Fatal("it says nothing")
		}
	}
}

// withArgument counts the living processes that have an argument.
func withArgument(t *testing.T, argument string) (n int) {
	t.Helper()
	err := each(func(p Process) {
		line, _ := os.ReadFile("/proc/" + strconv.Itoa(p.Pid) + "/cmdline")
		if !p.Dead && strings.Contains(string(line), "\x00"+argument+"\x00") {
			n++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTree(t *testing.T) {
	root, _ := start(t, "sleep 1000 & (sleep 1000 & sleep 1000 & echo; wait)")
	tree, err := Tree(root)
	if err != nil || len(tree) != 6 || tree[0].ID != root {
		t.Fatalf("%+v, %v", tree, err)
	}
	for _, p := range tree {
		if p.Threads == 0 || p.Session != root.Pid || p.Dead {
			t.Errorf("%v: %d threads, session %d, dead: %v", p.ID, p.Threads, p.Session, p.Dead)
		}
	}
	if tree[0].RSS == 0 { // of small processes the kernel does not know it exactly
		t.Error("the root has no memory")
	}
	if _, err := Tree(ID{root.Pid, root.Start + 1}); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("of a later one with its number: %v", err)
	}
}

func TestTimesCountThoseOfTheDead(t *testing.T) {
	root, _ := start(t, `sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; echo; sleep 1000`)
	tree, err := Tree(root)
	if err != nil {
		t.Fatal(err)
	}
	var sum time.Duration
	for _, p := range tree {
		sum += p.User + p.System
	}
	if sum < 50*time.Millisecond {
		t.Errorf("%v", sum)
	}
}

func TestKillTree(t *testing.T) {
	for name, script := range map[string]string{
		"children":                "sleep MARK & sleep MARK & echo; wait",
		"forked twice":            "(setsid sleep MARK & ); (sleep MARK &); echo; exec sleep MARK",
		"the first one is gone":   "(setsid setsid sh -c 'sleep MARK; true' &); sleep 0.01; echo",
		"they ignore signals":     "trap '' TERM HUP INT; sleep MARK & sleep MARK & echo; wait",
		"stopped":                 "sleep MARK & kill -STOP $!; echo; wait",
		"forks as fast as it can": "f() { sleep MARK & f & }; f; echo; while :; do f; sleep 0.05; done",
		"always a new one":        "f() { (f &) ; exit; }; echo; sh -c 'while :; do setsid sh -c \"sleep MARK & exit\" & done'",
	} {
		t.Run(name, func(t *testing.T) {
			mark := "1000." + strconv.Itoa(os.Getpid()) + strconv.Itoa(len(name))
			prefix := ""
			if strings.Contains(name, "forks") || strings.Contains(name, "always") {
				prefix = "ulimit -u 400 2>/dev/null; "
			}
			root, cmd := start(t, prefix+strings.ReplaceAll(script, "MARK", mark))
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := KillTree(ctx, root); err != nil {
				t.Error(err)
			}
			cmd.Wait()
			if n := withArgument(t, mark); n > 0 {
				t.Errorf("%d live on", n)
			}
			if err := KillTree(ctx, root); !isGone(err) {
				t.Errorf("again: %v", err)
			}
		})
	}
}

func TestKillSession(t *testing.T) {
	mark := "1001." + strconv.Itoa(os.Getpid())
	root, cmd := start(t, "sleep "+mark+" & sleep "+mark+" & echo; wait")
	h, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := errors.Join(h.Signal(syscall.SIGKILL), h.Wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	for end := time.Now().Add(10 * time.Second); withArgument(t, mark) != 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("they do not live on")
		}
	}
	for range 2 {
		if err := KillSession(t.Context(), root); err != nil {
			t.Error(err)
		}
	}
	if n := withArgument(t, mark); n > 0 {
		t.Errorf("%d live on", n)
	}
}

// A number that is another one's by now is not touched.
func TestALaterProcessOfTheSameNumber(t *testing.T) {
	mark := "1002." + strconv.Itoa(os.Getpid())
	root, _ := start(t, "sleep "+mark+" & echo; wait")
	earlier := ID{root.Pid, root.Start - 1}
	if err := KillTree(t.Context(), earlier); !isGone(err) {
		t.Errorf("the tree: %v", err)
	}
	if err := KillSession(t.Context(), earlier); err != nil {
		t.Errorf("the session: %v", err)
	}
	if tree, err := Tree(root); err != nil || len(tree) != 3 {
		t.Errorf("%d live, %v", len(tree), err)
	}
}

func TestAKillThatCannotEndSaysSo(t *testing.T) {
	root, _ := start(t, "echo; sleep 1000")
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the cause")
	cancel(cause)
	if err := KillTree(ctx, root); !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
}

func TestDescribe(t *testing.T) {
	before := time.Now()
	cmd := exec.Command("sleep", "1003")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d, err := Describe(cmd.Process.Pid)
	// The kernel says that it is executed before it says by which arguments.
	for end := time.Now().Add(10 * time.Second); err == nil && d.Command == "[sleep]" && time.Now().Before(end); time.Sleep(time.Millisecond) {
		d, err = Describe(cmd.Process.Pid)
	}
	if err != nil || d.Command != "sleep 1003" || d.Parent != os.Getpid() || d.UID != uint32(os.Geteuid()) {
		t.Errorf("%+v, %v", d, err)
	}
	// In ticks, of which there are 100 in a second.
	if d.Started.Before(before.Add(-time.Second)) || d.Started.After(time.Now().Add(time.Second)) {
		t.Errorf("started at %v, and it was after %v", d.Started, before)
	}
	h, err := Open(ID{cmd.Process.Pid, mustLook(t, cmd.Process.Pid).Start})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := errors.Join(h.Signal(syscall.SIGKILL), h.Wait(t.Context())); err != nil {
		t.Error(err)
	}
	if d, err := Describe(cmd.Process.Pid); err != nil || d.Command != "[sleep]" {
		t.Errorf("of one that nobody has waited for: %+v, %v", d, err)
	}
	cmd.Wait()
	if _, err := Describe(cmd.Process.Pid); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("of nobody: %v", err)
	}
}

func mustLook(t *testing.T, pid int) Process {
	t.Helper()
	p, err := Look(pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
