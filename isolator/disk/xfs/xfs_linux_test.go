package xfs

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/disk"
	"berth/internal/metrics"
	"berth/internal/projectquota"
	"berth/internal/testrig"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

const mib = 1 << 20

// place is a file system with project quotas.
type place struct {
	dir string
	*Isolator
}

// onEach runs a test on each file system that this kernel has with project quotas.
func onEach(t *testing.T, test func(t *testing.T, p place)) {
	for _, fstype := range []string{"xfs", "ext4"} {
		t.Run(fstype, func(t *testing.T) {
			dir := testrig.QuotaFS(t, fstype)
			if err := projectquota.Check(dir); err != nil {
				t.Fatal(err)
			}
			test(t, newPlace(dir))
		})
	}
}

func newPlace(dir string) place {
	return place{dir, New(Options{
		Volume:  func(role, id string) string { return filepath.Join(dir, "volumes", role, id) },
		Further: func(id container.ID) []string { return []string{filepath.Join(dir, id.String(), "network"), "/proc"} },
		Log:     slog.Default(), Projects: Range{5000, 5009}, Ledger: filepath.Join(dir, "projects"), WorkDir: dir, Interval: time.Millisecond, Headroom: 4 * mib,
	})}
}

func (p place) path(name string) string { return filepath.Join(p.dir, name) }

