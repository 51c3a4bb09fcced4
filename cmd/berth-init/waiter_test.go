//go:build linux && amd64

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"berth/internal/mount/mounttest"
	"berth/launcher/plan"
)

// Of a process of these tests, the variable says how it waits for the command that its
// arguments are. The wait status goes to descriptor 3.
const waitingVariable = "BERTH_TEST_WAITING"

func init() {
	if how := os.Getenv(waitingVariable); how != "" {
		beWaiting(waitings[how])
	}
}

// waitings are the ways to wait for a command.
var waitings = map[string]func(*child, *signals, *os.File) error{
	"as a Go program":                     func(*child, *signals, *os.File) error { return errors.ErrUnsupported },
	"as the waiter":                       becomeWaiter,
	"as the waiter that was not executed": becomeWaiterInPlace,
}

// becomeWaiterInPlace does what becomeWaiter does when the kernel does not execute the
// file.
func becomeWaiterInPlace(c *child, s *signals, status *os.File) error {
	p := waiterParameters{Command: int32(c.pid), PidFD: int32(c.pidFD), Status: int32(status.Fd()), Pipe: int32(s.pipe)}
	copy(p.Name[:], "in place")
	turnInto(-1, &p, [2]*byte{&p.Name[0], nil})
	return nil
}

func beWaiting(settle func(*child, *signals, *os.File) error) {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	s, err := catchSignals()
	check(err)
	status := os.NewFile(3, "status")
	unix.CloseOnExec(3)
	c, err := start(plan.Plan{Command: plan.Command{Path: os.Args[1], Args: os.Args[1:], Env: os.Environ(), Dir: "/"}}, standardStreams())
	check(err)
	ended, err := c.wait(s, func() { check(ignoreUnsupported(settle(c, s, status))) })
	check(err)
	_, err = status.WriteString(strconv.Itoa(int(ended)))
	check(err)
	os.Exit(exitCode(ended))
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// waiting is a process that waits for a command.
type waiting struct {
	testing.TB
	cmd    *exec.Cmd
	stdin  io.Closer
	output *bufio.Reader
	status *os.File
}

func startWaiting(t testing.TB, how string, command ...string) *waiting {
	t.Helper()
	mounttest.RequireRoot(t)
	w := &waiting{TB: t, cmd: exec.Command("/proc/self/exe", command...)}
	w.cmd.Env = append(os.Environ(), waitingVariable+"="+how)
	w.cmd.Stderr = os.Stderr
	// As it is in a container: as the first process, so that all others end with it.
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if w.stdin, err = w.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	var status *os.File
	if w.status, status, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	defer status.Close()
	w.output, w.cmd.ExtraFiles = bufio.NewReader(stdout), []*os.File{status}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.cmd.Process.Kill(); w.cmd.Wait(); w.status.Close() })
	return w
}

// says reads lines until one of each of those that are wanted was there.
func (w *waiting) says(want ...string) {
	w.Helper()
	missing := map[string]bool{}
	for _, line := range want {
		missing[line] = true
	}
	for len(missing) > 0 {
		line, err := w.output.ReadString('\n')
		if err != nil {
			w.Fatalf("missing: %v: %v", missing, err)
		}
		delete(missing, strings.TrimSpace(line))
	}
}

// settled waits until the process does what it does for long.
func (w *waiting) settled(how string) {
	w.Helper()
	names := map[string]string{"as the waiter": "berth-init", "as the waiter that was not executed": "in place"}
	if names[how] == "" {
		return
	}
	w.eventually("one thread of the name "+names[how], func() bool {
		proc := fmt.Sprintf("/proc/%d", w.cmd.Process.Pid)
		comm, err := os.ReadFile(proc + "/comm")
		threads, globErr := filepath.Glob(proc + "/task/*")
		return err == nil && globErr == nil && len(threads) == 1 && strings.TrimSpace(string(comm)) == names[how]
	})
}

func (w *waiting) eventually(what string, is func() bool) {
	w.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("no %s", what)
		}
	}
}

// ends returns the wait status of the command.
func (w *waiting) ends(code int) syscall.WaitStatus {
	w.Helper()
	text, err := io.ReadAll(w.status)
	if err != nil {
		w.Fatal(err)
	}
	number, err := strconv.Atoi(string(text))
	if err != nil {
		w.Fatalf("wait status %q: %v", text, err)
	}
	if w.cmd.Wait(); w.cmd.ProcessState.ExitCode() != code {
		w.Errorf("exit code %d, want %d", w.cmd.ProcessState.ExitCode(), code)
	}
	return syscall.WaitStatus(number)
}

func eachWaiting(t *testing.T, test func(*testing.T, string)) {
	for how := range waitings {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			test(t, how)
		})
	}
}

