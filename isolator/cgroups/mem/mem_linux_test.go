package mem

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

func config(requested, limit *float64) *v1.ContainerConfig {
	c := &v1.ContainerConfig{}
	if requested != nil {
		c.Resources = []*v1.Resource{{Name: proto.String(resource), Type: v1.Value_SCALAR.Enum(), Scalar: &v1.Value_Scalar{Value: requested}}}
	}
	if limit != nil {
		c.Limits = map[string]*v1.Value_Scalar{resource: {Value: limit}}
	}
	return c
}

func TestConformance(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	bad := map[string]*v1.ContainerConfig{}
	for name, limit := range map[string]float64{"zero": 0, "negative": -1, "too small for the init process": 5.9, "NaN": math.NaN(), "beyond all numbers": 1e300} {
		bad[name] = config(nil, &limit)
	}
	isolatortest.Run(t, New(groups, false, slog.Default()), isolatortest.Requests{
		Good: config(proto.Float64(64), proto.Float64(128)), Bad: bad, Fork: groups.Fork, Gone: groups.Gone,
	})
}

func TestSettings(t *testing.T) {
	f := proto.Float64
	for _, c := range []struct {
		name             string
		requested, limit *float64
		v1, v2           []cgroup.Setting
	}{
		{"nothing", nil, nil, nil, nil},
		{"requested", f(64), nil, files("memory.soft_limit_in_bytes", "67108864"), files("memory.low", "67108864")},
		{"requested little", f(1), nil, files("memory.soft_limit_in_bytes", "33554432"), files("memory.low", "33554432")},
		{"requested very much", f(1e300), nil, files("memory.soft_limit_in_bytes", "4611686018427387904"), files("memory.low", "4611686018427387904")},
		{"not a number", f(math.NaN()), nil, nil, nil},
		{"limit", nil, f(6.5), files("memory.limit_in_bytes", "6815744"), files("memory.max", "6815744")},
		{"no limit", nil, f(math.Inf(1)), nil, nil},
		{"both", f(64), f(128),
			files("memory.soft_limit_in_bytes", "67108864", "memory.limit_in_bytes", "134217728"),
			files("memory.low", "67108864", "memory.max", "134217728")},
	} {
		for version, want := range map[cgroup.Version][]cgroup.Setting{cgroup.V1: c.v1, cgroup.V2: c.v2} {
			got := New(nil, false, nil).settings(version, &isolator.Container{Config: config(c.requested, c.limit)})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %s: %s", c.name, version, diff)
			}
		}
	}
}

func TestSettingsWithALimitOfSwap(t *testing.T) {
	i := New(nil, true, nil)
	limited, free := &isolator.Container{Config: config(nil, proto.Float64(64))}, &isolator.Container{Config: config(proto.Float64(64), nil)}
	for _, c := range []struct {
		version cgroup.Version
		c       *isolator.Container
		want    []cgroup.Setting
	}{
		{cgroup.V1, limited, files("memory.soft_limit_in_bytes", "-1", "memory.memsw.limit_in_bytes", "-1", "memory.limit_in_bytes", "67108864", "memory.memsw.limit_in_bytes", "67108864")},
		{cgroup.V1, free, files("memory.memsw.limit_in_bytes", "-1", "memory.limit_in_bytes", "-1", "memory.soft_limit_in_bytes", "67108864")},
		{cgroup.V2, limited, files("memory.low", "0", "memory.max", "67108864", "memory.swap.max", "0")},
		{cgroup.V2, free, files("memory.swap.max", "max", "memory.max", "max", "memory.low", "67108864")},
	} {
		if diff := cmp.Diff(c.want, append(i.initial(c.version, true, c.c), i.settings(c.version, c.c)...)); diff != "" {
			t.Errorf("%s: %s", c.version, diff)
		}
	}
}

