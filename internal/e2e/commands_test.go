//go:build linux

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"berth/internal/testrig"
)

// workshop is an agent with an image, for the tests of commands that ask it.
type workshop struct {
	t *testing.T
	*testrig.Command
	image string
	agent *testrig.Process
}

func newWorkshop(t *testing.T) *workshop {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	w := &workshop{t, b, pulledImage(t, b), nil}
	w.open()
	return w
}

// open starts the agent. The last one has to end in order, with nothing left.
func (w *workshop) open() {
	w.t.Helper()
	agent := startAgent(w.t, w.Command)
	w.agent = agent
	w.t.Cleanup(func() {
		if w.agent != agent {
			return
		}
		for _, line := range strings.Fields(w.Run("ps", "-a").Stdout) {
			if strings.HasPrefix(line, "w-") {
				w.Run("rm", "-f", line)
			}
		}
		w.agent.Signal(syscall.SIGTERM)
		expect(w.t, w.agent.Wait(), 0)
		wantNoContainers(w.t, w.Command)
	})
}

// does runs a command that has to succeed, and returns what it prints.
func (w *workshop) does(args ...string) string {
	w.t.Helper()
	r := w.Run(args...)
	if r.ExitCode != 0 {
		w.t.Fatalf("berth %q: exit code %d\nstdout: %s\nstderr: %s", args, r.ExitCode, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// prints runs a command that has to print that.
func (w *workshop) prints(want string, args ...string) {
	w.t.Helper()
	if got := w.does(args...); got != want {
		w.t.Errorf("berth %q prints %q, want %q", args, got, want)
	}
}

// refuses runs a command that has to fail, for that reason.
func (w *workshop) refuses(args []string, words ...string) {
	w.t.Helper()
	expect(w.t, w.Run(args...), 125, words...)
}

// with has a file as the input of commands.
func (w *workshop) with(input string) func() {
	w.t.Helper()
	name := filepath.Join(testrig.TempDir(w.t), "input")
	if err := os.WriteFile(name, []byte(input), 0o600); err != nil {
		w.t.Fatal(err)
	}
	file, err := os.Open(name)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Stdin = file
	return func() { w.Stdin = nil; file.Close() }
}

func TestCommandsWithoutAnAgent(t *testing.T) {
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	for _, args := range [][]string{
		{"ps"}, {"exec", "x", "true"}, {"attach", "x"}, {"logs", "x"}, {"wait", "x"}, {"kill", "x"}, {"stop", "x"}, {"rm", "x"}, {"inspect", "x"}, {"stats"}, {"top", "x"}, {"cp", "x:/y", "/tmp"}, {"events"},
		{"run", "-d", "--", "true"},
	} {
		expect(t, b.Run(args...), 125, "agent.sock", "start it with `berth agent`", "--runtime_dir")
	}
}

func TestTheLifeOfADetachedContainer(t *testing.T) {
	w := newWorkshop(t)
	script := "echo one; echo two; echo three; echo oops >&2; trap 'exit 9' TERM; touch /ready; while :; do sleep 0.02; done"
	w.prints("w-web\n", "run", "-d", "--name", "w-web", w.image, "--", "sh", "-c", script)
	await(t, func() bool { return w.Run("exec", "w-web", "test", "-e", "/ready").ExitCode == 0 })

	w.refuses([]string{"run", "-d", "--name", "w-web", w.image}, "already exists", "--name")
	w.refuses([]string{"run", "--name", "w-web", w.image}, "already exists", "--name")
	w.refuses([]string{"run", "-d", "--isolation", "filesystem/linux", w.image}, "--isolation", "the agent runs with", "leave the flag out")
	w.refuses([]string{"run", "-d", "--name", "w-../x", w.image}, "--name")
	expect(t, w.Run("run", "-d", w.image, "nosuch"), 127, "not found in PATH")
	expect(t, w.Run("run", "-d", w.image, "/etc/passwd"), 126, "permission denied")

	table := w.does("ps")
	for _, word := range []string{"ID ", "IMAGE", "w-web", w.image, "sh -c echo one; echo two;", "…", "running"} {
		if !strings.Contains(table, word) {
			t.Errorf("ps does not show %q:\n%s", word, table)
		}
	}
	var listed []struct {
		ContainerID struct{ Value string } `json:"container_id"`
		State       string
	}
	if err := json.Unmarshal([]byte(w.does("ps", "--json")), &listed); err != nil || len(listed) != 1 || listed[0].ContainerID.Value != "w-web" || listed[0].State != "RUNNING" {
		t.Errorf("ps --json: %+v, %v", listed, err)
	}
	var one struct{ State, Sandbox string }
	if err := json.Unmarshal([]byte(w.does("inspect", "w-w")), &one); err != nil || one.State != "RUNNING" || !strings.HasSuffix(one.Sandbox, "w-web") {
		t.Errorf("inspect: %+v, %v", one, err)
	}

	if completed := w.does("__complete", "stop", "w-"); !strings.HasPrefix(completed, "w-web\n") {
		t.Errorf("ids complete to %q", completed)
	}
	if completed := w.does("__complete", "run", w.image[:4]); !strings.HasPrefix(completed, w.image+"\n") {
		t.Errorf("images complete to %q", completed)
	}
	if r := w.Run("logs", "w-web"); r.Stdout != "one\ntwo\nthree\n" || r.Stderr != "oops\n" {
		t.Errorf("logs: %+v", r)
	}
	w.prints("two\nthree\n", "logs", "--tail", "2", "w-web")
	w.prints("", "logs", "--tail", "0", "w-web")
	w.prints("one\ntwo\nthree\n", "logs", "--tail", "9", "w-web")
	w.refuses([]string{"logs", "--tail", "-1", "w-web"}, "--tail")
	followed := w.Start("logs", "-f", "--tail", "1", "w-web")
	await(t, func() bool { out, _ := followed.Output(); return out == "three\n" })

	w.refuses([]string{"rm", "w-web"}, "has not ended", "berth stop w-web")
	w.refuses([]string{"kill", "-s", "NONE", "w-web"}, "--signal", "SIGTERM")
	w.refuses([]string{"stop", "--time", "-1", "w-web"}, "--time")
	w.refuses([]string{"inspect", "w-wob"}, "not found", "did you mean w-web?", "berth ps -a")
	waiting := w.Start("wait", "w-web")
	w.does("kill", "--signal", "sigterm", "w-web")
	if r := waiting.Wait(); r.ExitCode != 0 || r.Stdout != "9\n" {
		t.Errorf("wait: %+v", r)
	}
	expect(t, followed.Wait(), 0)
	w.prints("9\n", "wait", "w-web")

	if table := w.does("ps"); strings.Contains(table, "w-web") {
		t.Errorf("ps shows one that has ended:\n%s", table)
	}
	if table := w.does("ps", "-a"); !strings.Contains(table, "exit 9") {
		t.Errorf("ps -a:\n%s", table)
	}
	w.prints("one\ntwo\nthree\n", "logs", "-f", "w-web")
	w.refuses([]string{"exec", "w-web", "true"}, "w-web")
	w.refuses([]string{"attach", "w-web"}, "has ended", "berth logs w-web")
	w.refuses([]string{"kill", "w-web"}, "w-web")
	w.does("stop", "w-web")
	w.refuses([]string{"rm", "w-web", "w-none"}, "w-none")
	w.refuses([]string{"wait", "w-web"}, "not found")
}

func TestStopKillsWhatDoesNotEnd(t *testing.T) {
	w := newWorkshop(t)
	for _, name := range []string{"w-deaf", "w-dear"} {
		w.does("run", "-d", "--name", name, w.image, "--", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
		await(t, func() bool { return w.does("logs", name) == "ready\n" })
	}
	w.refuses([]string{"stop", "w-de"}, "it may be w-deaf, w-dear")
	w.does("stop", "--time", "0", "w-deaf", "w-dear")
	w.prints("137\n137\n", "wait", "w-deaf", "w-dear")
	// What is asked to go by itself does.
	w.does("run", "-d", "--rm", "--name", "w-brief", w.image, "--", "true")
	await(t, func() bool { return !strings.Contains(w.does("ps", "-a"), "w-brief") })
	w.does("run", "-d", "--name", "w-busy", w.image, "--", "sleep", "1000")
	w.does("rm", "-f", "w-busy")
	// One in the foreground stays when it is asked for.
	expect(t, w.Run("run", "--rm=false", "--name", "w-kept", w.image, "--", "sh", "-c", "echo said; exit 4"), 4)
	w.prints("said\n", "logs", "w-kept")
	w.prints("4\n", "wait", "w-kept")
}

func TestExec(t *testing.T) {
	w := newWorkshop(t)
	w.does("run", "-d", "--name", "w-pod", "-e", "A=parent", "-w", "/srv", w.image, "--", "sleep", "1000")
	w.prints("parent /srv 0\n", "exec", "w-pod", "sh", "-c", "echo $A $PWD $(id -u)")
	w.prints("mine /tmp 1000\n", "exec", "-e", "A=mine", "-w", "/tmp", "-u", "1000", "w-pod", "sh", "-c", "echo $A $PWD $(id -u)")
	w.prints("-e", "exec", "w-pod", "printf", "%s", "-e") // a flag of the command
	if r := w.Run("exec", "w-pod", "sh", "-c", "echo out; echo err >&2; exit 7"); r.ExitCode != 7 || r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Errorf("exec: %+v", r)
	}
	expect(t, w.Run("exec", "w-pod", "nosuch"), 127, "not found in PATH")
	expect(t, w.Run("exec", "w-pod", "/etc/passwd"), 126, "permission denied")
	expect(t, w.Run("exec", "w-pod", "sh", "-c", "kill -9 $$"), 137)
	w.prints("", "exec", "w-pod", "cat") // no input unless asked for
	w.refuses([]string{"exec", "-u", "nobody-here", "w-pod", "id"}, "nobody-here")
	w.refuses([]string{"exec", "w-pod"}, "the arguments [\"w-pod\"]", "it is `berth exec ")
	w.refuses([]string{"exec", "-it", "w-pod", "sh"}, "no terminal", "leave out -t")

	text := strings.Repeat("0123456789abcdef\n", 64<<10)
	closes := w.with(text)
	w.prints(text, "exec", "-i", "w-pod", "cat")
	closes()

	window := openWindow(t, w.Command, "exec", "-it", "w-pod", "sh", "-c", "stty size; read line; echo got $line; exit 3")
	window.expect("24 80\r\n")
	window.enter("keys\r")
	window.expect("got keys\r\n")
	window.ends(3)
	window.isRestored()
	// With its client goes the command.
	dead := w.Start("exec", "w-pod", "sleep", "4711")
	await(t, func() bool { return strings.Count(w.does("ps"), "\n") == 3 })
	dead.Signal(syscall.SIGKILL)
	dead.Wait()
	await(t, func() bool { return strings.Count(w.does("ps", "-a"), "\n") == 2 }) // nothing of sessions stays
	if table := w.does("exec", "w-pod", "ps"); strings.Contains(table, "4711") {
		t.Errorf("its processes are\n%s", table)
	}
}

func TestAttach(t *testing.T) {
	w := newWorkshop(t)
	w.does("run", "-d", "-i", "--name", "w-cat", w.image, "--", "sh", "-c", "cat; exit 5")
	closes := w.with("typed\n")
	if r := w.Run("attach", "w-cat"); r.ExitCode != 5 || r.Stdout != "typed\n" {
		t.Errorf("attach: %+v", r)
	}
	closes()

	w.does("run", "-d", "-it", "--name", "w-tty", w.image, "--", "sh", "-c", "while read line; do echo got $line; stty size; done")
	window := openWindow(t, w.Command, "attach", "w-tty")
	window.awaitRaw(true)
	window.enter("a word\r")
	window.expect("got a word\r\n24 80\r\n")
	window.enter("\x10\x11")
	window.ends(0)
	window.isRestored()
	window = openWindow(t, w.Command, "attach", "w-tty") // the next one
	window.awaitRaw(true)
	window.enter("again\r")
	window.expect("got again")

	// A second writer is told so, with a terminal and without; he may look on.
	second := openWindow(t, w.Command, "attach", "w-tty")
	second.expect("somebody is attached to it, and there is one writer at a time; with --no_stdin")
	second.ends(125)
	second.isRestored()
	w.refuses([]string{"attach", "w-tty"}, "attach to the input of w-tty", "one writer at a time", "--no_stdin")
	window.enter("more\r")
	window.expect("got more")
	window.enter("\x04")
	window.ends(0)

	// Who only looks on can leave, and what he looks at runs on.
	w.does("run", "-d", "--name", "w-busy", w.image, "--", "sh", "-c", "while :; do echo tick; sleep 0.02; done")
	onlooker := w.Start("attach", "--no-stdin", "w-busy")
	await(t, func() bool { out, _ := onlooker.Output(); return strings.Contains(out, "tick\ntick\n") })
	onlooker.Signal(syscall.SIGINT)
	onlooker.Wait()
	if table := w.does("ps"); !strings.Contains(table, "w-busy") {
		t.Errorf("ps:\n%s", table)
	}
}

// At a terminal states, events and errors have colours, unless the user wants none; elsewhere
// nothing has.
func TestColoursAreForTerminals(t *testing.T) {
	w := newWorkshop(t)
	w.does("run", "-d", "--name", "w-failed", w.image, "--", "sh", "-c", "exit 3")
	w.prints("3\n", "wait", "w-failed")
	w.does("run", "-d", "--name", "w-runs", w.image, "--", "sleep", "1000")
	const escape, end = "\x1b[", "\x1b[00m"
	for _, args := range [][]string{{"ps", "-a"}, {"images"}, {"top", "w-runs"}, {"attach", "w-nosuch"}} {
		if r := w.Run(args...); strings.Contains(r.Stdout+r.Stderr, escape) {
			t.Errorf("%q into a file: %q", args, r.Stdout+r.Stderr)
		}
	}
	open := func(env []string, args ...string) *window {
		t.Helper()
		b := *w.Command
		b.Env = append(slices.Clone(b.Env), env...)
		return openWindow(t, &b, args...)
	}
	terminal := []string{"TERM=xterm", "NO_COLOR="}
	window := open(terminal, "ps", "-a")
	for _, words := range []string{escape + "01mID", "STATE", "SINCE" + end, "w-failed", escape + "31mexit 3" + end, "w-runs", escape + "32mrunning" + end} {
		window.expect(words)
	}
	window.ends(0)
	lines := strings.Split(regexp.MustCompile("\x1b\\[[0-9]+m").ReplaceAllString(window.text(), ""), "\n")
	if at := strings.Index(lines[0], "STATE"); strings.LastIndex(lines[1], "exit 3") != at || strings.Index(lines[2], "running") != at {
		t.Errorf("the table is not aligned:\n%s", strings.Join(lines, "\n"))
	}
	window = open(terminal, "attach", "w-nosuch")
	window.expect(escape + "31mberth:" + end + " ")
	window.ends(125)
	window = open(terminal, "events")
	await(t, func() bool {
		w.Run("exec", "w-runs", "false")
		return strings.Contains(window.text(), escape+"31mcontainer.ended"+end)
	})
	window.enter("\x03")
	window.ends(0)
	for _, env := range [][]string{{"TERM=xterm", "NO_COLOR=1"}, {"TERM=dumb"}} {
		window = open(env, "ps", "-a")
		window.expect("running")
		window.ends(0)
		if strings.Contains(window.text(), escape) {
			t.Errorf("with %q: %q", env, window.text())
		}
	}
}

// A container in the foreground goes with who has it there, but not with the agent.
func TestWhoHasAContainerInTheForegroundAndTheAgent(t *testing.T) {
	w := newWorkshop(t)
	w.prints("CapEff:\t0000000000000000\nNoNewPrivs:\t1\n", "run", "--cap-drop=ALL", "--security-opt=no-new-privileges", w.image, "--", "grep", "-E", "CapEff|NoNewPrivs", "/proc/self/status")

	client := w.Start("run", "--name", "w-one", w.image, "--", "sh", "-c", "echo ready; sleep 1000")
	await(t, func() bool { out, _ := client.Output(); return out == "ready\n" })
	client.Signal(syscall.SIGKILL)
	client.Wait()
	await(t, func() bool { return !strings.Contains(w.does("ps", "-a"), "w-one") })

	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		client = w.Start("run", "--name", "w-two", w.image, "--", "sh", "-c", "echo ready; sleep 1000")
		await(t, func() bool { out, _ := client.Output(); return out == "ready\n" })
		w.agent.Signal(signal)
		w.agent.Wait()
		expect(t, client.Wait(), 125, "the agent has gone", "berth attach w-two", "berth stop w-two")
		w.open()
		w.prints("ready\n", "exec", "w-two", "echo", "ready")
		w.does("rm", "-f", "w-two")
	}
}
