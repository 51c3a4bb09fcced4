package cgroup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
)

// testRoot is the parent of all groups that one run of the tests makes.
var testRoot = "berth-test-" + strings.ToLower(rand.Text()[:8])

func TestMain(m *testing.M) {
	if kind := os.Getenv(bombVariable); kind != "" {
		explode(kind)
	}
	code := m.Run()
	if leaks := findLeaks(); len(leaks) > 0 {
		fmt.Fprintf(os.Stderr, "the tests leaked:\n%s\n", strings.Join(leaks, "\n"))
		code = 1
	}
	os.Exit(code)
}

// findLeaks returns the cgroups of this run, and the descriptors in a hierarchy, that
// have outlived the tests.
func findLeaks() []string {
	host, err := Detect()
	if err != nil {
		return nil // no cgroups, no leaks
	}
	var leaks []string
	for _, h := range host.hierarchies {
		if path := filepath.Join(h.mount, testRoot); exists(path) {
			leaks = append(leaks, "cgroup "+path)
		}
	}
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && strings.Contains(target, testRoot) {
			leaks = append(leaks, "descriptor of "+target)
		}
	}
	return leaks
}

// realHost returns what this host mounts, for tests that make cgroups.
func realHost(t testing.TB) *Host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making cgroups needs root")
	}
	host, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := host.Group(testRoot, nil); err != nil {
		t.Skip(err)
	}
	return host
}

// flavours returns the kinds of host that this one can stand for.
func flavours(t testing.TB) map[string]*Host {
	host := realHost(t)
	all := map[string]*Host{"as it is": host}
	for _, version := range []Version{V1, V2} {
		part := host.Only(version)
		if _, err := part.Group(testRoot, nil); err == nil && len(part.hierarchies) < len(host.hierarchies) {
			all[version.String()+" only"] = part
		}
	}
	return all
}

// available returns those of the controllers that the host offers.
func (h *Host) available(controllers ...string) []string {
	return slices.DeleteFunc(controllers, func(controller string) bool {
		_, ok := h.Version(controller)
		return !ok
	})
}

var everyController = []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "name=systemd"}

// newGroup creates a group that is gone at the end of the test.
func newGroup(t testing.TB, host *Host, controllers ...string) *Group {
	t.Helper()
	g := nameGroup(t, host, controllers...)
	if err := g.Create(); err != nil {
		t.Fatal(err)
	}
	return g
}

// nameGroup names a group under a fresh path. Should it exist at the end of the
// test, it is removed.
func nameGroup(t testing.TB, host *Host, controllers ...string) *Group {
	t.Helper()
	keepRootControllers(t, host)
	g, err := host.Group(testRoot+"/"+strings.ToLower(rand.Text()[:8]), controllers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := contextFor(t, 20*time.Second)
		if err := errors.Join(g.Kill(ctx), g.Remove(ctx)); err != nil {
			t.Errorf("clean up: %v", err)
		}
		if made := g.existing(); len(made) > 0 {
			t.Errorf("left behind: %v", made)
		}
	})
	return g
}

// keepRootControllers disables at the end of the test what was enabled in the root of
// the v2 tree by it.
func keepRootControllers(t testing.TB, host *Host) {
	unified := host.unified()
	if unified == nil {
		return
	}
	dir := DirAt(unified.mount, V2)
	before, err := dir.Read("cgroup.subtree_control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		after, err := dir.Read("cgroup.subtree_control")
		if err != nil {
			t.Fatal(err)
		}
		for controller := range strings.FieldsSeq(after) {
			if !slices.Contains(strings.Fields(before), controller) {
				if err := dir.Write("cgroup.subtree_control", "-"+controller); err != nil {
					t.Logf("restore: %v", err)
				}
			}
		}
	})
}

// existing returns the directories of the group that exist.
func (g *Group) existing() []string {
	var dirs []string
	for _, b := range g.branches {
		if exists(b.dir) {
			dirs = append(dirs, b.dir)
		}
	}
	return dirs
}