func (p place) config(t *testing.T, name string, limit float64) *v1.ContainerConfig {
	t.Helper()
	for _, dir := range []string{name + "/sandbox", name + "/upper"} {
		if err := os.MkdirAll(p.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &v1.ContainerConfig{
		Directory:        proto.String(p.path(name + "/sandbox")),
		EphemeralVolumes: []string{p.path(name + "/upper")},
		Limits:           map[string]*v1.Value_Scalar{"disk": {Value: &limit}},
	}
}

func (p place) prepare(t *testing.T, name string, config *v1.ContainerConfig) *isolator.Container {
	t.Helper()
	id, err := container.ParseID(name)
	if err != nil {
		t.Fatal(err)
	}
	c := &isolator.Container{ID: id, Config: config}
	if _, err := p.Prepare(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// fill writes as a process writes that may not exceed quotas (on ext4 root may).
func (p place) fill(t *testing.T, name string, bytes int) error {
	t.Helper()
	out, err := exec.Command("setpriv", "--bounding-set=-sys_resource",
		"dd", "if=/dev/zero", "of="+p.path(name), "bs=64k", "count="+strconv.Itoa(bytes/(64<<10)), "conv=fsync").CombinedOutput()
	if err != nil && !strings.Contains(string(out), "Disk quota exceeded") && !strings.Contains(string(out), "No space left") {
		t.Fatalf("%v: %s", err, out)
	}
	return err
}

func TestTheKernelBoundsWhatIsWritten(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		c := p.prepare(t, "c", p.config(t, "c", 10))
		if err := p.fill(t, "c/sandbox/file", 6*mib); err != nil {
			t.Fatal(err)
		}
		// Both directories are one disk.
		if err := p.fill(t, "c/upper/file", 6*mib); err == nil {
			t.Error("12 MiB fit into 10")
		}
		if err := os.Mkdir(p.path("c/network"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := p.Isolate(t.Context(), c, 0); err != nil {
			t.Fatal(err)
		}
		if err := p.fill(t, "c/network/hosts", 6*mib); err == nil {
			t.Error("a file that was made for it does not count")
		}
		if err := p.fill(t, "another", 20*mib); err != nil {
			t.Errorf("what is not the container's: %v", err)
		}
		usage := &v1.ResourceStatistics{}
		if err := p.Usage(t.Context(), c.ID, usage); err != nil || usage.GetDiskLimitBytes() != 10*mib || usage.GetDiskUsedBytes() < 9*mib || usage.GetDiskUsedBytes() > 10*mib {
			t.Errorf("%v, %v", usage, err)
		}
		if err := os.RemoveAll(p.path("c")); err != nil {
			t.Fatal(err)
		}
		if err := p.Usage(t.Context(), c.ID, usage); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("of a container that is gone: %v", err)
		}
		// A directory that is not there any more needs no limit, and an update raises one.
		if err := p.Update(t.Context(), &isolator.Container{ID: c.ID, Config: &v1.ContainerConfig{Limits: p.config(t, "c", 20).Limits}}); err != nil {
			t.Fatal(err)
		}
		if err := p.fill(t, "c/upper/file", 6*mib); err != nil {
			t.Errorf("after the update: %v", err)
		}
	})
}

func TestAContainerThatExceedsItsLimitIsEndedIfAskedFor(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		p.Kill = true
		c := p.prepare(t, "c", p.config(t, "c", 4))
		if err := p.fill(t, "c/sandbox/file", 6*mib); err != nil {
			t.Errorf("within the headroom: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		l, err := p.Watch(ctx, c.ID)
		if err != nil || l == nil || l.Reason != container.ReasonLimitationDisk || l.Used < 6 {
			t.Errorf("%+v, %v", l, err)
		}
		if err := p.fill(t, "c/sandbox/file", 12*mib); err == nil {
			t.Error("12 MiB fit into 4 and a headroom of 4")
		}
	})
}

func TestPersistentVolumesHaveProjectsOfTheirOwn(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		p.EnforceRequests = true
		if err := os.MkdirAll(p.path("volumes/web/data"), 0o755); err != nil {
			t.Fatal(err)
		}
		config := p.config(t, "c", 2)
		config.Resources = []*v1.Resource{{Name: proto.String("disk"), Type: v1.Value_SCALAR.Enum(), Role: proto.String("web"),
			Scalar: &v1.Value_Scalar{Value: proto.Float64(4)},
			Disk: &v1.Resource_DiskInfo{Persistence: &v1.Resource_DiskInfo_Persistence{Id: proto.String("data")},
				Volume: &v1.Volume{ContainerPath: proto.String("data"), Mode: v1.Volume_RW.Enum()}}}}
		p.prepare(t, "c", config)
		if err := p.fill(t, "volumes/web/data/file", 3*mib); err != nil {
			t.Errorf("more than the sandbox may have: %v", err)
		}
		if err := p.fill(t, "volumes/web/data/more", 3*mib); err == nil {
			t.Error("6 MiB fit into a volume of 4")
		}
		before, err := projectquota.Of(p.path("volumes/web/data"))
		if err != nil {
			t.Fatal(err)
		}
		// The next container finds the volume as it is.
		again := newPlace(p.dir)
		again.prepare(t, "d", config)
		if after, err := projectquota.Of(p.path("volumes/web/data")); err != nil || after != before {
			t.Errorf("project %d, then %d, %v", before, after, err)
		}
	})
}

func TestProjectsAreKnownAgainAndUsedAgain(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		p.Projects, p.ledger.projects = Range{7, 8}, Range{7, 8}
		one := p.prepare(t, "one", p.config(t, "one", 2))
		p.prepare(t, "two", p.config(t, "two", 2))
		id, err := container.ParseID("three")
		if err != nil {
			t.Fatal(err)
		}
		config := p.config(t, "three", 2)
		_, err = p.Prepare(t.Context(), &isolator.Container{ID: id, Config: config})
		if !errors.Is(err, container.ErrFailedPrecondition) || !strings.Contains(err.Error(), "--xfs_project_range") {
			t.Errorf("a third container in a range of two: %v", err)
		}
		// Another process, which finds the first container alive.
		again := newPlace(p.dir)
		again.Projects, again.ledger.projects = Range{7, 8}, Range{7, 8}
		if err := again.Recover(t.Context(), []*isolator.Container{one}); err != nil {
			t.Fatal(err)
		}
		if err := again.fill(t, "one/sandbox/file", 3*mib); err == nil {
			t.Error("the limit of the first does not hold any more")
		}
		// The second is gone, and who removed it has told nobody.
		if err := os.RemoveAll(p.path("two")); err != nil {
			t.Fatal(err)
		}
		if _, err := again.Prepare(t.Context(), &isolator.Container{ID: id, Config: config}); err != nil {
			t.Errorf("of a project that is free again: %v", err)
		}
	})
}

