package testrig

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// runLimit bounds one run of berth in a test.
const runLimit = 2 * time.Minute

// Command runs the berth of this source tree with directories and a cgroup of
// its own, so that tests can run side by side and a leak names its test. A test
// may change the fields before the first run.
type Command struct {
	Path        string   // of berth; berth-init lies beside it
	WorkDir     string   // BERTH_WORK_DIR; berth makes it
	RuntimeDir  string   // BERTH_RUNTIME_DIR; berth makes it
	CgroupsRoot string   // BERTH_CGROUPS_ROOT
	Env         []string // added to the environment
	Stdin       *os.File // nil: empty
	tb          testing.TB
}

// Result is how a run of berth ended.
type Result struct {
	Stdout, Stderr string
	ExitCode       int            // -1 if a signal ended it
	Signal         syscall.Signal // which
}

// Process is a run of berth that has not been waited for.
type Process struct {
	Pid            int
	tb             testing.TB
	args           []string
	done           <-chan error
	cmd            *exec.Cmd
	stdout, stderr string // files, so that a container that lives on holds no pipe of ours
	result         *Result
}

var commandCount atomic.Int64

// Berth builds berth and berth-init, static as they are shipped, and returns how
// to run them. At the end of the test there may be no process, no mount and no
// cgroup of its containers any more: what is left fails the test, and is then
// removed.
func Berth(tb testing.TB) *Command {
	tb.Helper()
	binaries, err := Binaries()
	if err != nil {
		tb.Fatal(err)
	}
	return newCommand(tb, filepath.Join(binaries, "berth"))
}

func newCommand(tb testing.TB, path string) *Command {
	tb.Helper()
	base := TempDir(tb)
	c := &Command{
		Path:       path,
		WorkDir:    filepath.Join(base, "work"),
		RuntimeDir: filepath.Join(base, "run"),
		// Words at both ends: none of these names is part of another.
		CgroupsRoot: fmt.Sprintf("berth-%d-%d-test", os.Getpid(), commandCount.Add(1)),
		tb:          tb,
	}
	tb.Cleanup(func() {
		for _, left := range c.leftovers() {
			tb.Errorf("berth left behind: %s", left)
		}
		if err := c.sweep(); err != nil {
			tb.Errorf("remove what berth left behind: %v", err)
		}
	})
	return c
}

// Binaries returns the directory with berth and berth-init, static as they are
// shipped. They are built once in a test process, but then always, so that a test
// never runs yesterday's; where BERTH_TEST_BINARIES names a directory, somebody else
// has done so.
func Binaries() (dir string, err error) { return binaries() }

var binaries = sync.OnceValues(func() (dir string, err error) {
	if dir := os.Getenv("BERTH_TEST_BINARIES"); dir != "" {
		return dir, nil
	}
	gomod, err := tool{}.try("go", "env", "GOMOD")
	if err == nil {
		dir, err = buildModule(filepath.Dir(strings.TrimSpace(gomod)))
	}
	if err != nil {
		return "", fmt.Errorf("build berth: %w", err)
	}
	return dir, nil
})

