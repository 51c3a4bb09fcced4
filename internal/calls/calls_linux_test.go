package calls

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// piped returns a list whose process writes to what is returned second.
func piped(t *testing.T) (*List, *os.File, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	l := &List{}
	t.Cleanup(l.Close)
	l.Add("set the output", unix.SYS_DUP3, w.Fd(), 1, 0)
	return l, r, w
}

func ended(t *testing.T, pid, pidFD int) unix.WaitStatus {
	t.Helper()
	var status unix.WaitStatus
	if got, err := unix.Wait4(pid, &status, 0, nil); got != pid || err != nil {
		t.Errorf("wait for %d: %d, %v", pid, got, err)
	}
	if err := unix.Close(pidFD); err != nil {
		t.Errorf("its pidfd: %v", err)
	}
	return status
}

func shell(t *testing.T) string {
	t.Helper()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	return sh
}

func TestExecute(t *testing.T) {
	for name, open := range map[string]func(l *List, args []string) error{
		"by its path": func(l *List, args []string) error {
			return l.Execute(unix.AT_FDCWD, shell(t), args, []string{"A=b"})
		},
		"by a descriptor": func(l *List, args []string) error {
			program, err := os.Open(shell(t))
			if err != nil {
				return err
			}
			t.Cleanup(func() { program.Close() })
			return l.Execute(int(program.Fd()), "", args, []string{"A=b"})
		},
	} {
		for _, trusted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, trusted: %v", name, trusted), func(t *testing.T) {
				l, r, w := piped(t)
				if err := open(l, []string{"sh", "-c", "echo $0 $A; exit 3", "zero"}); err != nil {
					t.Fatal(err)
				}
				pid, pidFD, err := l.Run(Birth{Trusted: trusted})
				if err != nil {
					t.Fatal(err)
				}
				w.Close()
				if out, err := io.ReadAll(r); string(out) != "zero b\n" || err != nil {
					t.Errorf("%q, %v", out, err)
				}
				if status := ended(t, pid, pidFD); status.ExitStatus() != 3 {
					t.Errorf("it ended with %v", status)
				}
			})
		}
	}
}

// None is blocked for the program.
func TestSignalsOfTheProgram(t *testing.T) {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGUSR1)
	defer signal.Stop(caught)
	for _, trusted := range []bool{false, true} {
		l, r, w := piped(t)
		if err := l.Execute(unix.AT_FDCWD, shell(t), []string{"sh", "-c", "while read -r name value; do [ $name != SigBlk: ] || echo $value; done </proc/$$/status; kill -USR1 $$"}, nil); err != nil {
			t.Fatal(err)
		}
		pid, pidFD, err := l.Run(Birth{Trusted: trusted})
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		if out, err := io.ReadAll(r); string(out) != "0000000000000000\n" || err != nil {
			t.Errorf("trusted: %v: %q, %v", trusted, out, err)
		}
		if status := ended(t, pid, pidFD); status.Signal() != unix.SIGUSR1 {
			t.Errorf("trusted: %v: it ended with %v", trusted, status)
		}
	}
}

func TestNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes namespaces")
	}
	for _, trusted := range []bool{false, true} {
		l, r, w := piped(t)
		if err := l.Execute(unix.AT_FDCWD, shell(t), []string{"sh", "-c", "echo $$"}, nil); err != nil {
			t.Fatal(err)
		}
		pid, pidFD, err := l.Run(Birth{Flags: unix.CLONE_NEWPID, Trusted: trusted})
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		if out, err := io.ReadAll(r); string(out) != "1\n" || err != nil {
			t.Errorf("trusted: %v: %q, %v", trusted, out, err)
		}
		ended(t, pid, pidFD)
	}
}

// Many processes are made at a time, while memory is allocated and goroutines move: nothing of
// this process comes to harm.
func TestRunBesideOthers(t *testing.T) {
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for n := range 40 {
				l := &List{}
				if err := l.Execute(unix.AT_FDCWD, shell(t), []string{"sh", "-c", fmt.Sprint("exit ", n)}, nil); err != nil {
					t.Error(err)
				}
				pid, pidFD, err := l.Run(Birth{Trusted: true})
				if err != nil {
					t.Error(err)
					return
				}
				if status := ended(t, pid, pidFD); status.ExitStatus() != n {
					t.Errorf("it ended with %v, not %d", status, n)
				}
				l.Close()
				runtime.GC()
			}
		})
	}
	all.Wait()
}

// The process after a fork is a child of this one, in the namespaces that it was forked into.
func TestFork(t *testing.T) {
	l, r, w := piped(t)
	var flags uintptr
	want := "no\n"
	if os.Geteuid() == 0 {
		flags, want = unix.CLONE_NEWPID, "1\n"
	}
	l.Fork(flags)
	if err := l.Execute(unix.AT_FDCWD, shell(t), []string{"sh", "-c", "[ $$ = 1 ] && echo 1 || echo no"}, nil); err != nil {
		t.Fatal(err)
	}
	pid, pidFD, err := l.Run(Birth{})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if out, err := io.ReadAll(r); string(out) != want || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	if status := ended(t, pid, pidFD); status.ExitStatus() != 0 {
		t.Errorf("it ended with %v", status)
	}
	noChildren(t)
}