// A container that was begun is finished by who finds it alive, wherever its beginner was
// killed; and if nobody does, its project is free once its directories are gone.
func TestKilledAnywhere(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		killed := errors.New("killed")
		for step := 0; ; step++ {
			name := "c" + strconv.Itoa(step)
			config := p.config(t, name, 10)
			files := []string{"/sandbox", "/sandbox/dir", "/sandbox/dir/file", "/upper", "/upper/file", "/network", "/network/hosts"}
			for _, dir := range []string{"/sandbox/dir", "/network"} {
				if err := os.Mkdir(p.path(name+dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, file := range []string{"/sandbox/dir/file", "/upper/file", "/network/hosts"} {
				if err := os.WriteFile(p.path(name+file), []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			id, err := container.ParseID(name)
			if err != nil {
				t.Fatal(err)
			}
			c := &isolator.Container{ID: id, Config: config}
			var steps atomic.Int64
			restore := disk.Intercept(func(disk.Step) error {
				if steps.Add(1) > int64(step) {
					return killed
				}
				return nil
			})
			_, err = p.Prepare(t.Context(), c)
			if err == nil {
				err = p.Isolate(t.Context(), c, 0)
			}
			restore()
			if err != nil && !errors.Is(err, killed) {
				t.Fatal(err)
			}
			done := err == nil

			again := newPlace(p.dir)
			if step%3 < 2 || done {
				if err := again.Recover(t.Context(), []*isolator.Container{c}); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
				want := again.of(id).project
				if got := projectsIn(t, p.path(name), files); want == 0 || slices.ContainsFunc(got, func(p projectquota.Project) bool { return p != want }) {
					t.Errorf("step %d: %q are of the projects %d, want %d", step, files, got, want)
				}
				if usage, err := projectquota.UsageOf(p.dir, want); err != nil || usage.Hard != 10*mib {
					t.Errorf("step %d: %+v, %v", step, usage, err)
				}
				if e, err := again.ledger.read(want); err != nil || len(e) != 3 || !e[p.path(name+"/sandbox")] || !e[p.path(name+"/upper")] || !e[p.path(name+"/network")] {
					t.Errorf("step %d: the ledger has %v, %v", step, e, err)
				}
			}
			if err := os.RemoveAll(p.path(name)); err != nil {
				t.Fatal(err)
			}
			if used := again.ledger.used(); used != 0 {
				t.Errorf("step %d: %d projects are left", step, used)
			}
			if done {
				t.Logf("%d steps", step)
				return
			}
		}
	})
}

// projectsIn returns the projects of files and directories below one.
func projectsIn(t *testing.T, dir string, paths []string) (all []projectquota.Project) {
	t.Helper()
	args := []string{"-pd"}
	for _, path := range paths {
		args = append(args, dir+path)
	}
	out, err := exec.Command("lsattr", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		n, err := strconv.ParseUint(strings.Fields(line)[0], 10, 32)
		if err != nil {
			t.Fatalf("lsattr: %s", out)
		}
		all = append(all, projectquota.Project(n))
	}
	if len(all) != len(paths) {
		t.Fatalf("lsattr: %s", out)
	}
	return all
}

// What is nested counts for the root container.
func TestNestedContainersCountForTheirRoot(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		p.Projects, p.ledger.projects = Range{7, 8}, Range{7, 8}
		root := p.prepare(t, "root", p.config(t, "root", 10))
		nested := func(name string, parent *isolator.Container, limit float64) (*isolator.Container, error) {
			id, err := container.ParseID(name)
			if err != nil {
				t.Fatal(err)
			}
			c := &isolator.Container{ID: id, Config: p.config(t, name, limit), Parent: parent}
			if err := os.MkdirAll(p.path(name+"/network"), 0o755); err != nil {
				t.Fatal(err)
			}
			_, err = p.Prepare(t.Context(), c)
			if err == nil {
				err = p.Isolate(t.Context(), c, 0)
			}
			return c, err
		}
		if _, err := nested("root.limited", root, 5); !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), "disk/du") {
			t.Errorf("a limit of its own: %v", err)
		}
		child, err := nested("root.child", root, math.Inf(1))
		if err != nil {
			t.Fatal(err)
		}
		below, err := nested("root.child.below", child, math.Inf(1))
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{"root.child/sandbox", "root.child/upper", "root.child/network", "root.child.below/upper"} {
			if err := p.fill(t, dir+"/file", 2*mib); err != nil {
				t.Errorf("%s: %v", dir, err)
			}
		}
		if err := p.fill(t, "root/sandbox/file", 6*mib); err == nil {
			t.Error("14 MiB fit into 10")
		}
		usage := &v1.ResourceStatistics{}
		if err := p.Usage(t.Context(), root.ID, usage); err != nil || usage.GetDiskUsedBytes() < 8*mib {
			t.Errorf("%v, %v", usage, err)
		}
		if err := p.Usage(t.Context(), below.ID, usage); err != nil {
			t.Error(err)
		}
		if err := p.Update(t.Context(), below); err != nil {
			t.Error(err)
		}
		if l, err := p.Watch(t.Context(), below.ID); l != nil || err != nil {
			t.Errorf("%+v, %v", l, err)
		}
		limited := &isolator.Container{ID: below.ID, Config: p.config(t, "root.child.below", 5), Parent: child}
		if err := p.Update(t.Context(), limited); !errors.Is(err, container.ErrNotSupported) {
			t.Errorf("a limit by an update: %v", err)
		}

		// Another one of the same name, and another process.
		if err := os.RemoveAll(p.path("root.child")); err != nil {
			t.Fatal(err)
		}
		again := newPlace(p.dir)
		again.Projects, again.ledger.projects = Range{7, 8}, Range{7, 8}
		child.Config = p.config(t, "root.child", math.Inf(1))
		if err := again.Recover(t.Context(), []*isolator.Container{below, child, root}); err != nil {
			t.Fatal(err)
		}
		if err := again.fill(t, "root.child/sandbox/file", 9*mib); err == nil {
			t.Error("what is made anew does not count")
		}
		// The project is in use as long as anything of it is there.
		if err := os.RemoveAll(p.path("root")); err != nil {
			t.Fatal(err)
		}
		if used := again.ledger.used(); used != 1 {
			t.Errorf("%d projects are in use", used)
		}
	})
}