func TestTheStatusOfACommandThatIsWaitedFor(t *testing.T) {
	eachWaiting(t, func(t *testing.T, how string) {
		for _, c := range []struct {
			end  string
			want syscall.WaitStatus
			code int
		}{
			{"exit 0", 0, 0},
			{"exit 7", 7 << 8, 7},
			{"exit 255", 255 << 8, 255},
			{"kill -TERM $$", syscall.WaitStatus(unix.SIGTERM), 128 + 15},
			{"kill -KILL $$", syscall.WaitStatus(unix.SIGKILL), 128 + 9},
		} {
			w := startWaiting(t, how, "sh", "-c", "read x; "+c.end)
			w.settled(how)
			w.stdin.Close()
			if got := w.ends(c.code); got != c.want {
				t.Errorf("%s: %#x, want %#x", c.end, got, c.want)
			}
		}
	})
}

// forwarded are signals, by the names of trap(1), among them those that tell of faults.
var forwarded = map[string]syscall.Signal{"HUP": unix.SIGHUP, "INT": unix.SIGINT, "QUIT": unix.SIGQUIT, "ILL": unix.SIGILL, "ABRT": unix.SIGABRT, "BUS": unix.SIGBUS,
	"FPE": unix.SIGFPE, "USR1": unix.SIGUSR1, "SEGV": unix.SIGSEGV, "USR2": unix.SIGUSR2, "ALRM": unix.SIGALRM, "TERM": unix.SIGTERM, "CONT": unix.SIGCONT,
	"WINCH": unix.SIGWINCH, "PWR": unix.SIGPWR, "SYS": unix.SIGSYS, "RTMIN+3": 37, "RTMAX": 64}

// trapping prints the name of each forwarded signal that it gets, after "ready".
func trapping() []string {
	script := ""
	for name, number := range forwarded {
		script += fmt.Sprintf("trap 'echo %s' %d; ", name, number)
	}
	// A trap ends wait.
	return []string{"sh", "-c", script + "sleep 60 & echo ready; wait; while [ $? -gt 128 ]; do wait; done"}
}

func (w *waiting) forwards() {
	w.Helper()
	for _, s := range forwarded {
		if err := w.cmd.Process.Signal(s); err != nil {
			w.Fatal(err)
		}
	}
	w.says(slices.Collect(maps.Keys(forwarded))...)
}

func TestSignalsAreForwarded(t *testing.T) {
	eachWaiting(t, func(t *testing.T, how string) {
		w := startWaiting(t, how, trapping()...)
		w.says("ready")
		w.settled(how)
		for _, own := range []syscall.Signal{unix.SIGURG, unix.SIGPIPE} { // either would end a shell, or be printed
			if err := w.cmd.Process.Signal(own); err != nil {
				t.Fatal(err)
			}
		}
		w.forwards()
		w.forwards()
	})
}

// Signals come just when the process becomes another program.
func TestNoSignalIsLostOnTheWay(t *testing.T) {
	const processes = 16
	var all []*waiting
	var began []time.Time
	for range processes {
		w := startWaiting(t, "as the waiter", trapping()...)
		w.says("ready")
		all, began = append(all, w), append(began, time.Now())
	}
	var sent sync.WaitGroup
	for i, w := range all {
		sent.Go(func() {
			// The command is ready some milliseconds after it was started.
			time.Sleep(time.Until(began[i].Add(whileYoung - rand.N(10*time.Millisecond))))
			w.forwards()
		})
	}
	sent.Wait()
	for _, w := range all {
		w.settled("as the waiter")
	}
}

func TestOrphansAreReaped(t *testing.T) {
	eachWaiting(t, func(t *testing.T, how string) {
		w := startWaiting(t, how, "sh", "-c", "read x; sleep 0 & exec sleep 1000")
		w.settled(how)
		w.stdin.Close()
		// The orphan becomes a child of the process when its parent, a shell, has gone.
		w.eventually("one child", func() bool {
			children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", w.cmd.Process.Pid))
			return err == nil && len(strings.Fields(string(children))) == 1
		})
	})
}

// What is copied of the program ends after its last instruction.
func TestTheWaiterIsCopiedWhole(t *testing.T) {
	f := newWaiterFile(waiterParameters{})
	const undefined = "\x0f\x0b" // UNDEF
	if !bytes.Contains(f.instructions[:], []byte(undefined)) {
		t.Error("the end is not in what is copied")
	}
	// The assembly file has that as a number.
	if got := waiterAddress + uint64(unsafe.Offsetof(f.parameters)); got != 0x4000B0 {
		t.Errorf("the parameters are at %#x", got)
	}
}