// buildModule leaves the binaries in the cache, a directory for each source
// tree: testing has none that lives as long as the process, and the go command
// links again only what has changed.
func buildModule(module string) (dir string, err error) {
	name := "bin" + strings.ReplaceAll(module, "/", "-")
	cache, unlock, err := lockCache(name)
	if err != nil {
		return "", err
	}
	defer unlock()
	dir = filepath.Join(cache, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	t := tool{dir: module, env: []string{"CGO_ENABLED=0"}}
	_, err = t.try("go", "build", "-trimpath", "-buildvcs=false", "-o", dir+"/", "./cmd/berth", "./cmd/berth-init")
	return dir, err
}

// Scope is where to look for what this command's containers could leave; hand
// it to HostState and NoLeaks, with more added. What does not mention one of
// this command's directories (a network namespace) it does not see.
func (c *Command) Scope() Scope {
	return Scope{
		Processes:    []string{c.WorkDir, c.RuntimeDir, c.CgroupsRoot},
		Environments: []string{"BERTH_CGROUPS_ROOT=" + c.CgroupsRoot},
		Cgroups:      []string{c.CgroupsRoot},
		// With the slash: the work directory may itself be a mount (LoopFS).
		Only: []string{c.WorkDir + "/", c.RuntimeDir + "/"},
	}
}

// Run runs berth to its end. That berth fails is a result; that it does not end
// fails the test.
func (c *Command) Run(args ...string) Result {
	c.tb.Helper()
	return c.Start(args...).Wait()
}

// Start starts berth. A process that the test does not wait for is killed at
// its end.
func (c *Command) Start(args ...string) *Process {
	c.tb.Helper()
	p := &Process{tb: c.tb, args: args}
	dir := TempDir(c.tb)
	p.stdout, p.stderr = filepath.Join(dir, "stdout"), filepath.Join(dir, "stderr")
	stdout, err := os.Create(p.stdout)
	if err != nil {
		c.tb.Fatal(err)
	}
	defer stdout.Close()
	stderr, err := os.Create(p.stderr)
	if err != nil {
		c.tb.Fatal(err)
	}
	defer stderr.Close()
	p.cmd = exec.Command(c.Path, args...)
	p.cmd.Env = append(os.Environ(), c.environment()...)
	p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
	if c.Stdin != nil {
		p.cmd.Stdin = c.Stdin
	}
	p.done, err = startTied(p.cmd)
	if err != nil {
		c.tb.Fatalf("start berth: %v", err)
	}
	p.Pid = p.cmd.Process.Pid
	c.tb.Cleanup(func() {
		if p.result == nil {
			p.Signal(syscall.SIGKILL)
			p.Wait()
		}
	})
	return p
}

func (c *Command) environment() []string {
	return append([]string{
		"BERTH_WORK_DIR=" + c.WorkDir,
		"BERTH_RUNTIME_DIR=" + c.RuntimeDir,
		"BERTH_CGROUPS_ROOT=" + c.CgroupsRoot,
	}, c.Env...)
}

// Signal sends a signal to berth itself; it is no error that it has ended.
func (p *Process) Signal(sig syscall.Signal) {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.tb.Errorf("send %v to berth: %v", sig, err)
	}
}

// Output is what berth has written so far.
func (p *Process) Output() (stdout, stderr string) {
	out, _ := os.ReadFile(p.stdout) // the rig made them
	err, _ := os.ReadFile(p.stderr)
	return string(out), string(err)
}

// Wait waits for the end of berth, for two minutes at most.
func (p *Process) Wait() Result {
	p.tb.Helper()
	if p.result != nil {
		return *p.result
	}
	select {
	case <-p.done:
	case <-time.After(runLimit):
		p.Signal(syscall.SIGQUIT) // where does it hang?
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
			p.Signal(syscall.SIGKILL)
			<-p.done
		}
		p.result = &Result{}
		stdout, stderr := p.Output()
		p.tb.Fatalf("berth %s did not end within %v; stdout:\n%s\nstderr:\n%s", strings.Join(p.args, " "), runLimit, stdout, stderr)
	}
	p.result = &Result{ExitCode: p.cmd.ProcessState.ExitCode()}
	p.result.Stdout, p.result.Stderr = p.Output()
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		p.result.Signal = status.Signal()
	}
	return *p.result
}

// leftovers lists what there is of this command's containers, after the time
// that the kernel may take. The cgroup that holds them all may stay.
func (c *Command) leftovers() []string {
	lines := State{scope: c.Scope()}.changes(leakGrace)
	return slices.DeleteFunc(lines, func(line string) bool {
		return strings.HasPrefix(line, "+ cgroup ") && strings.HasSuffix(line, "/"+c.CgroupsRoot)
	})
}

// sweep kills the processes and removes the cgroups. The mounts go with the
// directory that they are in.
func (c *Command) sweep() error {
	scope := c.Scope()
	return eventually(5*time.Second, func() error {
		processes, err := findProcesses(scope)
		for _, p := range processes {
			if kill := unix.Kill(p.pid, unix.SIGKILL); kill != nil && kill != unix.ESRCH {
				err = errors.Join(err, fmt.Errorf("kill %d (%s): %w", p.pid, p.command, kill))
			}
		}
		dirs, list := cgroupDirs(scope.Cgroups)
		err = errors.Join(err, list)
		for _, dir := range slices.Backward(dirs) {
			if remove := unix.Rmdir(dir); remove != nil && remove != unix.ENOENT {
				err = errors.Join(err, fmt.Errorf("remove cgroup %s: %w", dir, remove))
			}
		}
		return err
	})
}