func contextFor(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// child is a shell that runs its script once it is released.
type child struct {
	*exec.Cmd
	stdin io.Closer
	ended chan error
}

// startShell starts a shell that waits for release. attr may be nil.
func startShell(t testing.TB, script string, attr *syscall.SysProcAttr) *child {
	t.Helper()
	cmd := exec.Command("sh", "-c", "read released; "+script)
	cmd.SysProcAttr = attr
	return start(t, cmd)
}

// start starts a command that waits for the end of its standard input.
func start(t testing.TB, cmd *exec.Cmd) *child {
	t.Helper()
	c := &child{Cmd: cmd, ended: make(chan error, 1)}
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdin = stdin
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.ended <- c.Wait() }()
	t.Cleanup(func() {
		c.release()
		c.Process.Kill()
		select {
		case <-c.ended:
		case <-time.After(10 * time.Second):
			t.Errorf("process %d does not end", c.Process.Pid)
		}
	})
	return c
}

func (c *child) release() { c.stdin.Close() }

// killed reports whether the child was ended by SIGKILL, and waits for that.
func (c *child) killed(t testing.TB) bool {
	t.Helper()
	select {
	case err := <-c.ended:
		c.ended <- err
		var exit *exec.ExitError
		return errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	case <-time.After(10 * time.Second):
		return false
	}
}