// A call that fails names itself, and leaves no process.
func TestFailures(t *testing.T) {
	for name, c := range map[string]struct {
		add   func(l *List)
		what  string
		last  bool
		errno error
	}{
		"a call":              {func(l *List) { l.Add("enter /no", unix.SYS_CHDIR, Pin(l, &[]byte("/no\x00")[0])) }, "enter /no", false, unix.ENOENT},
		"a call after a fork": {func(l *List) { l.Fork(0); l.Add("close what is not open", unix.SYS_CLOSE, 1<<20) }, "close what is not open", false, unix.EBADF},
		"the fork":            {func(l *List) { l.Fork(unix.CLONE_SIGHAND) }, "fork", false, unix.EINVAL},
		"the execution":       {func(*List) {}, "execute", true, unix.ENOENT},
		"one after a fork":    {func(l *List) { l.Fork(0) }, "execute", true, unix.ENOENT},
	} {
		for _, trusted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, trusted: %v", name, trusted), func(t *testing.T) {
				if trusted && strings.Contains(name, "fork") {
					t.Skip("who is trusted does not fork")
				}
				l := &List{}
				defer l.Close()
				c.add(l)
				if err := l.Execute(unix.AT_FDCWD, "/no/program", []string{"program"}, nil); err != nil {
					t.Fatal(err)
				}
				_, _, err := l.Run(Birth{Trusted: trusted})
				var failed *Failure
				if !errors.As(err, &failed) || failed.What != c.what || failed.Last != c.last || !errors.Is(err, c.errno) {
					t.Errorf("%v", err)
				}
				noChildren(t)
			})
		}
	}
}

func TestRunInACgroupThatIsNone(t *testing.T) {
	l := &List{}
	defer l.Close()
	if err := l.Execute(unix.AT_FDCWD, shell(t), []string{"sh"}, nil); err != nil {
		t.Fatal(err)
	}
	none, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer none.Close()
	for _, trusted := range []bool{false, true} {
		var failed *Failure
		if _, _, err := l.Run(Birth{Cgroup: none, Trusted: trusted}); !errors.As(err, &failed) || failed.What != "fork" {
			t.Errorf("%v", err)
		}
	}
}

func TestExecuteTakesNoNUL(t *testing.T) {
	for _, bad := range [][]string{{"a\x00b", "x", "x"}, {"x", "a\x00b", "x"}, {"x", "x", "a\x00b"}} {
		if err := (&List{}).Execute(unix.AT_FDCWD, bad[0], bad[1:2], bad[2:]); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func noChildren(t *testing.T) {
	t.Helper()
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) {
		t.Errorf("a child is left: %d, %v", pid, err)
	}
}

func BenchmarkRun(b *testing.B) {
	for _, way := range []string{"one", "and a fork", "trusted"} {
		b.Run(way, func(b *testing.B) {
			for b.Loop() {
				l := &List{}
				if way == "and a fork" {
					l.Fork(0)
				}
				if err := l.Execute(unix.AT_FDCWD, "/bin/true", []string{"true"}, nil); err != nil {
					b.Fatal(err)
				}
				pid, pidFD, err := l.Run(Birth{Trusted: way == "trusted"})
				if err != nil {
					b.Fatal(err)
				}
				await(pid)
				unix.Close(pidFD)
				l.Close()
			}
		})
	}
}

// What only others can do for the process is done before its first call; one for which that was
// not possible is gone.
func TestMeanwhile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives a user namespace its maps")
	}
	failure := errors.New("not possible")
	for _, trusted := range []bool{false, true} {
		for _, want := range []error{nil, failure} {
			l, r, w := piped(t)
			l.Add("become a user", unix.SYS_SETRESUID, 7, 7, 7) // who is not there without a map
			if err := l.Execute(unix.AT_FDCWD, shell(t), []string{"sh", "-c", "id -u; exit 4"}, []string{"PATH=/bin:/usr/bin"}); err != nil {
				t.Fatal(err)
			}
			var waiting int
			pid, pidFD, err := l.Run(Birth{Flags: unix.CLONE_NEWUSER, Trusted: trusted, Meanwhile: func(pid int) error {
				waiting = pid
				return errors.Join(want, os.WriteFile(fmt.Sprintf("/proc/%d/uid_map", pid), []byte("7 70000 1\n"), 0))
			}})
			w.Close()
			out, readErr := io.ReadAll(r)
			if readErr != nil || !errors.Is(err, want) {
				t.Fatalf("trusted: %v: %v, %v", trusted, err, readErr)
			}
			if want != nil {
				if err := unix.Kill(waiting, 0); err != unix.ESRCH || len(out) > 0 {
					t.Errorf("trusted: %v: the process is there: %v; it says %q", trusted, err, out)
				}
				continue
			}
			if pid != waiting || string(out) != "7\n" {
				t.Errorf("trusted: %v: process %d, not %d, says %q", trusted, waiting, pid, out)
			}
			if status := ended(t, pid, pidFD); status.ExitStatus() != 4 {
				t.Errorf("trusted: %v: it ended with %v", trusted, status)
			}
		}
	}
}
