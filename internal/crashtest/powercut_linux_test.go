package crashtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "berth/api/v1"
	"berth/container"
	"berth/engine"
	"berth/internal/disk"
	"berth/internal/testrig"
	"berth/provisioner"
)

// fewestCuts is how many power cuts each file system gets, at least.
var fewestCuts = ordinarily(30, 1000)

// machines are the backends of the machines whose power fails: one for each form of layers.
var machines = []string{"erofs", "overlay"}

// Whenever the power fails, no layer is visible and wrong afterwards, what was said to
// be done is done, and nobody has to lend a hand.
func TestPowerCuts(t *testing.T) {
	w := newWorkshop(t)
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			random := random(t)
			// Files can be cloned here, at one moment, while they are written to.
			outside, file := filepath.Join(testrig.TempDir(t), "mnt"), filepath.Join(testrig.TempMemory(t), "image")
			testrig.MakeFS(t, "xfs", file, 6000)
			testrig.MountFS(t, "xfs", file, outside)
			cuts, lies := 0, 0
			for n := 0; n < len(machines) || cuts < fewestCuts; n++ {
				m := &machine{scene: w.newScene(t, filepath.Join(testrig.TempDir(t), "mnt"), machines[n%len(machines)]),
					fstype: fstype, outside: outside, random: random, known: make(map[string]bool)}
				m.live()
				for _, c := range m.cuts {
					t.Run(m.Backend+" "+c.name, func(t *testing.T) {
						if c.examine(t, m) {
							lies++
						}
					})
				}
				cuts += len(m.cuts)
			}
			t.Logf("%d cuts, and after %d of them the disk had broken its word", cuts, lies)
			if lies == 0 {
				t.Error("the disk has always kept its word")
			}
		})
	}
}

// machine is one whose power fails often.
type machine struct {
	*scene
	fstype  string
	outside string // where the file of the file system lies, and its copies
	random  *rand.Rand

	mu   sync.Mutex
	cuts []cut
	// when says at which steps it fails.
	when func(disk.Step) bool
	// known is what was said of images: that they are there, or that they are not.
	known map[string]bool
	// broken says which faults are being mended.
	broken []string
}

// cut is the disk as it was when the power failed.
type cut struct {
	name   string
	image  string // the file
	known  map[string]bool
	broken []string
}

// live makes a file system, works on it, and unmounts it.
func (m *machine) live() {
	m.Helper()
	file := filepath.Join(m.outside, "disk")
	testrig.MakeFS(m, m.fstype, file, 64)
	unmount := testrig.MountFS(m, m.fstype, file, m.Dir)
	defer unmount()
	m.Runtime = testrig.TempDir(m)
	defer disk.Intercept(m.step)()
	m.oneByOne()
	m.allAtOnce()
}

// step is called before each step, by any goroutine.
func (m *machine) step(step disk.Step) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.when == nil || !m.when(step) {
		return nil
	}
	m.writeBack()
	c := cut{
		name:  fmt.Sprintf("%d before %s %s", len(m.cuts), step.Op, filepath.Base(step.Path)),
		image: filepath.Join(m.outside, fmt.Sprintf("cut%d", len(m.cuts))),
		known: maps.Clone(m.known), broken: m.broken,
	}
	if err := testrig.CloneFile(filepath.Join(m.outside, "disk"), c.image); err != nil {
		m.Error(err)
		return nil
	}
	m.cuts = append(m.cuts, c)
	return nil
}

// writeBack does what a kernel may do at any time: it writes some of what is in memory,
// in an order of its own.
func (m *machine) writeBack() {
	dirs := []string{"", m.store("layers"), m.store("docker/images"), m.store("appc/images"), m.store("staging"), m.store()}
	dir := dirs[m.random.IntN(len(dirs))]
	if dir == "" {
		return
	}
	f, err := os.Open(dir)
	if err != nil {
		return // it is not there yet
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		m.Error(err)
	}
}

// durable says at which steps something becomes durable, or has just become so: at every
// fourth one of these.
func (m *machine) durable(step disk.Step) bool {
	if m.random.IntN(ordinarily(4, 1)) != 0 {
		return false
	}
	switch step.Op {
	case "syncfs", "fsync", disk.Reached:
		return true
	case "rename":
		return strings.HasPrefix(step.Path, m.store()) || !filepath.IsAbs(step.Path)
	}
	return false
}

func (m *machine) failsAt(when func(disk.Step) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.when = when
}

// told notes what is known of an image from now on; with present nil, nothing.
func (m *machine) told(name string, present ...bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, name)
	if len(present) > 0 {
		m.known[name] = present[0]
	}
}

// oneByOne goes through the operations, with a cut at each step that makes something
// durable.
func (m *machine) oneByOne() {
	m.Helper()
	m.failsAt(m.durable)
	m.changes("one", true, pull("one"))
	m.changes("three", true, pull("three"))
	m.changes("one", false, m.remove("one"))
	m.changes("one", true, pull("one"))
	m.changes("", false, provisionOne)
	m.changes("", false, destroyOne)
	m.changes("appc", true, pull("appc"))
	m.told("appc")
	m.changes("one", false, m.prune)
	m.told("appc", false)
	m.failsAt(nil)
	fault := m.damage("three")
	m.mu.Lock()
	m.broken = []string{fault}
	m.mu.Unlock()
	m.failsAt(m.durable)
	m.changes("", false, repair)
	m.mu.Lock()
	m.broken = nil
	m.mu.Unlock()
	m.failsAt(nil)
}

// changes carries out what makes an image present or absent.
func (m *machine) changes(name string, present bool, run func(context.Context, *engine.Engine, place) error) {
	m.Helper()
	if name != "" {
		m.told(name)
	}
	m.in(func(ctx context.Context, e *engine.Engine) error { return run(ctx, e, m.place) })
	if name != "" {
		m.told(name, present)
	}
}

