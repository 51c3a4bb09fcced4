package calls

import (
	"errors"
	"io"
	"os"
	"os/exec"
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
		t.Run(name, func(t *testing.T) {
			l, r, w := piped(t)
			if err := open(l, []string{"sh", "-c", "echo $0 $A; exit 3", "zero"}); err != nil {
				t.Fatal(err)
			}
			pid, pidFD, err := l.Run(-1)
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
	pid, pidFD, err := l.Run(-1)
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
		t.Run(name, func(t *testing.T) {
			l := &List{}
			defer l.Close()
			c.add(l)
			if err := l.Execute(unix.AT_FDCWD, "/no/program", []string{"program"}, nil); err != nil {
				t.Fatal(err)
			}
			_, _, err := l.Run(-1)
			var failed *Failure
			if !errors.As(err, &failed) || failed.What != c.what || failed.Last != c.last || !errors.Is(err, c.errno) {
				t.Errorf("%v", err)
			}
			noChildren(t)
		})
	}
}

func TestRunInACgroupThatIsNone(t *testing.T) {
	l := &List{}
	defer l.Close()
	if err := l.Execute(unix.AT_FDCWD, shell(t), []string{"sh"}, nil); err != nil {
		t.Fatal(err)
	}
	var failed *Failure
	if _, _, err := l.Run(0); !errors.As(err, &failed) || failed.What != "fork" {
		t.Errorf("%v", err)
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
	for _, forks := range []bool{false, true} {
		b.Run(map[bool]string{false: "one", true: "and a fork"}[forks], func(b *testing.B) {
			for b.Loop() {
				l := &List{}
				if forks {
					l.Fork(0)
				}
				if err := l.Execute(unix.AT_FDCWD, "/bin/true", []string{"true"}, nil); err != nil {
					b.Fatal(err)
				}
				pid, pidFD, err := l.Run(-1)
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