// startIn starts a shell, enters it into the group and releases it.
func startIn(t testing.TB, g *Group, script string) *child {
	t.Helper()
	c := startShell(t, script, nil)
	if err := g.Enter(c.Process.Pid); err != nil {
		t.Fatal(err)
	}
	c.release()
	return c
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for range 1000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func processesOf(t testing.TB, g *Group) []int {
	t.Helper()
	pids, err := g.Processes()
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

func TestLifeOfAGroup(t *testing.T) {
	for name, host := range flavours(t) {
		t.Run(name, func(t *testing.T) {
			ctx := contextFor(t, 20*time.Second)
			controllers := host.available(slices.Clone(everyController)...)
			g := newGroup(t, host, controllers...)
			c := startShell(t, "sleep 1000 & wait", nil)
			for range 2 { // the second time changes nothing
				if err := g.Enter(c.Process.Pid); err != nil {
					t.Fatal(err)
				}
			}
			c.release()
			for _, b := range g.branches {
				if !b.holds(c.Process.Pid) {
					t.Errorf("the process is not in %s", b.dir)
				}
			}
			eventually(t, "a second process", func() bool { return len(processesOf(t, g)) == 2 })
			if !slices.Contains(processesOf(t, g), c.Process.Pid) {
				t.Errorf("Processes lacks %d", c.Process.Pid)
			}

			// Another process of berth finds it by what was recorded.
			g, err := host.Group(g.Path(), g.Controllers())
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Create(); !errors.Is(err, container.ErrExists) {
				t.Errorf("second Create: got %v, want class ErrExists", err)
			}
			if len(processesOf(t, g)) != 2 {
				t.Error("the second Create harmed the group")
			}
			for range 2 {
				if err := g.Kill(ctx); err != nil {
					t.Fatal(err)
				}
				if pids := processesOf(t, g); len(pids) > 0 {
					t.Errorf("after Kill: processes %v", pids)
				}
			}
			if !c.killed(t) {
				t.Error("the process was not killed by SIGKILL")
			}
			for range 2 {
				if err := g.Remove(ctx); err != nil {
					t.Fatal(err)
				}
				if dirs := g.existing(); len(dirs) > 0 {
					t.Errorf("after Remove: %v", dirs)
				}
			}
			for _, b := range g.branches {
				if parent := filepath.Dir(b.dir); exists(parent) {
					t.Errorf("the parent %s is left", parent)
				}
			}
			if err := g.Kill(ctx); err != nil {
				t.Errorf("Kill of a missing group: %v", err)
			}
			if pids := processesOf(t, g); len(pids) > 0 {
				t.Errorf("Processes of a missing group: %v", pids)
			}
			if err := g.Enter(os.Getpid()); !errors.Is(err, container.ErrNotFound) {
				t.Errorf("Enter of a missing group: got %v, want class ErrNotFound", err)
			}
		})
	}
}

// isolatorFile is a file that each controller must have once it is in effect.
var isolatorFile = map[string][2]string{ // v1, v2
	"cpu":     {"cpu.shares", "cpu.weight"},
	"cpuacct": {"cpuacct.usage", "cpu.stat"},
	"cpuset":  {"cpuset.cpus", "cpuset.cpus"},
	"memory":  {"memory.limit_in_bytes", "memory.max"},
	"devices": {"devices.list", "cgroup.procs"},
	"freezer": {"freezer.state", "cgroup.freeze"},
	"blkio":   {"blkio.throttle.read_bps_device", "io.max"},
	"pids":    {"pids.max", "pids.max"},
	"hugetlb": {"hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"},
}

func TestCreateGivesEveryControllerItsFiles(t *testing.T) {
	host := realHost(t)
	g := newGroup(t, host, host.available(slices.Clone(everyController)...)...)
	for controller, file := range isolatorFile {
		dir, err := g.Dir(controller)
		if err != nil {
			t.Logf("not on this host: %v", err)
			continue
		}
		name := file[dir.Version()-1]
		if _, err := dir.Read(name); err != nil {
			t.Errorf("%s: %v", controller, err)
		}
	}
}

func TestDirOfARealGroup(t *testing.T) {
	host := realHost(t)
	if len(host.available("pids", "memory")) < 2 {
		t.Skip("pids and memory are not mounted")
	}
	g := newGroup(t, host, "pids", "memory")
	pids, err := g.Dir("pids")
	if err != nil {
		t.Fatal(err)
	}
	memory, err := g.Dir("memory")
	if err != nil {
		t.Fatal(err)
	}
	if err := pids.Write("pids.max", "17"); err != nil {
		t.Error(err)
	}
	if n, err := pids.ReadUint("pids.max"); n != 17 || err != nil {
		t.Errorf("pids.max: %d, %v", n, err)
	}
	if err := pids.Write("pids.max", "many"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a value that the kernel refuses: got %v, want EINVAL", err)
	}
	if err := pids.Write("pids.most", "1"); !errors.Is(err, container.ErrNotSupported) {
		t.Errorf("a file that does not exist: got %v, want class ErrNotSupported", err)
	}
	if stat, err := memory.ReadKeyed("memory.stat"); err != nil || len(stat) == 0 {
		t.Errorf("memory.stat: %d keys, %v", len(stat), err)
	}
	if err := g.Remove(contextFor(t, time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := memory.Read("memory.stat"); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("a group that is gone: got %v, want class ErrNotFound", err)
	}
}

func TestDirTellsARefusedValueFromAMissingFile(t *testing.T) {
	host := realHost(t)
	if version, _ := host.Version("blkio"); version != V1 {
		t.Skip("needs the v1 blkio controller")
	}
	dir, err := newGroup(t, host, "blkio").Dir("blkio")
	if err != nil {
		t.Fatal(err)
	}
	err = dir.Write("blkio.throttle.read_bps_device", "4094:4094 1000")
	if !errors.Is(err, unix.ENODEV) || errors.Is(err, container.ErrNotSupported) || errors.Is(err, container.ErrNotFound) {
		t.Errorf("no such block device: got %v, want ENODEV of no class", err)
	}
}

func TestCreateUndoesItself(t *testing.T) {
	host := realHost(t)
	g := nameGroup(t, host, host.available("memory", "pids", "cpu")...)
	last := g.branches[len(g.branches)-1]
	if err := last.mkdir(); err != nil {
		t.Fatal(err)
	}
	err := g.Create()
	if len(g.branches) > 1 && !errors.Is(err, container.ErrExists) {
		t.Errorf("got %v, want class ErrExists", err)
	}
	if dirs := g.existing(); len(dirs) != 1 || dirs[0] != last.dir {
		t.Errorf("after a failed Create: %v, want only %s, which it did not make", dirs, last.dir)
	}
}

func TestNamesThatTheKernelHasTaken(t *testing.T) {
	for name, host := range flavours(t) {
		t.Run(name, func(t *testing.T) {
			ctx := contextFor(t, time.Second)
			newGroup(t, host) // so that the parent and its files exist
			for _, path := range []string{"cgroup.procs", "cgroup.procs/x"} {
				g, err := host.Group(testRoot+"/"+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := g.Create(); !errors.Is(err, container.ErrInvalid) {
					t.Errorf("%s: Create: got %v, want class ErrInvalid", path, err)
				}
				if err := errors.Join(g.Kill(ctx), g.Remove(ctx)); err != nil {
					t.Errorf("%s: there is no such group, so Kill and Remove succeed: %v", path, err)
				}
			}
		})
	}
}

func TestCloneIntoTheUnifiedTree(t *testing.T) {
	host := realHost(t)
	if host.unified() == nil {
		t.Skip("no v2 tree is mounted")
	}
	g := newGroup(t, host, host.available("cpu", "memory")...)
	fd, err := g.UnifiedFD()
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	c := startShell(t, "exec sleep 1000", &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(fd.Fd())})
	if !g.keeper().holds(c.Process.Pid) {
		t.Error("the process was not born in the group")
	}
	if err := g.Enter(c.Process.Pid); err != nil {
		t.Fatal(err)
	}
	for _, b := range g.branches {
		if !b.holds(c.Process.Pid) {
			t.Errorf("the process is not in %s", b.dir)
		}
	}
	ctx := contextFor(t, 10*time.Second)
	if err := errors.Join(g.Kill(ctx), g.Remove(ctx)); err != nil {
		t.Error(err)
	}
	if _, err := g.UnifiedFD(); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("UnifiedFD of a missing group: got %v, want class ErrNotFound", err)
	}
}

func TestNoUnifiedFDWithoutAV2Tree(t *testing.T) {
	g, err := testHost(t, pureV1Mounts, pureV1Own, "").Group("berth/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	if fd, err := g.UnifiedFD(); fd != nil || err != nil {
		t.Errorf("got %v, %v; want nil, nil", fd, err)
	}
}

func TestEnterTellsWhoCannot(t *testing.T) {
	host := realHost(t)
	g := newGroup(t, host)
	c := startShell(t, "exit 0", nil)
	c.release()
	c.ended <- <-c.ended
	if err := g.Enter(c.Process.Pid); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("a process that has ended: got %v, want class ErrNotFound", err)
	}
	for _, pid := range []int{0, -1} { // 0 would be the caller itself
		if err := g.Enter(pid); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("process %d: got %v, want class ErrInvalid", pid, err)
		}
	}
}