// The kernel takes the limits up and down, in the order in which they are written.
func TestTheKernelLimitsSwap(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	i := New(groups, true, slog.Default())
	id, err := container.ParseID("swapping")
	if err != nil {
		t.Fatal(err)
	}
	groups.Fork(t, id)
	dir, err := i.dir(id)
	if err != nil {
		t.Fatal(err)
	}
	file := swapFileOf(dir.Version())
	if !dir.Has(file) {
		t.Skip("the kernel does not account for swap")
	}
	for n, limit := range []float64{64, 128, 32, math.Inf(1), 64} {
		c := &isolator.Container{ID: id, Config: config(nil, &limit)}
		act := func() error { return i.Update(t.Context(), c) }
		if n == 0 {
			act = func() error { return i.Isolate(t.Context(), c, 1) }
		}
		if err := act(); err != nil {
			t.Fatalf("%v MiB: %v", limit, err)
		}
		got, err := dir.ReadUint(file)
		want := limit * mib
		if dir.Version() == cgroup.V2 {
			want = 0
		}
		if math.IsInf(limit, 1) && got < noLimit || !math.IsInf(limit, 1) && float64(got) != want || err != nil {
			t.Errorf("%v MiB: %s is %d, %v", limit, file, got, err)
		}
	}
}

// An agent comes back with another --cgroups_limit_swap: what it updates is as it says now.
func TestTheLimitOfSwapOfAnotherAgent(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	id, err := container.ParseID("inherited")
	if err != nil {
		t.Fatal(err)
	}
	groups.Fork(t, id)
	dir, err := New(groups, false, slog.Default()).dir(id)
	if err != nil {
		t.Fatal(err)
	}
	file := swapFileOf(dir.Version())
	if !dir.Has(file) {
		t.Skip("the kernel does not account for swap")
	}
	limit := func(mibs float64) *isolator.Container { return &isolator.Container{ID: id, Config: config(nil, &mibs)} }
	if err := New(groups, true, slog.Default()).Isolate(t.Context(), limit(64), 1); err != nil {
		t.Fatal(err)
	}
	if n, err := dir.ReadUint(file); err != nil || n > 64*mib {
		t.Fatalf("%s is %d, %v", file, n, err)
	}
	for _, mibs := range []float64{128, 32, math.Inf(1)} {
		if err := New(groups, false, slog.Default()).Update(t.Context(), limit(mibs)); err != nil {
			t.Errorf("%v MiB: %v", mibs, err)
		}
		if n, err := dir.ReadUint(file); err != nil || n < noLimit {
			t.Errorf("%v MiB: %s is %d, %v", mibs, file, n, err)
		}
	}
	if err := New(groups, true, slog.Default()).Update(t.Context(), limit(64)); err != nil {
		t.Fatal(err)
	}
	if n, err := dir.ReadUint(file); err != nil || n > 64*mib {
		t.Errorf("with the flag again %s is %d, %v", file, n, err)
	}
}

func TestTheScoreOfAVictim(t *testing.T) {
	f := proto.Float64
	const host = 4096 * mib
	for name, c := range map[string]struct {
		requested, limit *float64
		want             int
	}{
		"nothing requested": {nil, f(64), -1}, "all that it may have": {f(64), f(64), -1}, "little, but all that is kept": {f(8), f(32), -1},
		"a half of it": {f(1024), f(2048), 750}, "without a limit": {f(2048), nil, 500}, "with none": {f(2048), f(math.Inf(1)), 500},
		"next to nothing": {f(1), f(64), 992}, "more than there is": {f(8192), nil, 0},
	} {
		score := -1
		if config := config(c.requested, c.limit); isPreferred(config) {
			score = oomScore(config, host)
		}
		if score != c.want {
			t.Errorf("%s: %d, want %d", name, score, c.want)
		}
	}
}

