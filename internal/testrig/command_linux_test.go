package testrig

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These tests run a shell in berth's place.

func shell(tb testing.TB) *Command {
	tb.Helper()
	path, err := toolPath("sh")
	if err != nil {
		tb.Fatal(err)
	}
	return newCommand(tb, path)
}

func TestRunTellsHowItEnded(t *testing.T) {
	c := shell(t)
	c.Env = []string{"MORE=more"}
	got := c.Run("-c", `echo "$BERTH_WORK_DIR $BERTH_RUNTIME_DIR $BERTH_CGROUPS_ROOT $MORE"; echo err >&2; exit 7`)
	want := Result{Stdout: strings.Join([]string{c.WorkDir, c.RuntimeDir, c.CgroupsRoot, "more\n"}, " "), Stderr: "err\n", ExitCode: 7}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := c.Run("-c", "kill -9 $$"); got.ExitCode != -1 || got.Signal != syscall.SIGKILL {
		t.Errorf("killed: %+v", got)
	}
	other := shell(t)
	for _, pair := range [][2]string{{c.WorkDir, other.WorkDir}, {c.RuntimeDir, other.RuntimeDir}, {c.CgroupsRoot, other.CgroupsRoot}} {
		if strings.Contains(pair[0], pair[1]) || strings.Contains(pair[1], pair[0]) {
			t.Errorf("two commands have %q", pair)
		}
	}
}

func TestStartSignalWait(t *testing.T) {
	p := shell(t).Start("-c", `trap 'echo stopped; exit 3' TERM; echo ready; while :; do sleep 0.05; done`)
	err := eventually(5*time.Second, func() error {
		if stdout, _ := p.Output(); stdout != "ready\n" {
			return os.ErrNotExist
		}
		return nil
	})
	if err != nil {
		t.Fatal("it does not start")
	}
	p.Signal(syscall.SIGTERM)
	if got := p.Wait(); got.ExitCode != 3 || got.Stdout != "ready\nstopped\n" {
		t.Errorf("got %+v", got)
	}
	p.Signal(syscall.SIGTERM) // is no error
	if again := p.Wait(); again.ExitCode != 3 {
		t.Errorf("waited again: %+v", again)
	}
}

func TestAProcessThatLivesOnIsReportedAndEnded(t *testing.T) {
	impatient(t)
	for _, c := range []struct{ name, program, script string }{
		{"by its arguments", "tail", `env -i tail -q -f /dev/null "$BERTH_WORK_DIR"`},
		{"by its environment", "sleep", `sleep 1000`},
	} {
		t.Run(c.name, func(t *testing.T) {
			// It also keeps stdout open.
			var pid int
			r := record(t, func(tb testing.TB) {
				pid = atoi(t, shell(tb).Run("-c", c.script+` & until grep -q `+c.program+` /proc/$!/comm; do :; done; echo $!`).Stdout)
			})
			if len(r.errors) != 1 || !strings.Contains(r.errors[0], "left behind: + process") {
				t.Errorf("errors: %q", r.errors)
			}
			err := eventually(5*time.Second, func() error {
				if unix.Kill(pid, 0) == nil && !strings.Contains(readProc(pid, "stat"), ") Z ") {
					return os.ErrExist
				}
				return nil
			})
			if err != nil {
				t.Errorf("process %d still runs", pid)
			}
		})
	}
}

func TestAMountAndACgroupAreReportedAndRemoved(t *testing.T) {
	impatient(t)
	RequireRoot(t)
	var c *Command
	r := record(t, func(tb testing.TB) {
		c = shell(tb)
		writer{tb, c.WorkDir}.dir("x/mnt", 0o755)
		if err := unix.Mount("tmpfs", c.WorkDir+"/x/mnt", "tmpfs", 0, ""); err != nil {
			tb.Fatal(err)
		}
		parent := makeCgroup(t, c.CgroupsRoot)
		if err := os.Mkdir(filepath.Join(parent, "child"), 0o755); err != nil {
			tb.Fatal(err)
		}
	})
	var said []string
	for _, e := range r.errors {
		said = append(said, strings.Fields(strings.TrimPrefix(e, "berth left behind: + "))[0])
	}
	if strings.Join(said, " ") != "cgroup mount" {
		t.Errorf("errors: %q", r.errors)
	}
	if diff := (State{scope: c.Scope()}).changes(time.Second); len(diff) != 0 {
		t.Errorf("still there: %q", diff)
	}
}

func TestBuildModuleMakesStaticBinaries(t *testing.T) {
	t.Setenv("BERTH_TEST_CACHE", TempDir(t))
	w := writer{t, TempDir(t)}
	w.file("go.mod", 0o644, "module berth\n\ngo 1.26\n")
	for _, name := range []string{"berth", "berth-init"} {
		w.dir("cmd/"+name, 0o755)
		w.file("cmd/"+name+"/main.go", 0o644, "package main\n\nimport _ \"net\"\n\nfunc main() { println(\""+name+"\") }\n")
	}
	dir, err := buildModule(w.root)
	if err != nil {
		t.Fatal(err)
	}
	c := newCommand(t, filepath.Join(dir, "berth"))
	if got := c.Run(); got.Stderr != "berth\n" {
		t.Errorf("it says %+v", got)
	}
	f, err := elf.Open(filepath.Join(dir, "berth-init"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("berth-init is not static")
		}
	}
	w.file("cmd/berth/main.go", 0o644, "not Go")
	if _, err := buildModule(w.root); err == nil || !strings.Contains(err.Error(), "main.go:1:1") {
		t.Errorf("a source that does not compile: %v", err)
	}
}