// bombVariable is set in the environment of a test binary that shall be a fork bomb.
const bombVariable = "BERTH_TEST_BOMB"

// The kinds of bombs.
const (
	flood  = "flood"  // every process forks for ever
	chains = "chains" // every process forks once and ends: no list of processes stays true
)

// explode is a fork bomb, once its standard input ends. It makes system calls only:
// of a runtime with several threads, a forked child has just one.
func explode(kind string) {
	io.Copy(io.Discard, os.Stdin)
	for range 5 { // 32 processes
		syscall.RawSyscall(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0)
	}
	for {
		pid, _, errno := syscall.RawSyscall(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0)
		if kind == chains && errno == 0 && pid != 0 {
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
}

func TestKillEndsAForkBomb(t *testing.T) {
	for name, host := range flavours(t) {
		ways := map[string]func(*Group, context.Context) error{"Kill": (*Group).Kill}
		if host.unified() != nil {
			ways["cgroup.freeze and signals"] = func(g *Group, ctx context.Context) error { return g.keeper().signalUntilEmpty(ctx) }
		}
		for way, kill := range ways {
			for _, kind := range []string{flood, chains} {
				t.Run(fmt.Sprint(name, "/", kind, "/", way), func(t *testing.T) {
					for range 3 {
						killBomb(t, host, kind, kill)
					}
				})
			}
		}
	}
}

// killBomb starts a bomb in a group of the host and kills it.
func killBomb(t *testing.T, host *Host, kind string, kill func(*Group, context.Context) error) {
	// The limit is set in a group of its own, as the host under test may lack pids.
	all := realHost(t)
	if len(all.available("pids")) == 0 {
		t.Skip("a fork bomb needs pids.max")
	}
	limit := newGroup(t, all, "pids")
	dir, err := limit.Dir("pids")
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Write("pids.max", "200"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), bombVariable+"="+kind)
	c := start(t, cmd)
	if err := limit.Enter(c.Process.Pid); err != nil {
		t.Fatal(err)
	}
	g := limit
	if len(host.hierarchies) < len(all.hierarchies) {
		g = newGroup(t, host)
		if err := g.Enter(c.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	c.release()
	least := map[string]int{flood: 100, chains: 10}[kind]
	eventually(t, "a bomb that goes off", func() bool { return len(processesOf(t, g)) > least })
	begin := time.Now()
	if err := kill(g, contextFor(t, 60*time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Logf("killed in %v", time.Since(begin))
	for range 20 {
		if pids := processesOf(t, g); len(pids) > 0 {
			t.Fatalf("after Kill: processes %v", pids)
		}
		time.Sleep(time.Millisecond)
	}
}

// nest makes cgroups below the group in the branch and moves the process into the
// lowest, as a container may.
func nest(t *testing.T, b branch, pid int, names ...string) branch {
	t.Helper()
	for _, name := range names {
		b.dir = filepath.Join(b.dir, name)
		if err := os.Mkdir(b.dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := DirAt(b.dir, b.version).Write("cgroup.procs", fmt.Sprint(pid)); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestKillReachesNestedCgroups(t *testing.T) {
	for name, host := range flavours(t) {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, host, host.available("memory", "freezer")...)
			c := startIn(t, g, "exec sleep 1000")
			for _, b := range g.branches {
				nest(t, b, c.Process.Pid, "a", "b", "c")
				if err := os.Mkdir(filepath.Join(b.dir, "a", "empty"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if pids := processesOf(t, g); !slices.Equal(pids, []int{c.Process.Pid}) {
				t.Errorf("Processes: %v, want %d", pids, c.Process.Pid)
			}
			busy, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
			defer cancel()
			err := g.Remove(busy)
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), fmt.Sprint(c.Process.Pid)) {
				t.Errorf("Remove of a group that lives: got %v, want what keeps it busy", err)
			}
			ctx := contextFor(t, 10*time.Second)
			if err := errors.Join(g.Kill(ctx), g.Remove(ctx)); err != nil {
				t.Error(err)
			}
			if !c.killed(t) {
				t.Error("the process lives")
			}
		})
	}
}

func TestRemoveOfCgroupsDeeperThanAPathIsLong(t *testing.T) {
	for name, host := range flavours(t) {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, host)
			deep := strings.Repeat("d", 200)
			fd, err := openDirAt(unix.AT_FDCWD, g.keeper().dir)
			if err != nil {
				t.Fatal(err)
			}
			for range 30 { // 6000 bytes, of at most 4096
				if err := unix.Mkdirat(fd, deep, 0o755); err != nil {
					t.Fatal(err)
				}
				below, err := openDirAt(fd, deep)
				if err != nil {
					t.Fatal(err)
				}
				unix.Close(fd)
				fd = below
			}
			c := startShell(t, "exec sleep 1000", nil)
			if err := writeAt(fd, "cgroup.procs", fmt.Sprint(c.Process.Pid)); err != nil {
				t.Fatal(err)
			}
			unix.Close(fd)
			ctx := contextFor(t, 10*time.Second)
			if err := errors.Join(g.Kill(ctx), g.Remove(ctx)); err != nil {
				t.Error(err)
			}
			if !c.killed(t) {
				t.Error("the process lives")
			}
		})
	}
}

func TestKillReachesTheFrozen(t *testing.T) {
	for name, host := range flavours(t) {
		for _, depth := range [][]string{nil, {"below"}} {
			t.Run(fmt.Sprint(name, depth), func(t *testing.T) {
				g := newGroup(t, host, "freezer")
				c := startIn(t, g, "exec sleep 1000")
				dir, err := g.Dir("freezer")
				if err != nil {
					t.Fatal(err)
				}
				for _, b := range g.branches {
					if b.dir != dir.Path() {
						continue
					}
					if len(depth) > 0 {
						b = nest(t, b, c.Process.Pid, depth...)
					}
					if frozen, err := b.freeze(t.Context(), time.Second); !frozen || err != nil {
						t.Fatalf("freeze: %v, %v", frozen, err)
					}
				}
				if err := g.Kill(contextFor(t, 10*time.Second)); err != nil {
					t.Error(err)
				}
				if !c.killed(t) {
					t.Error("the process lives")
				}
			})
		}
	}
}

func TestKillNamesWhoDoesNotDie(t *testing.T) {
	host := realHost(t).Only(V1)
	if len(host.available("freezer")) == 0 {
		t.Skip("only a v1 freezer keeps a process from dying")
	}
	g := newGroup(t, host)
	c := startIn(t, g, "exec sleep 1000")
	above := DirAt(filepath.Dir(g.keeper().dir), V1)
	if err := above.Write("freezer.state", "FROZEN"); err != nil {
		t.Fatal(err)
	}
	err := g.Kill(contextFor(t, 20*time.Millisecond))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the context", err)
	}
	for _, want := range []string{g.Path(), g.keeper().dir, fmt.Sprint(c.Process.Pid)} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
	if err := above.Write("freezer.state", "THAWED"); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(contextFor(t, 10*time.Second)); err != nil {
		t.Errorf("repeated: %v", err)
	}
	if !c.killed(t) {
		t.Error("the process lives")
	}
}

func TestKillReachesThreadedCgroups(t *testing.T) {
	host := realHost(t)
	if host.unified() == nil {
		t.Skip("no v2 tree is mounted")
	}
	for name, kill := range map[string]func(branch, context.Context) error{"cgroup.kill": branch.kill, "signals": branch.signalUntilEmpty} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, host)
			c := startIn(t, g, "exec sleep 1000")
			below := g.keeper()
			below.dir = below.processDir() + "/threads"
			if err := os.Mkdir(below.dir, 0o755); err != nil {
				t.Fatal(err)
			}
			dir := DirAt(below.dir, V2)
			if err := errors.Join(dir.Write("cgroup.type", "threaded"), dir.Write("cgroup.threads", fmt.Sprint(c.Process.Pid))); err != nil {
				t.Fatal(err)
			}
			if pids := processesOf(t, g); !slices.Equal(pids, []int{c.Process.Pid}) {
				t.Errorf("Processes: %v, want %d", pids, c.Process.Pid)
			}
			ctx := contextFor(t, 10*time.Second)
			if err := errors.Join(kill(g.keeper(), ctx), g.Remove(ctx)); err != nil {
				t.Error(err)
			}
			if !c.killed(t) {
				t.Error("the process lives")
			}
		})
	}
}