func TestTheMessageOfALimitation(t *testing.T) {
	for name, c := range map[string]struct {
		version cgroup.Version
		files   map[string]string
		want    string
		used    float64
	}{
		"v1":              {cgroup.V1, map[string]string{"memory.limit_in_bytes": "67108864", "memory.max_usage_in_bytes": "66060288"}, "memory limit of 64 MiB exceeded: maximum used 63 MiB", 63},
		"v1, no limit":    {cgroup.V1, map[string]string{"memory.limit_in_bytes": "9223372036854771712", "memory.max_usage_in_bytes": "66060288"}, "the host ran out of memory and the kernel killed a process: maximum used 63 MiB", 63},
		"v2":              {cgroup.V2, map[string]string{"memory.max": "67108864", "memory.peak": "67108864"}, "memory limit of 64 MiB exceeded: maximum used 64 MiB", 64},
		"v2, no limit":    {cgroup.V2, map[string]string{"memory.max": "max", "memory.peak": "1"}, "the host ran out of memory and the kernel killed a process: maximum used 0 MiB", 1.0 / (1 << 20)},
		"v2, before 5.19": {cgroup.V2, map[string]string{"memory.max": "67108864"}, "memory limit exceeded", 0},
	} {
		dir := t.TempDir()
		for file, value := range c.files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(value+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got := limitation(cgroup.DirAt(dir, c.version), 1)
		if want := (container.Limitation{Reason: container.ReasonLimitationMemory, Message: c.want, Resource: "mem", Used: c.used}); *got != want {
			t.Errorf("%s: %+v, want %+v", name, *got, want)
		}
	}
}

// hog makes a process that exceeds the limit of the group, which the kernel then kills.
func hog(t *testing.T, group *cgroup.Group) {
	t.Helper()
	// It waits until it is in the group. The shell itself takes next to nothing; its
	// child reads an endless line.
	cmd := exec.Command("sh", "-c", "read go; exec tail /dev/zero")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := group.Enter(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	stdin.Write([]byte("\n"))
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("a process beyond its limit ends with %v", err)
	}
}

// limited makes a container that may have 16 MiB.
func limited(t *testing.T, groups *isolatortest.Groups, i *Isolator, name string) (container.ID, *cgroup.Group) {
	t.Helper()
	id, err := container.ParseID(name)
	if err != nil {
		t.Fatal(err)
	}
	groups.Fork(t, id)
	limit := 16.0
	if err := i.Isolate(t.Context(), &isolator.Container{ID: id, Config: config(nil, &limit)}, 1); err != nil {
		t.Fatal(err)
	}
	group, err := groups.Group(id)
	if err != nil {
		t.Fatal(err)
	}
	return id, group
}

// The kernel announces on v1 that memory is out before it kills, so whoever looks right
// after the announcement sees nothing yet; and what happened before the watch began is
// not announced to it at all.
func TestNoKillIsMissed(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	i := New(groups, false, slog.Default())
	for n := range 10 {
		id, group := limited(t, groups, i, "hog"+strconv.Itoa(n))
		late := n%2 == 1
		if late {
			hog(t, group)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		found := make(chan *container.Limitation, 1)
		go func() {
			limitation, err := i.Watch(ctx, id)
			if err != nil {
				t.Error(err)
			}
			found <- limitation
		}()
		if !late {
			hog(t, group)
		}
		if l := <-found; l == nil || l.Reason != container.ReasonLimitationMemory || ctx.Err() != nil {
			t.Errorf("run %d (watch began late: %v): limitation %+v", n, late, l)
		}
		cancel()
		// However late one looks.
		if l, err := i.Watch(ctx, id); l == nil || err != nil {
			t.Errorf("after the end of the context: %+v, %v", l, err)
		}
	}
}

func TestStatistics(t *testing.T) {
	for name, c := range map[string]struct {
		version cgroup.Version
		files   map[string]string
		want    string
	}{
		"v1": {cgroup.V1, map[string]string{
			"memory.usage_in_bytes": "1000", "memory.kmem.usage_in_bytes": "30", "memory.kmem.tcp.usage_in_bytes": "3",
			"memory.stat": "cache 1\nrss 2\ntotal_cache 400\ntotal_rss 500\ntotal_mapped_file 60\ntotal_swap 100\ntotal_unevictable 7",
		}, "total 1000 memsw 1100 kmem 30 tcp 3 cache 400 400 rss 500 500 mapped 60 swap 100 unevictable 7 pressure 0 0 0 stalls 0 0"},
		"v1, no swap accounting": {cgroup.V1, map[string]string{"memory.usage_in_bytes": "1", "memory.stat": "total_rss 1"},
			"total 1 memsw 0 kmem 0 tcp 0 cache 0 0 rss 1 1 mapped 0 swap 0 unevictable 0 pressure 0 0 0 stalls 0 0"},
		"v2": {cgroup.V2, map[string]string{
			"memory.current": "1000", "memory.swap.current": "100", "memory.events": "low 1\nhigh 9\nmax 2\noom 3\noom_kill 4",
			"memory.pressure": "some avg10=0.12 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=500000",
			"memory.stat":     "anon 500\nfile 400\nkernel 30\nsock 3\nfile_mapped 60\nunevictable 7",
		}, "total 1000 memsw 1100 kmem 30 tcp 3 cache 400 400 rss 500 500 mapped 60 swap 100 unevictable 7 pressure 1 2 3 stalls 2.5 0.5"},
	} {
		dir := t.TempDir()
		for file, value := range c.files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(value+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		id, err := container.ParseID("x")
		if err != nil {
			t.Fatal(err)
		}
		var s v1.ResourceStatistics
		if err := usage(cgroup.DirAt(dir, c.version), id, &s, &pressures{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := fmt.Sprintf("total %d memsw %d kmem %d tcp %d cache %d %d rss %d %d mapped %d swap %d unevictable %d pressure %d %d %d stalls %v %v",
			s.GetMemTotalBytes(), s.GetMemTotalMemswBytes(), s.GetMemKmemUsageBytes(), s.GetMemKmemTcpUsageBytes(), s.GetMemCacheBytes(), s.GetMemFileBytes(),
			s.GetMemRssBytes(), s.GetMemAnonBytes(), s.GetMemMappedFileBytes(), s.GetMemSwapBytes(), s.GetMemUnevictableBytes(),
			s.GetMemLowPressureCounter(), s.GetMemMediumPressureCounter(), s.GetMemCriticalPressureCounter(), s.GetMemPressureSomeSecs(), s.GetMemPressureFullSecs())
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
}

func TestTheKernelsWordsAboutAKill(t *testing.T) {
	log := []string{
		"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/berth/other,task_memcg=/berth/other,task=tail,pid=7,uid=0",
		"Memory cgroup out of memory: Killed process 7 (tail) total-vm:70000kB, anon-rss:61440kB, file-rss:1024kB, shmem-rss:0kB, UID:0 pgtables:160kB oom_score_adj:0",
		"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/berth/x,task_memcg=/berth/x,task=a,pid=1,uid=0 (b) c,pid=8,uid=1000",
		"Memory cgroup out of memory: Killed process 8 (a) (b) total-vm:70000kB, anon-rss:2048kB, file-rss:0kB, shmem-rss:1024kB, UID:1000 pgtables:160kB oom_score_adj:0",
		"Memory cgroup out of memory: Killed process 9 (nobody's) total-vm:70000kB, anon-rss:2048kB, file-rss:0kB, shmem-rss:1024kB, UID:1000 pgtables:160kB oom_score_adj:0",
		"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/berth/x,task_memcg=/berth/x/child,task=sh,pid=10,uid=0",
		"Memory cgroup out of memory: Killed process 10 (sh) total-vm:1kB, anon-rss:1024kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:1kB oom_score_adj:0",
	}
	got := parseKills(log, "/sys/fs/cgroup/memory/berth/x", 2)
	if want := []consumer{{8, "a) (b", 3 << 20, true}, {10, "sh", 1 << 20, true}}; !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := parseKills(log, "/sys/fs/cgroup/berth/y", 1); len(got) > 0 {
		t.Errorf("of another container: %+v", got)
	}
	if got := parseKills(log, "/sys/fs/cgroup/memory/berth/x", 1); len(got) != 1 || got[0].pid != 10 {
		t.Errorf("of a container whose name an earlier one had: %+v", got)
	}
}

// A watch that fails ends no container: it is told of, and taken up again.
func TestAWatchThatFails(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	told := make(lines, 100)
	i := New(groups, false, slog.New(slog.NewTextHandler(told, nil)))
	id, group := limited(t, groups, i, "unwatched")

	// No file can be opened any more.
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	full := before
	full.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &full); err != nil {
		t.Fatal(err)
	}
	restore := sync.OnceValue(func() error { return unix.Setrlimit(unix.RLIMIT_NOFILE, &before) })
	defer restore()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if l, err := i.Watch(ended, id); l != nil || err == nil || !strings.Contains(err.Error(), "too many open files") {
		t.Errorf("who ends meanwhile, for a reason that nobody can find out: %+v, %v", l, err)
	}
	type result struct {
		limitation *container.Limitation
		err        error
	}
	found := make(chan result, 1)
	go func() {
		l, err := i.Watch(t.Context(), id)
		found <- result{l, err}
	}()
	if line := <-told; !strings.Contains(line, "container=unwatched") || !strings.Contains(line, "too many open files") {
		t.Errorf("told: %s", line)
	}
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	hog(t, group)
	if r := <-found; r.err != nil || r.limitation == nil || r.limitation.Reason != container.ReasonLimitationMemory {
		t.Errorf("%+v, %v", r.limitation, r.err)
	}
}

// lines takes what is logged.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// More containers than a user may have instances of inotify are watched.
func TestManyAreWatched(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	told := make(lines, 100)
	i := New(groups, false, slog.New(slog.NewTextHandler(told, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	var watches sync.WaitGroup
	open := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	const many = 200
	before := open()
	for n := range many {
		id, err := container.ParseID("many" + strconv.Itoa(n))
		if err != nil {
			t.Fatal(err)
		}
		groups.Fork(t, id)
		watches.Go(func() {
			if l, err := i.Watch(ctx, id); l != nil || err != nil {
				t.Errorf("%s: %+v, %v", id, l, err)
			}
		})
	}
	for open() < before+many && len(told) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	watches.Wait()
	if len(told) > 0 {
		t.Error(<-told)
	}
}

// The message names who was killed, and its use.
func TestTheMessageNamesTheBiggest(t *testing.T) {
	if _, err := kernelLog(); err != nil {
		t.Skip("the kernel's log cannot be read: ", err)
	}
	groups := isolatortest.NewGroups(t, controller)
	i := New(groups, false, slog.Default())
	id, group := limited(t, groups, i, "big-"+strings.ToLower(rand.Text()[:8]))
	hog(t, group)
	l, err := i.Watch(t.Context(), id)
	if err != nil || l == nil {
		t.Fatal(l, err)
	}
	// The kernel does not always write who it was: it limits how often.
	if !strings.Contains(l.Message, "16 MiB exceeded") || strings.Contains(l.Message, "biggest") && !strings.Contains(l.Message, `"tail"`) {
		t.Error(l.Message)
	}
	t.Log(l.Message)
}

// Reclaim is announced to who listens.
func TestPressureIsCounted(t *testing.T) {
	groups := isolatortest.NewGroups(t, controller)
	i := New(groups, false, slog.Default())
	id, group := limited(t, groups, i, "pressed")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := i.Watch(ctx, id)
		done <- err
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(i.pressure.all) > 0 {
			t.Errorf("left: %v", i.pressure.all)
		}
	}()
	read := func() *v1.ResourceStatistics {
		var s v1.ResourceStatistics
		if err := i.Usage(t.Context(), id, &s); err != nil {
			t.Fatal(err)
		}
		return &s
	}
	for read().MemLowPressureCounter == nil {
		time.Sleep(time.Millisecond) // until the watch listens
	}
	file := filepath.Join(t.TempDir(), "file")
	cmd := exec.Command("sh", "-c", "read go; dd if=/dev/zero of="+file+" bs=1M count=64 2>/dev/null; cat "+file+" "+file+" >/dev/null")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := group.Enter(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	s := read()
	if s.GetMemLowPressureCounter()+s.GetMemMediumPressureCounter() == 0 || s.GetMemCacheBytes() == 0 {
		t.Errorf("after 64 MiB of page cache within a limit of 16 MiB: %v", s)
	}
	if dir, err := i.dir(id); err != nil || dir.Version() == cgroup.V2 && dir.Has("memory.pressure") && s.GetMemPressureSomeSecs() == 0 {
		t.Errorf("nobody has waited for it: %v, %v", s, err)
	}
}

// files are settings, of names and values in turn.
func files(namesAndValues ...string) (all []cgroup.Setting) {
	for pair := range slices.Chunk(namesAndValues, 2) {
		all = append(all, cgroup.Setting{File: pair[0], Value: pair[1]})
	}
	return all
}
