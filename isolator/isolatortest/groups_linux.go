package isolatortest

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"berth/container"
	"berth/internal/cgroup"
)

// Groups stands for a launcher: it makes the cgroups of containers that isolators act
// on. They are real ones, of this host.
type Groups struct {
	host        *cgroup.Host
	root        string
	controllers []string

	mu     sync.Mutex
	groups map[container.ID]*cgroup.Group
}

// NewGroups returns an empty set of cgroups with the given controllers. At the end of
// the test none is left. The test is skipped where it cannot make any.
func NewGroups(t testing.TB, controllers ...string) *Groups {
	t.Helper()
	return newGroups(t, detect(t), controllers)
}

// NewGroupsOf is NewGroups with cgroups of one version. A hybrid host can have the v2 part
// of what v1 hierarchies serve, too.
func NewGroupsOf(t testing.TB, version cgroup.Version, controllers ...string) *Groups {
	t.Helper()
	return newGroups(t, detect(t).Only(version), controllers)
}

func detect(t testing.TB) *cgroup.Host {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "making cgroups needs root")
	}
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	return host
}

func newGroups(t testing.TB, host *cgroup.Host, controllers []string) *Groups {
	t.Helper()
	for _, controller := range controllers {
		if _, ok := host.Version(controller); !ok {
			t.Skipf("this host has no such cgroup controller %q", controller)
		}
	}
	if _, err := host.Group("berth-test", controllers); err != nil {
		t.Skip(err)
	}
	return &Groups{host: host, root: "berth-test-" + strings.ToLower(rand.Text()[:8]), controllers: controllers,
		groups: make(map[container.ID]*cgroup.Group)}
}

// skip gives up a test that needs root; where root was promised, that is a failure.
func skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("BERTH_TEST_REQUIRE_ROOT") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// Group returns the cgroup of a container that was forked.
func (g *Groups) Group(id container.ID) (*cgroup.Group, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	group, ok := g.groups[id]
	if !ok {
		return nil, fmt.Errorf("cgroup of container %s: %w", id, container.ErrNotFound)
	}
	return group, nil
}

// Fork makes the cgroup of a container, in which no process is.
func (g *Groups) Fork(t *testing.T, id container.ID) int {
	t.Helper()
	g.Make(t, id)
	return os.Getpid()
}

// Make is Fork, for benchmarks too.
func (g *Groups) Make(t testing.TB, id container.ID) {
	t.Helper()
	group, err := g.host.Group(filepath.Join(append([]string{g.root}, id.Values()...)...), g.controllers)
	if err != nil {
		t.Fatal(err)
	}
	if err := group.Create(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.remove(t, id) })
	g.mu.Lock()
	defer g.mu.Unlock()
	g.groups[id] = group
}

// Gone removes the cgroup of a container.
func (g *Groups) Gone(t *testing.T, id container.ID) {
	t.Helper()
	g.remove(t, id)
}

func (g *Groups) remove(t testing.TB, id container.ID) {
	t.Helper()
	group, err := g.Group(id)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background() // that of the test has ended when this is a cleanup
	if err := group.Kill(ctx); err != nil {
		t.Error(err)
	}
	if err := group.Remove(ctx); err != nil {
		t.Error(err)
	}
}