// A launch that was interrupted between the first and the last write of Enter or of
// Create, or a removal half-way.
func TestRecoveryOfHalfAGroup(t *testing.T) {
	host := realHost(t)
	controllers := host.available("memory", "pids")
	for i := range 1 + len(controllers) {
		g := nameGroup(t, host, controllers...)
		if i >= len(g.branches) {
			break // a v2 host has a single branch
		}
		b := g.branches[i]
		t.Run("only "+b.mount, func(t *testing.T) {
			if _, err := b.create(); err != nil {
				t.Fatal(err)
			}
			c := startShell(t, "exec sleep 1000", nil)
			if err := DirAt(b.dir, b.version).Write("cgroup.procs", fmt.Sprint(c.Process.Pid)); err != nil {
				t.Fatal(err)
			}
			again, err := host.Group(g.Path(), g.Controllers())
			if err != nil {
				t.Fatal(err)
			}
			ctx := contextFor(t, 10*time.Second)
			if err := errors.Join(again.Kill(ctx), again.Remove(ctx)); err != nil {
				t.Error(err)
			}
			if !c.killed(t) {
				t.Error("the process lives")
			}
			if dirs := g.existing(); len(dirs) > 0 {
				t.Errorf("left: %v", dirs)
			}
		})
	}
}