// A directory of the same name is not the one that was a project's.
func TestAProjectIsFreeWhenItsDirectoryIsAnothers(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		for range 12 { // more than there are projects
			p.prepare(t, "c", p.config(t, "c", 10))
			if used := p.ledger.used(); used != 1 {
				t.Fatalf("%d projects are in use", used)
			}
			if err := os.RemoveAll(p.path("c")); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestLinksInADirectoryLeadNowhere(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		config := p.config(t, "c", 2)
		if err := os.Mkdir(p.path("elsewhere"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../../elsewhere", p.path("c/sandbox/link")); err != nil {
			t.Fatal(err)
		}
		p.prepare(t, "c", config)
		if project, err := projectquota.Of(p.path("elsewhere")); project != 0 || err != nil {
			t.Errorf("it has the project %d, %v", project, err)
		}
	})
}

func TestConformance(t *testing.T) {
	onEach(t, func(t *testing.T, p place) {
		p.Interval = time.Hour
		p.Projects, p.ledger.projects = Range{5000, 6000}, Range{5000, 6000}
		bad := func(limit float64) *v1.ContainerConfig { return p.config(t, "bad", limit) }
		isolatortest.Run(t, p.Isolator, isolatortest.Requests{
			Good: p.config(t, "good", 10),
			Bad:  map[string]*v1.ContainerConfig{"less than the minimum": bad(0.9), "negative": bad(-1), "NaN": bad(math.NaN())},
		})
	})
}

func TestFileSystemsWithoutQuotasAreRefused(t *testing.T) {
	memory := testrig.TempDir(t)
	testrig.RequireRoot(t)
	if err := unix.Mount("none", memory, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	for fstype, dir := range map[string]string{"tmpfs": memory, "ext4": testrig.LoopFS(t, "ext4", 64), "xfs": testrig.LoopFS(t, "xfs", 300)} {
		err := projectquota.Check(dir)
		if !errors.Is(err, container.ErrNotSupported) || !strings.Contains(err.Error(), "project quotas") {
			t.Errorf("%s: %v", fstype, err)
		}
	}
}

// A project is in use as long as one of its directories is there.
func TestProjectsAreCounted(t *testing.T) {
	dir := t.TempDir()
	set := metrics.New()
	i := New(Options{Projects: Range{5000, 5009}, Ledger: filepath.Join(dir, "projects"), Metrics: set})
	expect := func(free float64) {
		t.Helper()
		all := set.Snapshot()
		if got := all["containerizer/mesos/disk/project_ids_free"]; got != free || all["containerizer/mesos/disk/project_ids_total"] != 10 {
			t.Errorf("%v, want %v free ones", all, free)
		}
	}
	expect(10)
	for _, name := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := i.ledger.take(t.Context(), []string{filepath.Join(dir, name)}); err != nil {
			t.Fatal(err)
		}
	}
	expect(8)
	if err := os.Remove(filepath.Join(dir, "one")); err != nil {
		t.Fatal(err)
	}
	expect(9)
}

func TestRanges(t *testing.T) {
	for text, want := range map[string]Range{"[5000-10000]": {5000, 10000}, "1-1": {1, 1}, " [ 7 - 9 ] ": {7, 9}, "1-4294967294": {1, 4294967294}} {
		if got, err := ParseRange(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "[]", "5000", "0-10", "10-5", "-1-5", "a-b", "1-4294967295", "1-99999999999", "[1-2],[4-5]"} {
		if got, err := ParseRange(text); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}
