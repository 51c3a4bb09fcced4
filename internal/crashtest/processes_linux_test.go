package crashtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"berth/internal/testrig"
)

// crowd is berth processes in one pair of directories.
type crowd struct {
	*testing.T
	berth   *testrig.Command
	busybox string
	small   map[string]string

	mu     sync.Mutex
	random *rand.Rand
}

// Many processes at once do not disturb each other, not even when some of them are
// killed at any moment.
func TestManyProcessesAtOnce(t *testing.T) {
	testrig.RequireRoot(t)
	reg := testrig.Registry(t)
	c := &crowd{T: t, berth: testrig.Berth(t), busybox: testrig.BusyboxImage(t, reg, "busybox:1"),
		small: make(map[string]string), random: random(t)}
	for _, variant := range testrig.SmallVariants {
		c.small[variant] = testrig.SmallImage(t, reg, "small:"+variant, variant)
	}
	c.quietly("run", c.busybox, "true")
	c.quietly("pull", c.small["three"])
	c.quietly("prune", "--exclude", c.busybox, "--exclude", c.small["three"])
	scope := c.berth.Scope()
	scope.Files = []string{c.berth.WorkDir, c.berth.RuntimeDir}
	before := testrig.HostState(t, scope)

	end := time.Now().Add(time.Duration(ordinarily(6, 900)) * time.Second)
	var all sync.WaitGroup
	for n, do := range []func(n int){c.runs, c.runs, c.pulls, c.prunes, c.looksAfter, c.provisions} {
		all.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				do(n)
			}
		})
	}
	all.Wait()

	c.quietly("run", c.busybox, "true")
	c.quietly("repair")
	c.quietly("check")
	c.quietly("prune", "--exclude", c.busybox, "--exclude", c.small["three"])
	for _, line := range before.Diff(testrig.HostState(t, scope)) {
		t.Errorf("not as before: %s", line)
	}
}

// quietly runs berth, which has to succeed.
func (c *crowd) quietly(args ...string) {
	c.Helper()
	if r := c.berth.Run(args...); r.ExitCode != 0 {
		c.Fatalf("berth %s: %d\n%s%s", strings.Join(args, " "), r.ExitCode, r.Stdout, r.Stderr)
	}
}

// among runs berth among others. Now and then it is killed. Else it may end with the
// given exit codes only.
func (c *crowd) among(codes []int, args ...string) testrig.Result {
	c.Helper()
	c.mu.Lock()
	killed := c.random.IntN(4) == 0
	wait := time.Duration(c.random.IntN(40_000)) * time.Microsecond
	c.mu.Unlock()
	p := c.berth.Start(args...)
	if killed {
		time.Sleep(wait)
		p.Signal(syscall.SIGKILL)
	}
	r := p.Wait()
	if r.Signal != syscall.SIGKILL && !slices.Contains(codes, r.ExitCode) {
		c.Errorf("berth %s: %d %v\n%s%s", strings.Join(args, " "), r.ExitCode, r.Signal, r.Stdout, r.Stderr)
	}
	return r
}

func (c *crowd) runs(int) {
	c.among([]int{7}, "run", c.busybox, "--", "sh", "-c", "exit 7")
}

func (c *crowd) pulls(int) {
	c.among([]int{0}, "pull", "--pull=always", c.small["one"])
	c.among([]int{0}, "pull", c.small["two"])
	if r := c.among([]int{0, 125}, "rmi", c.small["one"]); r.ExitCode == 125 && !strings.Contains(r.Stderr, "not found") {
		c.Errorf("berth rmi: %s", r.Stderr) // it may have been pruned
	}
}

func (c *crowd) prunes(int) {
	c.among([]int{0}, "prune", "--exclude", c.busybox, "--exclude", c.small["three"])
}

// looksAfter breaks something, which nobody else uses, and has it mended.
func (c *crowd) looksAfter(int) {
	files, err := filepath.Glob(filepath.Join(c.berth.WorkDir, "store/layers/*/tree/fs/variant"))
	if err != nil {
		c.Error(err)
	}
	for _, file := range files {
		// Those of others come and go.
		if data, err := os.ReadFile(file); err == nil && string(data) == "three" {
			if err := flip(file); err != nil {
				c.Error(err)
			}
		}
	}
	if r := c.among([]int{0, 1}, "check"); r.ExitCode == 1 && !strings.Contains(r.Stdout, `"variant"`) {
		c.Errorf("berth check: %s", r.Stdout)
	}
	c.among([]int{0}, "repair")
}

// provisions makes root filesystems that outlive their process.
func (c *crowd) provisions(n int) {
	id := fmt.Sprintf("p%d", n)
	c.among([]int{0}, "provision", "--id", id, c.busybox)
	for {
		r := c.among([]int{0, 125}, "destroy", id)
		switch {
		case r.Signal == syscall.SIGKILL:
		case strings.Contains(r.Stderr, "belongs to a berth process that lives"):
			// One that recovers: a record that was not yet signed is nobody's.
		case r.ExitCode == 125 && !strings.Contains(r.Stderr, "not found"):
			c.Errorf("berth destroy: %s", r.Stderr)
			return
		default:
			return
		}
	}
}