func TestAnEndedContextStillTriesOnce(t *testing.T) {
	for name, host := range flavours(t) {
		t.Run(name, func(t *testing.T) {
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			if err := newGroup(t, host).Kill(ended); err != nil {
				t.Errorf("Kill of an empty group: %v", err)
			}
			g := newGroup(t, host)
			c := startIn(t, g, "exec sleep 1000")
			if err := g.Kill(ended); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("Kill: %v", err)
			}
			if !c.killed(t) {
				t.Error("the process lives")
			}
			eventually(t, "Remove", func() bool { return g.Remove(ended) == nil })
		})
	}
}

// Many groups come and go under one parent, which the last one removes and the
// next one makes.
// What groups come and go in stays until there is to be nothing in it any more.
func TestRemoveBelow(t *testing.T) {
	for name, host := range flavours(t) {
		t.Run(name, func(t *testing.T) {
			root := nameGroup(t, host, host.available("memory")...)
			parents := func() (there []bool) {
				for _, b := range root.branches {
					there = append(there, exists(b.dir))
				}
				return there
			}
			kept, gone := make([]bool, len(root.branches)), make([]bool, len(root.branches))
			for i := range kept {
				kept[i] = true
			}
			for _, path := range []string{"/a", "/a/b"} { // of the second, the parent goes with it
				g, err := host.Group(root.Path()+path, host.available("memory"))
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(g.Create(), g.RemoveBelow(contextFor(t, 20*time.Second), root.Path())); err != nil {
					t.Fatal(err)
				}
				if exists(root.branches[0].dir+"/a") || !slices.Equal(parents(), kept) {
					t.Errorf("after the removal of %s the parents are there: %v", path, parents())
				}
			}
			g, err := host.Group(root.Path()+"/c", host.available("memory"))
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Create(); err != nil {
				t.Fatal(err)
			}
			host.RemoveEmpty(root.Path())
			if !slices.Equal(parents(), kept) || len(g.existing()) != len(g.branches) {
				t.Errorf("with a group in them, the parents are there: %v, and the group: %v", parents(), g.existing())
			}
			if err := g.RemoveBelow(contextFor(t, 20*time.Second), root.Path()); err != nil {
				t.Fatal(err)
			}
			host.RemoveEmpty(root.Path())
			if !slices.Equal(parents(), gone) {
				t.Errorf("when nothing is in them, the parents are there: %v", parents())
			}
		})
	}
}

