//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/pty"
	"berth/internal/testrig"
)

// window is a terminal of this host with a berth in it, as a person has it.
type window struct {
	testing.TB
	user *pty.Master
	tty  *os.File // the other end, as another program in the window has it
	cmd  *exec.Cmd

	before unix.Termios // the settings that berth found

	mu     sync.Mutex
	shown  bytes.Buffer
	seen   int // how much of it was expected
	change chan struct{}
}

// openWindow starts berth in a window of 24 rows and 80 columns. Only berth and this test
// have it open.
func openWindow(t *testing.T, b *testrig.Command, args ...string) *window {
	t.Helper()
	return openWindowTo(t, b, nil, args...)
}

// openWindowTo is openWindow, but what berth writes goes to stdout, if that is not nil.
func openWindowTo(t *testing.T, b *testrig.Command, stdout *os.File, args ...string) *window {
	t.Helper()
	root, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	master, tty, err := pty.Open(root, "/dev/pts/ptmx", pty.Size{Rows: 24, Columns: 80}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &window{TB: t, tty: tty, change: make(chan struct{}, 1)}
	if w.user, err = pty.NewMaster(fd); err != nil {
		t.Fatal(err)
	}
	w.cmd = exec.Command(b.Path, args...)
	w.cmd.Env = append(append(os.Environ(), "BERTH_WORK_DIR="+b.WorkDir, "BERTH_RUNTIME_DIR="+b.RuntimeDir, "BERTH_CGROUPS_ROOT="+b.CgroupsRoot), b.Env...)
	w.cmd.Stdin, w.cmd.Stdout, w.cmd.Stderr = tty, tty, tty
	if stdout != nil {
		w.cmd.Stdout = stdout
	}
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	w.before = w.settings()
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reader sync.WaitGroup
	reader.Go(w.read)
	t.Cleanup(func() {
		if w.cmd.ProcessState == nil {
			w.cmd.Process.Kill()
			w.cmd.Wait()
		}
		w.tty.Close()
		w.user.Close()
		reader.Wait()
	})
	return w
}

// read takes what the window shows, until it is closed.
func (w *window) read() {
	buffer := make([]byte, 4096)
	for {
		n, err := w.user.Read(buffer)
		w.mu.Lock()
		w.shown.Write(buffer[:n])
		w.mu.Unlock()
		select {
		case w.change <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// expect waits until the window shows text after what was expected before.
func (w *window) expect(text string) {
	w.Helper()
	timeout := time.After(time.Minute)
	for {
		w.mu.Lock()
		shown := w.shown.String()
		at := strings.Index(shown[w.seen:], text)
		if at >= 0 {
			w.seen += at + len(text)
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		select {
		case <-w.change:
		case <-timeout:
			w.Fatalf("the window does not show %q:\n%q", text, shown)
		}
	}
}

// enter types.
func (w *window) enter(keys string) {
	w.Helper()
	if _, err := io.WriteString(w.user, keys); err != nil {
		w.Fatal(err)
	}
}

// ends waits for the end of berth and its exit code.
func (w *window) ends(code int) {
	w.Helper()
	done := make(chan struct{})
	go func() { w.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		w.cmd.Process.Signal(syscall.SIGQUIT)
		w.cmd.Process.Kill()
		<-done
		w.Fatalf("berth does not end; the window shows\n%s", w.text())
	}
	if got := w.cmd.ProcessState.ExitCode(); got != code {
		w.Errorf("exit code %d, want %d; the window shows\n%s", got, code, w.text())
	}
}

func (w *window) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shown.String()
}

func (w *window) settings() unix.Termios {
	w.Helper()
	settings, err := unix.IoctlGetTermios(int(w.tty.Fd()), unix.TCGETS)
	if err != nil {
		w.Fatal(err)
	}
	return *settings
}

// isRestored checks that the settings of the terminal are those that berth found.
func (w *window) isRestored() {
	w.Helper()
	if after := w.settings(); after != w.before {
		w.Errorf("the settings of the terminal were %+v, are %+v", w.before, after)
	}
}

// awaitRaw waits until the window sends every key on, or does not.
func (w *window) awaitRaw(want bool) {
	w.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if raw := w.settings().Lflag&unix.ICANON == 0; raw == want {
			return
		}
	}
	w.Fatalf("the terminal does not become raw=%v", want)
}

// awaitStopped waits until berth has stopped, as a job does.
func (w *window) awaitStopped() {
	w.Helper()
	stat := "/proc/" + strconv.Itoa(w.cmd.Process.Pid) + "/stat"
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		data, err := os.ReadFile(stat)
		if err != nil {
			w.Fatal(err)
		}
		if bytes.Contains(data, []byte(") T ")) {
			return
		}
	}
	w.Fatal("berth does not stop")
}

// terminalImage returns berth, and an image that it has pulled: nothing of that shows in
// a window.
func terminalImage(t *testing.T) (*testrig.Command, string) {
	t.Helper()
	testrig.RequireRoot(t)
	b := testrig.Berth(t)
	return b, pulledImage(t, b)
}

func pulledImage(t *testing.T, b *testrig.Command) string {
	t.Helper()
	image := testrig.BusyboxImage(t, testrig.Registry(t), "busybox:1")
	expect(t, b.Run("pull", image), 0)
	return image
}

func TestTheCommandHasATerminalOfItsOwn(t *testing.T) { eachWay(t, testTheCommandHasATerminalOfItsOwn) }

func testTheCommandHasATerminalOfItsOwn(t *testing.T, b *testrig.Command) {
	image := pulledImage(t, b)
	w := openWindow(t, b, "run", "-it", "-u", "1000:7", image, "sh", "-c",
		`for fd in 0 1 2; do test -t $fd || echo $fd is none; done; tty; stty size; echo $TERM; ls -ln /dev/pts/0 /dev/console; echo by-console >/dev/console; echo by-tty >/dev/tty; exit 7`)
	w.ends(7)
	w.expect("/dev/pts/0\r\n24 80\r\nxterm\r\n")
	for _, name := range []string{"/dev/console", "/dev/pts/0"} {
		w.expect("crw--w----    1 1000     5 ")
		w.expect(name + "\r\n")
	}
	w.expect("by-console\r\nby-tty\r\n")
	if strings.Contains(w.text(), "is none") {
		t.Errorf("the window shows\n%s", w.text())
	}
	w.isRestored()
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// Each key goes to the container, whose terminal makes of it what terminals make of it.
func TestKeysGoToTheContainer(t *testing.T) { eachWay(t, testKeysGoToTheContainer) }

func testKeysGoToTheContainer(t *testing.T, b *testrig.Command) {
	image := pulledImage(t, b)
	t.Run("echo and end of input", func(t *testing.T) {
		w := openWindow(t, b, "run", "-it", image, "cat")
		w.awaitRaw(true)
		w.enter("typed\r")
		w.expect("typed\r\ntyped\r\n") // the echo, and cat
		w.enter("\x04")
		w.ends(0)
	})
	t.Run("interrupt", func(t *testing.T) {
		w := openWindow(t, b, "run", "-it", image, "sh", "-c", `trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 1; done`)
		w.expect("ready")
		w.awaitRaw(true)
		w.enter("\x03")
		w.expect("^Ccaught")
		w.ends(3)
	})
	t.Run("interrupt that kills", func(t *testing.T) {
		w := openWindow(t, b, "run", "-it", image, "sleep", "1000")
		w.awaitRaw(true)
		w.enter("\x03")
		w.ends(130)
	})
	t.Run("job control", func(t *testing.T) {
		w := openWindow(t, b, "run", "-it", image, "sh")
		w.awaitRaw(true)
		w.expect("# ")
		w.enter("echo now; cat\r") // the shell has had the terminal in a mode of its own
		w.expect("\r\nnow\r\n")
		w.enter("line\r")
		w.expect("line\r\nline\r\n")
		w.enter("\x1a")
		w.expect("Stopped")
		w.enter("fg\r")
		w.expect("fg\r\ncat\r\n")
		w.enter("more\r")
		w.expect("more\r\nmore\r\n")
		w.enter("\x04")
		w.expect("# ")
		w.enter("exit 9\r")
		w.ends(9)
	})
}

func TestTheTerminalFollowsTheSizeOfTheWindow(t *testing.T) {
	eachWay(t, testTheTerminalFollowsTheSizeOfTheWindow)
}

func testTheTerminalFollowsTheSizeOfTheWindow(t *testing.T, b *testrig.Command) {
	image := pulledImage(t, b)
	w := openWindow(t, b, "run", "-it", image, "sh", "-c", `trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.1; done`)
	w.expect("ready")
	w.awaitRaw(true)
	if err := w.user.Resize(pty.Size{Rows: 50, Columns: 132}); err != nil {
		t.Fatal(err)
	}
	w.expect("50 132\r\n")
	w.ends(0)
}

// However berth ends, but by SIGKILL, the window is as it was.
func TestTheWindowIsRestored(t *testing.T) { eachWay(t, testTheWindowIsRestored) }

func testTheWindowIsRestored(t *testing.T, b *testrig.Command) {
	image := pulledImage(t, b)
	for name, c := range map[string]struct {
		signal  syscall.Signal
		command string
		code    int
	}{
		"SIGTERM": {syscall.SIGTERM, "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done", 5},
		"SIGINT":  {syscall.SIGINT, "echo ready; exec sleep 1000", 130},
		// The shell ignores this one; so it is another program that says when it is there.
		"SIGQUIT":                  {syscall.SIGQUIT, "echo ready >file; exec tail -f file", 131},
		"SIGHUP":                   {syscall.SIGHUP, "echo ready; exec sleep 1000", 129},
		"the end of the container": {0, "echo ready; exec nosuchcommand", 127},
	} {
		t.Run(name, func(t *testing.T) {
			w := openWindow(t, b, "run", "-it", image, "sh", "-c", c.command)
			w.expect("ready")
			if c.signal != 0 {
				w.awaitRaw(true)
				w.cmd.Process.Signal(c.signal)
			}
			w.ends(c.code)
			w.isRestored()
		})
	}
	t.Run("a limitation", func(t *testing.T) {
		w := openWindow(t, b, "run", "-it", "--memory", "32m", image, "dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=100")
		w.ends(137)
		w.expect("memory limit of 32 MiB exceeded")
		w.isRestored()
	})
}

// A berth that is stopped lets its shell have the terminal.
func TestAStoppedBerthGivesTheWindowBack(t *testing.T) {
	eachWay(t, testAStoppedBerthGivesTheWindowBack)
}

func testAStoppedBerthGivesTheWindowBack(t *testing.T, b *testrig.Command) {
	image := pulledImage(t, b)
	w := openWindow(t, b, "run", "-it", image, "cat")
	w.awaitRaw(true)
	for range 2 {
		w.cmd.Process.Signal(syscall.SIGTSTP)
		w.awaitRaw(false)
		w.awaitStopped()
		w.cmd.Process.Signal(syscall.SIGCONT)
		w.awaitRaw(true)
	}
	w.enter("on\r")
	w.expect("on\r\non\r\n")
	w.enter("\x04")
	w.ends(0)
}

func TestACloseOfTheWindowEndsTheContainer(t *testing.T) {
	eachWay(t, testACloseOfTheWindowEndsTheContainer)
}

func testACloseOfTheWindowEndsTheContainer(t *testing.T, b *testrig.Command) {
	image := pulledImage(t, b)
	w := openWindow(t, b, "run", "-it", image, "cat")
	w.awaitRaw(true)
	w.tty.Close()
	w.user.Close()
	w.ends(129)
	if left := leftBy(t, b); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// Who has the terminal open, and who has not, does not decide when berth ends: the command
// does.
func TestWhoHasTheTerminalOpenDoesNotMatter(t *testing.T) {
	eachWay(t, testWhoHasTheTerminalOpenDoesNotMatter)
}

func testWhoHasTheTerminalOpenDoesNotMatter(t *testing.T, b *testrig.Command) {
	image := pulledImage(t, b)
	t.Run("nobody", func(t *testing.T) {
		w := openWindow(t, b, "run", "-it", image, "sh", "-c", "echo said; exec </dev/null >/dev/null 2>&1; sleep 0.3; exit 5")
		w.ends(5)
		w.expect("said\r\n")
	})
	t.Run("a background process", func(t *testing.T) {
		w := openWindow(t, b, "run", "-it", image, "sh", "-c", "(trap '' HUP; exec sleep 1000) & echo said; exit 4")
		w.ends(4)
		w.expect("said\r\n")
	})
	t.Run("a background process without a PID namespace", func(t *testing.T) {
		w := openWindow(t, b, "run", "-it", "--isolation=filesystem/linux", image, "sh", "-c", "(trap '' HUP; exec sleep 1000) & echo said; exit 4")
		w.ends(4)
		w.expect("said\r\n")
	})
}

// Without -i the terminal takes nothing from the user, and what the command says can go
// anywhere.
func TestOutputOfATerminalByteForByte(t *testing.T) { eachWay(t, testOutputOfATerminalByteForByte) }

func testOutputOfATerminalByteForByte(t *testing.T, b *testrig.Command) {
	image := pulledImage(t, b)
	r := b.Run("run", "-t", image, "sh", "-c", `test -t 0 && stty raw && seq 1 100000 && printf '\000\003\004\377\n\r\n' && seq 1 100000`)
	expect(t, r, 0)
	var numbers strings.Builder
	for i := range 100000 {
		numbers.WriteString(strconv.Itoa(i+1) + "\n")
	}
	if want := numbers.String() + "\x00\x03\x04\xff\n\r\n" + numbers.String(); r.Stdout != want {
		t.Errorf("%d bytes came, want %d", len(r.Stdout), len(want))
	}
}

func TestTerminalsThatAreRefused(t *testing.T) { eachWay(t, testTerminalsThatAreRefused) }

func testTerminalsThatAreRefused(t *testing.T, b *testrig.Command) {
	image := pulledImage(t, b)
	expect(t, b.Run("run", "-it", image, "true"), 125, "no terminal", "leave out -t")
	expect(t, b.Run("run", "-t", "--container_info", `{"type":"MESOS","tty_info":{"window_size":{"rows":70000,"columns":1}}}`, image, "true"), 125, "65535")
}

func TestTheSizeThatWasAskedFor(t *testing.T) { eachWay(t, testTheSizeThatWasAskedFor) }

func testTheSizeThatWasAskedFor(t *testing.T, b *testrig.Command) {
	image := pulledImage(t, b)
	r := b.Run("run", "--container_info", `{"type":"MESOS","tty_info":{"window_size":{"rows":33,"columns":99}}}`, image, "stty", "size")
	expect(t, r, 0)
	if r.Stdout != "33 99\r\n" {
		t.Errorf("stdout %q", r.Stdout)
	}
}

// On the host's file system the terminal is one of the host's.
func TestATerminalOnTheHostsFileSystem(t *testing.T) {
	b, _ := terminalImage(t)
	r := b.Run("run", "-t", "--", "sh", "-c", "test -t 0 && test -t 2 && tty && kill -9 $$")
	expect(t, r, 137)
	if !strings.HasPrefix(r.Stdout, "/dev/pts/") {
		t.Errorf("stdout %q", r.Stdout)
	}
}

// When nobody reads what the command says, it is as if its window was closed.
func TestOutputThatNobodyReads(t *testing.T) { eachWay(t, testOutputThatNobodyReads) }

func testOutputThatNobodyReads(t *testing.T, b *testrig.Command) {
	image := pulledImage(t, b)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w := openWindowTo(t, b, writer, "run", "-it", image, "yes")
	if _, err := io.ReadFull(reader, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(reader.Close(), writer.Close()); err != nil {
		t.Fatal(err)
	}
	w.ends(129)
	w.isRestored()
}
