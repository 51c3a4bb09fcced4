package du

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/isolator/isolatortest"
)

// place has what a container writes to.
type place struct {
	dir string
	*Isolator
}

func newPlace(t *testing.T) place {
	dir := t.TempDir()
	return place{dir, New(Options{
		Volume: func(role, id string) string { return filepath.Join(dir, "volumes", role, id) },
		Further: func(id container.ID) []string {
			return []string{filepath.Join(dir, id.String()+".nested"), filepath.Join(dir, id.String()+".network")}
		},
		Interval: time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})}
}

func (p place) config(limit float64) *v1.ContainerConfig {
	return &v1.ContainerConfig{
		Directory:        proto.String(filepath.Join(p.dir, "sandbox")),
		EphemeralVolumes: []string{filepath.Join(p.dir, "upper")},
		Limits:           map[string]*v1.Value_Scalar{"disk": {Value: &limit}},
	}
}

func (p place) write(t *testing.T, name string, bytes int) {
	t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, bytes), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (p place) container(t *testing.T, config *v1.ContainerConfig) *isolator.Container {
	t.Helper()
	id, err := container.ParseID("c")
	if err != nil {
		t.Fatal(err)
	}
	c := &isolator.Container{ID: id, Config: config}
	if _, err := p.Prepare(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// watch returns what Watch returns within a time in which it measures often.
func (p place) watch(t *testing.T, id container.ID) *container.Limitation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	l, err := p.Watch(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestConformance(t *testing.T) {
	p := newPlace(t)
	bad := func(limit float64) *v1.ContainerConfig { return p.config(limit) }
	isolatortest.Run(t, p.Isolator, isolatortest.Requests{
		Good: p.config(10),
		Bad:  map[string]*v1.ContainerConfig{"less than the minimum": bad(0.9), "negative": bad(-1), "NaN": bad(math.NaN())},
	})
}

func TestWhatCounts(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		over bool
	}{
		"the sandbox":                     {"sandbox/a/b/file", true},
		"what changes the root":           {"upper/etc/file", true},
		"the sandbox of a nested one":     {"c.nested/child/file", true},
		"the files of its networks":       {"c.network/hosts", true}, // CVE-2020-8557
		"what is another container's":     {"other/file", false},
		"what is behind a symbolic link":  {"elsewhere/file", false},
		"a persistent volume is another":  {"volumes/web/data/file", false},
		"a file that was removed by then": {"removed", false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.write(t, "sandbox/small", 1000)
			p.write(t, c.file, 3*mib)
			if err := os.Symlink(filepath.Join(p.dir, "elsewhere"), filepath.Join(p.dir, "sandbox/link")); err != nil {
				t.Fatal(err)
			}
			l := p.watch(t, p.container(t, p.config(2)).ID)
			if (l != nil) != c.over {
				t.Fatalf("limitation %+v, want one: %v", l, c.over)
			}
			if l != nil && (l.Reason != container.ReasonLimitationDisk || l.Resource != "disk" || l.Used < 3 || l.Used > 3.1 ||
				!strings.Contains(l.Message, "exceeds the limit of 2.0 MiB")) {
				t.Errorf("%+v", l)
			}
		})
	}
}

func TestFilesWithSeveralNamesCountOnce(t *testing.T) {
	p := newPlace(t)
	p.write(t, "sandbox/file", mib)
	for _, name := range []string{"one", "two"} {
		if err := os.Link(filepath.Join(p.dir, "sandbox/file"), filepath.Join(p.dir, "sandbox", name)); err != nil {
			t.Fatal(err)
		}
	}
	if l := p.watch(t, p.container(t, p.config(2)).ID); l != nil {
		t.Errorf("%+v", l)
	}
}

func TestRequestsAreEnforcedIfAskedFor(t *testing.T) {
	request := &v1.Resource{Name: proto.String("disk"), Type: v1.Value_SCALAR.Enum(), Scalar: &v1.Value_Scalar{Value: proto.Float64(2)}}
	for _, enforce := range []bool{false, true} {
		p := newPlace(t)
		p.EnforceRequests = enforce
		p.write(t, "sandbox/file", 3*mib)
		config := p.config(1)
		config.Limits, config.Resources = nil, []*v1.Resource{request}
		if l := p.watch(t, p.container(t, config).ID); (l != nil) != enforce {
			t.Errorf("enforced: %v; %+v", enforce, l)
		}
	}
}

func TestAPersistentVolumeHasALimitOfItsOwn(t *testing.T) {
	p := newPlace(t)
	p.EnforceRequests = true
	p.write(t, "sandbox/file", mib)
	p.write(t, "volumes/web/data/file", 3*mib)
	config := p.config(2)
	config.Resources = []*v1.Resource{{Name: proto.String("disk"), Type: v1.Value_SCALAR.Enum(), Role: proto.String("web"),
		Scalar: &v1.Value_Scalar{Value: proto.Float64(2)},
		Disk: &v1.Resource_DiskInfo{Persistence: &v1.Resource_DiskInfo_Persistence{Id: proto.String("data")},
			Volume: &v1.Volume{ContainerPath: proto.String("data"), Mode: v1.Volume_RW.Enum()}}}}
	c := p.container(t, config)
	l := p.watch(t, c.ID)
	if l == nil || !strings.Contains(l.Message, `persistent volume "data"`) {
		t.Fatalf("%+v", l)
	}
	usage := &v1.ResourceStatistics{}
	if err := p.Usage(t.Context(), c.ID, usage); err != nil {
		t.Fatal(err)
	}
	volume := usage.GetDiskStatistics()[1]
	if usage.GetDiskLimitBytes() != 2*mib || usage.GetDiskUsedBytes() < mib || usage.GetDiskUsedBytes() > 2*mib ||
		volume.GetPersistence().GetId() != "data" || volume.GetLimitBytes() != 2*mib || volume.GetUsedBytes() < 3*mib {
		t.Errorf("%v", usage)
	}
}

func TestAnUpdateChangesTheLimit(t *testing.T) {
	p := newPlace(t)
	p.write(t, "sandbox/file", 3*mib)
	c := p.container(t, p.config(10))
	if l := p.watch(t, c.ID); l != nil {
		t.Fatalf("%+v", l)
	}
	if err := p.Update(t.Context(), &isolator.Container{ID: c.ID, Config: &v1.ContainerConfig{Limits: p.config(2).Limits}}); err != nil {
		t.Fatal(err)
	}
	if l := p.watch(t, c.ID); l == nil {
		t.Error("the new limit does not hold")
	}
}

func TestARecoveredContainerIsMeasured(t *testing.T) {
	p := newPlace(t)
	p.write(t, "sandbox/file", 3*mib)
	c := p.container(t, p.config(2))
	again := New(p.Options)
	if err := again.Recover(t.Context(), []*isolator.Container{c}); err != nil {
		t.Fatal(err)
	}
	if l := (place{p.dir, again}).watch(t, c.ID); l == nil {
		t.Error("its limit does not hold")
	}
}

// The container can change its directories while they are measured.
func TestDirectoriesThatBecomeLinksLeadNowhere(t *testing.T) {
	p := newPlace(t)
	p.write(t, "elsewhere/file", 30*mib)
	p.write(t, "sandbox/d/file", 1000)
	c := p.container(t, p.config(10))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	swapped := make(chan struct{})
	go func() {
		defer close(swapped)
		d, link := filepath.Join(p.dir, "sandbox/d"), filepath.Join(p.dir, "sandbox/link")
		for ctx.Err() == nil {
			_ = os.Rename(d, d+".away")
			_ = os.Symlink("../elsewhere", link)
			_ = os.Rename(link, d)
			_ = os.Remove(d)
			_ = os.Rename(d+".away", d)
		}
	}()
	l, err := p.Watch(ctx, c.ID)
	<-swapped
	if l != nil || err != nil {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestUsageOfNobody(t *testing.T) {
	id, err := container.ParseID("nobody")
	if err != nil {
		t.Fatal(err)
	}
	if err := newPlace(t).Usage(t.Context(), id, &v1.ResourceStatistics{}); !errors.Is(err, container.ErrNotFound) {
		t.Error(err)
	}
}

// As deep as a container likes, which costs it next to nothing: no walk is to have so many
// files open.
func TestDirectoriesNestedWithoutEnd(t *testing.T) {
	p := newPlace(t)
	deep := filepath.Join(p.dir, "sandbox", strings.Repeat("d/", maxDepth+50))
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	w := newWalk(t.Context())
	if err := w.add(filepath.Join(p.dir, "sandbox")); err != nil || !w.tooDeep {
		t.Errorf("too deep: %v, %v", w.tooDeep, err)
	}
	if l := p.watch(t, p.container(t, p.config(100)).ID); l == nil || !strings.Contains(l.Message, "500 deep") {
		t.Errorf("with a limit: %+v", l)
	}
	config := p.config(100)
	config.Limits, config.Resources = nil, []*v1.Resource{{Name: proto.String("disk"), Type: v1.Value_SCALAR.Enum(), Scalar: &v1.Value_Scalar{Value: proto.Float64(100)}}}
	if l := p.watch(t, p.container(t, config).ID); l != nil {
		t.Errorf("with an amount to account for: %+v", l)
	}
}

func TestWhatCannotBeMeasuredEndsNobody(t *testing.T) {
	p := newPlace(t)
	var log strings.Builder
	p.Log = slog.New(slog.NewTextHandler(&log, nil))
	p.write(t, "sandbox", 1) // which is no directory, as if the disk were broken
	if l := p.watch(t, p.container(t, p.config(2)).ID); l != nil {
		t.Errorf("%+v", l)
	}
	if !strings.Contains(log.String(), "was not measured") {
		t.Errorf("the log has %q", log.String())
	}
}