func (m *machine) remove(name string) func(context.Context, *engine.Engine, place) error {
	return func(ctx context.Context, e *engine.Engine, p place) error {
		_, err := e.Images.Provisioner.Remove(ctx, p.image(name))
		if errors.Is(err, container.ErrNotFound) {
			return nil
		}
		return err
	}
}

// prune spares the image three.
func (m *machine) prune(ctx context.Context, e *engine.Engine, p place) error {
	_, err := e.Images.Provisioner.Prune(ctx, provisioner.PruneOptions{Excluded: []*v1.Image{p.image("three")}})
	return err
}

// allAtOnce pulls, removes and prunes in parallel, with cuts at random steps.
func (m *machine) allAtOnce() {
	m.Helper()
	m.told("one")
	enough := len(m.cuts) + ordinarily(12, 100)
	m.failsAt(func(disk.Step) bool { return len(m.cuts) < enough && m.random.IntN(60) == 0 })
	var workers sync.WaitGroup
	for _, work := range [][]func(context.Context, *engine.Engine, place) error{
		{pull("one"), m.remove("one")},
		{pull("two"), m.remove("two")},
		{pull("moving"), m.prune},
	} {
		workers.Go(func() {
			for n := 0; !m.has(enough); n++ {
				ctx := context.WithoutCancel(m.Context())
				if err := m.with(ctx, func(e *engine.Engine) error { return work[n%len(work)](ctx, e, m.place) }); err != nil {
					m.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	m.failsAt(nil)
}

func (m *machine) has(cuts int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.cuts) >= cuts || m.Failed()
}

// examine switches the machine on again. It reports whether the disk has lied.
func (c cut) examine(t *testing.T, m *machine) (lied bool) {
	dir := filepath.Join(testrig.TempDir(t), "mnt")
	unmount := testrig.MountFS(t, m.fstype, c.image, dir)
	defer func() {
		unmount()
		if err := os.Remove(c.image); err != nil {
			t.Error(err)
		}
	}()
	s := m.newScene(t, dir, m.Backend)
	s.Runtime = testrig.TempDir(t)
	broken := c.broken
	if m.random.IntN(3) == 0 {
		if found := s.lie(m.random); found != nil {
			broken, lied = slices.Concat(broken, found), true
		}
	}
	s.in(func(ctx context.Context, e *engine.Engine) error {
		for _, fault := range faultsOf(ctx, e) {
			if !isOne(fault, broken) && !c.removes(s, fault) {
				t.Errorf("visible and wrong: %s", fault)
			}
		}
		for name, want := range c.known {
			if _, ok := s.record(e, name); ok != want {
				t.Errorf("the image %s is there: %v, and it was said: %v", name, ok, want)
			}
		}
		return nil
	})
	s.worksAgain(len(c.broken) > 0)
	return lied
}

// removes reports whether the fault is an image without a layer while images like it were
// being removed. On btrfs, an fsync of the directory of the layers, by another pull say,
// makes durable that a layer has left it, and not what happened elsewhere before, that
// the record was removed. Who wants the image again fetches the layer.
func (c cut) removes(s *scene, fault string) bool {
	for name, reference := range s.References {
		if _, sure := c.known[name]; !sure && strings.HasPrefix(fault, "image "+reference+": ") && strings.Contains(fault, "not found") {
			return true
		}
	}
	return false
}

// lie makes the disk one that did not keep its word: a byte of what it said was stable is
// wrong. It does so where berth is to expect it, because the store was open when the
// power failed, and returns which fault there is now.
func (s *scene) lie(random *rand.Rand) (broken []string) {
	s.Helper()
	session, err := os.ReadFile(s.store("session"))
	if err != nil || !strings.HasPrefix(string(session), "open") {
		return nil
	}
	records, err := filepath.Glob(s.store("docker/images/*.json"))
	if err != nil || len(records) == 0 {
		return nil
	}
	record, err := os.ReadFile(records[0])
	if err != nil {
		s.Fatal(err)
	}
	faults := slices.Sorted(maps.Keys(damageable))
	random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	for _, fault := range faults {
		files, err := filepath.Glob(s.store("layers/*", damageable[fault]))
		if err != nil {
			s.Fatal(err)
		}
		for _, file := range files {
			layer, _, _ := strings.Cut(strings.TrimPrefix(file, s.store("layers")+"/"), "/")
			if !strings.Contains(string(record), layer) {
				continue
			}
			if err := flip(file); err != nil {
				s.Fatal(err)
			}
			return []string{fault}
		}
	}
	return nil
}

// worksAgain uses the store as if nothing had happened. A repair that was under way is
// begun again.
func (s *scene) worksAgain(repair bool) {
	s.Helper()
	s.in(func(ctx context.Context, e *engine.Engine) error {
		if err := e.Recover(ctx); err != nil {
			return err
		}
		if repair {
			if _, err := e.Images.Provisioner.Repair(ctx); err != nil {
				return err
			}
		}
		for name := range s.References {
			// Those that are not there would need the registry, which is not the matter here.
			if _, there := s.record(e, name); !there && name != "one" {
				continue
			}
			if _, _, err := e.Pull(ctx, s.image(name)); err != nil {
				return err
			}
		}
		_, err := e.Provision(ctx, theContainer, s.image("one"))
		return err
	})
	s.wantContainer()
	s.noContainer()
	s.in(func(ctx context.Context, e *engine.Engine) error {
		report, err := e.Images.Provisioner.Check(ctx)
		if err == nil && (!report.Clean() || len(report.Unknown) > 0) {
			err = fmt.Errorf("check: %+v", report)
		}
		return err
	})
	s.recovers()
}