func TestGroupsRaceForTheirParents(t *testing.T) {
	for name, host := range flavours(t) {
		t.Run(name, func(t *testing.T) {
			keepRootControllers(t, host)
			ctx := contextFor(t, 60*time.Second)
			controllers := host.available("cpuset", "pids", "hugetlb")
			process := startShell(t, "exec sleep 1000", nil)
			var all sync.WaitGroup
			for worker := range 32 {
				all.Go(func() {
					for round := range 20 {
						path := fmt.Sprintf("%s/race/%d-%d", testRoot, worker, round)
						if err := liveShortly(ctx, host, path, controllers, process.Process.Pid, worker == 0); err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
			for _, h := range host.hierarchies {
				if path := filepath.Join(h.mount, testRoot); exists(path) {
					t.Errorf("%s is left", path)
				}
			}
		})
	}
}

// liveShortly creates a group, looks whether it is whole and removes it.
func liveShortly(ctx context.Context, host *Host, path string, controllers []string, pid int, enter bool) error {
	g, err := host.Group(path, controllers)
	if err != nil {
		return err
	}
	if err := g.Create(); err != nil {
		return err
	}
	for _, controller := range controllers {
		dir, err := g.Dir(controller)
		if err != nil {
			return err
		}
		text, err := dir.Read(isolatorFile[controller][dir.Version()-1])
		if err != nil {
			return err
		}
		if text == "" && dir.Version() == V1 {
			return fmt.Errorf("%s of %s is empty: no process can enter", controller, path)
		}
	}
	if enter {
		if err := g.Enter(pid); err != nil {
			return err
		}
		for _, b := range g.branches {
			if err := DirAt(b.mount, b.version).Write("cgroup.procs", fmt.Sprint(pid)); err != nil {
				return err
			}
		}
	}
	return g.Remove(ctx)
}

// The cost of the cgroups of one container, without its process.
func BenchmarkCreateRemove(b *testing.B) {
	host := realHost(b)
	parent, err := host.Group(testRoot+"/kept", host.available("cpu", "cpuacct", "memory", "pids"))
	if err != nil {
		b.Fatal(err)
	}
	if err := parent.Create(); err != nil {
		b.Fatal(err)
	}
	ctx := contextFor(b, time.Minute)
	b.Cleanup(func() {
		if err := parent.Remove(ctx); err != nil {
			b.Error(err)
		}
	})
	for b.Loop() {
		g, err := host.Group(testRoot+"/x", parent.Controllers())
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(g.Create(), g.Kill(ctx), g.Remove(ctx)); err != nil {
			b.Fatal(err)
		}
	}
}
