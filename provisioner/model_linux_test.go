package provisioner_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/internal/mount/mounttest"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner"
)

// reporter is what the functions here need of a test; rapid's has it, too.
type reporter interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// Whatever is done in whatever order, and wherever a process is killed: what is on disk
// is what the model says.
func TestModel(t *testing.T) {
	testrig.RequireRoot(t)
	sequences, steps := 40, 50
	if os.Getenv("BERTH_TEST_SOAK") != "" {
		sequences = 2000
	}
	setFlag(t, "rapid.checks", sequences)
	setFlag(t, "rapid.steps", steps)
	dir := inMemory(t)
	testrig.NoLeaks(t, testrig.Scope{Only: []string{dir + "/"}})
	g := newGallery(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		w := newWorld(rt, filepath.Join(dir, strconv.Itoa(n)), g)
		rt.Cleanup(func() { w.remove(t) })
		rt.Repeat(w.actions())
	})
}

// inMemory mounts a file system for as long as the test runs that has nothing to sync.
func inMemory(t *testing.T) string {
	t.Helper()
	dir := testrig.TempDir(t)
	if err := disk.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

// setFlag sets a flag of rapid for this test, unless the command line has.
func setFlag(t *testing.T, name string, value int) {
	t.Helper()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if given {
		return
	}
	f := flag.Lookup(name)
	before := f.Value.String()
	if err := f.Value.Set(strconv.Itoa(value)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Value.Set(before) }) // it had been valid
}

// world is one work directory, the process that works there at present, and what the
// model says of it.
type world struct {
	*process
	dir     string
	gallery *gallery
	model   *model
}

var knownBackends = []string{"overlay", "copy", "bind"}

func newWorld(t reporter, dir string, g *gallery) *world {
	w := &world{dir: dir, gallery: g, model: newModel()}
	if g.version != 0 {
		g.move(t, 0)
	}
	w.open(t, "overlay")
	return w
}

// open is the start of a process.
func (w *world) open(t reporter, backendName string) { w.process = newProcess(t, w.dir, backendName) }

func (w *world) remove(t *testing.T) {
	w.stop(t)
	if err := mounttest.DetachBelow(w.dir); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(w.dir); err != nil {
		t.Error(err)
	}
}

// operation is something to do, and what the model says of it.
type operation struct {
	name string
	// run does it. What it finds out it keeps for effect and verify.
	run func(ctx context.Context) error
	// class is that of the error that run is to return, nil for none.
	class error
	// effect does it in the model, also when an error is due.
	effect func(m *model)
	// verify says whether what run has found out is right, given the model after it.
	verify func(t reporter)
	// most is about how many steps it takes on disk.
	most int
}

// errAny is a class that every error has.
var errAny = errors.New("any error")

var errCrashed = errors.New("the process is dead")

func (w *world) actions() map[string]func(*rapid.T) {
	actions := map[string]func(*rapid.T){
		"": w.check,
		"crash": func(t *rapid.T) {
			op := w.anyOperation(t)
			steps := rapid.IntRange(0, op.most).Draw(t, "steps")
			if rapid.Bool().Draw(t, "late") { // rapid prefers small numbers
				steps = op.most - steps
			}
			w.crash(t, op, steps, rapid.SampledFrom(knownBackends).Draw(t, "backend"))
			// Who starts recovers, but for those that only look.
			if rapid.SampledFrom([]bool{true, true, true, false}).Draw(t, "recovers") {
				w.do(t, w.anyRecover(t))
			}
		},
		"reopen": func(t *rapid.T) {
			w.stop(t)
			w.open(t, rapid.SampledFrom(knownBackends).Draw(t, "backend"))
		},
		"reboot": w.reboot,
		"damage": w.damage,
		"usage":  w.usage,
		"move": func(t *rapid.T) {
			w.gallery.move(t, rapid.IntRange(0, len(movingVersions)-1).Draw(t, "version"))
		},
	}
	for name, draw := range w.operations() {
		actions[name] = func(t *rapid.T) { w.do(t, draw(t)) }
	}
	// What makes the others interesting happens more often.
	actions["provision again"], actions["provision once more"] = actions["provision"], actions["provision"]
	actions["crash again"] = actions["crash"]
	return actions
}

// operations are what a process can be killed in.
func (w *world) operations() map[string]func(*rapid.T) operation {
	return map[string]func(*rapid.T) operation{
		"pull":      w.anyPull,
		"provision": w.anyProvision,
		"destroy":   w.anyDestroy,
		"rmi":       w.anyRemove,
		"prune":     w.anyPrune,
		"sweep":     w.anySweep,
		"recover":   w.anyRecover,
		"check":     w.anyCheck,
		"repair":    w.anyRepair,
	}
}

func (w *world) anyOperation(t *rapid.T) operation {
	all := w.operations()
	if len(w.model.faults()) > 0 && rapid.Bool().Draw(t, "repairs") { // seldom, and long
		return w.anyRepair(t)
	}
	return all[rapid.SampledFrom(slices.Sorted(maps.Keys(all))).Draw(t, "operation")](t)
}

// do carries out an operation that nothing disturbs.
func (w *world) do(t reporter, op operation) {
	t.Helper()
	err := op.run(context.Background())
	switch {
	case op.class == nil && err != nil:
		t.Fatalf("%s: %v", op.name, err)
	case op.class == errAny && err == nil, op.class != nil && op.class != errAny && !errors.Is(err, op.class):
		t.Fatalf("%s: error is %v, want the class %q", op.name, err, op.class)
	}
	op.effect(w.model)
	if op.verify != nil {
		op.verify(t)
	}
}

// crash kills the process in an operation, after so many steps on disk: no step from
// there on is carried out, so that nothing is cleaned up either, and the way back closes
// what is open, as the kernel does. The model then learns from the disk which of the
// states that it allows it is, and another process starts.
func (w *world) crash(t reporter, op operation, steps int, backendName string) {
	t.Helper()
	var taken atomic.Int64
	alive := disk.Intercept(func(disk.Step) error {
		if taken.Add(1) > int64(steps) {
			return errCrashed
		}
		return nil
	})
	err := op.run(context.Background())
	died := taken.Load() > int64(steps)
	_ = w.Layers.Close() // in order, if the operation took fewer steps
	alive()
	w.wantNothingOpen(t)
	w.open(t, backendName)
	if !died {
		w.do(t, operation{name: op.name, run: func(context.Context) error { return err }, class: op.class, effect: op.effect, verify: op.verify})
		return
	}
	why, _, _ := strings.Cut(fmt.Sprint(err), "\n")
	t.Logf("died in %s after %d steps: %s", op.name, steps, why)
	after := w.model.clone()
	op.effect(after)
	w.model = w.model.adopt(t, after, w.look(t), w.examine(t))
}

// examine returns which of the layers that can be seen are broken.
func (w *world) examine(t reporter) map[string]bool {
	t.Helper()
	ids, err := w.Layers.List()
	if err != nil {
		t.Fatal(err)
	}
	broken := make(map[string]bool)
	for _, id := range ids {
		problems, err := w.Layers.Check(bg, id, layer.Tree)
		if err != nil {
			t.Fatal(err)
		}
		if len(problems) > 0 {
			broken[layerNames[id]] = true
		}
	}
	return broken
}

// wantNothingOpen says that the dead process holds no file and so no lock.
func (w *world) wantNothingOpen(t reporter) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(target, w.dir+"/") {
			t.Errorf("still open: %s", target)
		}
	}
}

// reboot ends the process and all mounts. No container lives any more, so the first
// thing that happens is a recovery which knows none.
func (w *world) reboot(t *rapid.T) {
	if rapid.Bool().Draw(t, "in order") {
		w.stop(t)
	} else {
		w.loseTheMachine(t)
	}
	if err := mounttest.DetachBelow(w.Paths.Root()); err != nil {
		t.Fatal(err)
	}
	for _, c := range w.model.containers {
		c.doubt()
	}
	w.open(t, rapid.SampledFrom(knownBackends).Draw(t, "backend"))
	w.do(t, w.recover(nil))
}

// loseTheMachine ends the process and has the store believe that the machine has ended
// with it, so that no layer is to be trusted.
func (w *world) loseTheMachine(t reporter) {
	t.Helper()
	alive := disk.Intercept(func(disk.Step) error { return errCrashed })
	_ = w.Layers.Close()
	alive()
	w.wantNothingOpen(t)
	path := filepath.Join(w.Layers.Dir(), "session")
	session, err := os.ReadFile(path)
	if os.IsNotExist(err) || err == nil && len(session) == 0 { // the first process died as it began
		return
	}
	words := strings.Fields(string(session))
	if err != nil || len(words) != 3 {
		t.Fatalf("session is %q, %v", session, err)
	}
	if words[0] != "open" { // nobody has used the store since
		return
	}
	if err := os.WriteFile(path, []byte(words[0]+" "+words[1]+" another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.model.doubtful = maps.Clone(w.model.layers)
}

func (w *world) anyWish(t *rapid.T) wish {
	all := rapid.SampledFrom(wishes()).Draw(t, "image")
	all.cached = rapid.IntRange(0, 4).Draw(t, "cached") > 0
	return all
}

// got says what a Get finds: what is recorded, also if layers of it are missing, or what
// the source has.
func (w *world) got(asked wish) (recordKey, *picture) {
	k := w.key(asked)
	if p, ok := w.model.images[k]; ok && asked.cached {
		return k, p
	}
	return k, w.gallery.picture(asked)
}

func (w *world) key(asked wish) recordKey {
	reference, err := w.images.Reference(w.gallery.image(asked))
	if err != nil {
		panic(err) // the gallery's names are valid
	}
	return recordKey{reference, asked.platform}
}

func (w *world) anyPull(t *rapid.T) operation {
	asked := w.anyWish(t)
	k, p := w.got(asked)
	return operation{
		name: fmt.Sprintf("pull %v", asked), most: 190,
		run:    func(ctx context.Context) error { return w.pull(ctx, w.gallery.image(asked)) },
		effect: func(m *model) { m.pull(k, p) },
	}
}

// The ids nest, so that destroys and recoveries meet families.
var modelIDs = []string{"a", "a.x", "a.x.deep", "a.y", "b", "b.x.deep", "c", "d"}

func anyID(t *rapid.T) string { return rapid.SampledFrom(modelIDs).Draw(t, "id") }

func (w *world) anyProvision(t *rapid.T) operation {
	at, asked := anyID(t), w.anyWish(t)
	k, p := w.got(asked)
	made := &modelRootfs{backend: w.Backend, key: k, picture: p, tree: maps.Clone(p.tree)}
	op := operation{name: fmt.Sprintf("provision %s of %v by %s", at, asked, w.Backend), most: 320}
	rootfsID := "?"
	if w.Backend == "bind" {
		made.tree = p.tree
		if len(p.layers) > 1 {
			op.class, made.half = container.ErrInvalid, true
		}
	}
	scribbled := w.Backend != "bind" && rapid.Bool().Draw(t, "scribbles")
	op.run = func(ctx context.Context) error {
		before := w.recorded(t, at)
		rootfs, err := w.Provision(ctx, mustID(at), w.gallery.image(asked))
		if err == nil {
			rootfsID, made.path = filepath.Base(rootfs.Path), rootfs.Path
			return nil
		}
		for id := range w.recorded(t, at) {
			if _, ok := before[id]; !ok {
				rootfsID = id
			}
		}
		return err
	}
	op.effect = func(m *model) {
		m.pull(k, p)
		made.spoilt = m.isBroken(p)
		m.add(at).rootfses[rootfsID] = made
	}
	op.verify = func(t reporter) {
		if scribbled && op.class == nil && !made.spoilt {
			made.scribble(t)
		}
	}
	return op
}

func mustID(s string) container.ID {
	id, err := container.ParseID(s)
	if err != nil {
		panic(err)
	}
	return id
}

func (w *world) anyDestroy(t *rapid.T) operation {
	at := anyID(t)
	existed := false
	_, want := w.model.containers[at]
	return operation{
		name: "destroy " + at, most: 70,
		run: func(ctx context.Context) (err error) {
			existed, err = w.Destroy(ctx, mustID(at))
			return err
		},
		effect: func(m *model) { m.destroy(at) },
		verify: func(t reporter) {
			if existed != want {
				t.Errorf("destroy %s: %v, want %v", at, existed, want)
			}
		},
	}
}

func (w *world) anyRemove(t *rapid.T) operation {
	asked := w.anyWish(t)
	reference := w.key(asked).reference
	var swept layer.Swept
	want := []string{}
	op := operation{
		name: "remove " + asked.name, most: 50,
		run: func(ctx context.Context) (err error) {
			swept, err = w.Remove(ctx, w.gallery.image(asked))
			return err
		},
		effect: func(m *model) {
			m.remove(reference)
			want = m.sweep()
		},
		verify: func(t reporter) { wantNames(t, "swept", namesOf(swept.Layers), want) },
	}
	if has, used := w.model.named(reference); !has {
		op.class = container.ErrNotFound
	} else if used {
		op.class = container.ErrFailedPrecondition
	}
	if op.class != nil {
		op.effect, op.verify = nothing, nil
	}
	return op
}

func nothing(*model) {}

func (w *world) anySweep(*rapid.T) operation {
	var swept layer.Swept
	var want []string
	return operation{
		name: "sweep", most: 45,
		run: func(ctx context.Context) (err error) {
			swept, err = w.Sweep(ctx)
			return err
		},
		effect: func(m *model) { want = m.sweep() },
		verify: func(t reporter) { wantNames(t, "swept", namesOf(swept.Layers), want) },
	}
}

func (w *world) anyPrune(t *rapid.T) operation {
	var o provisioner.PruneOptions
	excluded := make(map[string]bool)
	for range rapid.IntRange(0, 3).Draw(t, "excluded") {
		asked := w.anyWish(t)
		o.Excluded = append(o.Excluded, w.gallery.image(asked))
		excluded[w.key(asked).reference] = true
	}
	var dry, pruned provisioner.Pruned
	var images map[recordKey]bool
	var layers []string
	bytes, damaged := w.diskUsage(t), len(w.model.broken)+len(w.model.superseded) > 0
	return operation{
		name: fmt.Sprintf("prune all but %v", excluded), most: 160,
		run: func(ctx context.Context) (err error) {
			o.DryRun = true
			if dry, err = w.Prune(ctx, o); err != nil {
				return err
			}
			o.DryRun = false
			pruned, err = w.Prune(ctx, o)
			return err
		},
		effect: func(m *model) { images, layers = m.prune(excluded) },
		verify: func(t reporter) {
			got := make(map[recordKey]bool)
			for _, rec := range pruned.Images {
				got[recordKey{rec.Reference, rec.Platform}] = true
			}
			if !maps.Equal(got, images) {
				t.Errorf("pruned the images %v, want %v", got, images)
			}
			wantNames(t, "pruned", namesOf(pruned.Layers), layers)
			gain := bytes - w.diskUsage(t)
			if damaged { // that occupies what nobody has written down
				gain, dry.Bytes = pruned.Bytes, pruned.Bytes
			}
			if gain != pruned.Bytes {
				t.Errorf("pruned %d bytes, du says %d", pruned.Bytes, gain)
			}
			if !reflect.DeepEqual(dry, pruned) {
				t.Errorf("the dry run has said %+v, pruned was %+v", dry, pruned)
			}
		},
	}
}

func (w *world) anyCheck(*rapid.T) operation {
	var report *provisioner.Report
	return operation{
		name: "check", most: 300,
		run: func(ctx context.Context) (err error) {
			report, err = w.Check(ctx)
			return err
		},
		effect: func(m *model) { m.checked() },
		verify: func(t reporter) {
			got := []string{}
			for _, l := range report.Layers {
				got = append(got, layerNames[l.Layer])
			}
			slices.Sort(got)
			wantNames(t, "broken", got, sorted(w.model.faults()))
			if len(report.Records)+len(report.Unknown) > 0 {
				t.Errorf("check: %+v", report)
			}
			if want := len(union(w.model.layers, w.model.faults())); report.Checked != want {
				t.Errorf("checked %d layers, want %d", report.Checked, want)
			}
		},
	}
}

func (w *world) anyRepair(*rapid.T) operation {
	var done *provisioner.Repaired
	var want mended
	op := operation{
		name: "repair", most: 520,
		run: func(ctx context.Context) (err error) {
			done, err = w.Repair(ctx)
			return err
		},
		effect: func(m *model) { want = m.repair() },
		verify: func(t reporter) {
			wantNames(t, "fetched", namesOf(done.Fetched), want.fetched)
			wantNames(t, "removed", namesOf(done.Removed), want.removed)
			remained := []string{}
			for _, l := range done.Remained {
				remained = append(remained, layerNames[l.Layer])
			}
			slices.Sort(remained)
			wantNames(t, "remained", remained, want.remained)
			if len(done.Images) > 0 {
				t.Errorf("repair has made records of %q", done.Images)
			}
		},
	}
	if len(w.model.clone().repair().remained) > 0 {
		op.class = errAny
	}
	return op
}

// usage compares what the images are said to cost with what the model says.
func (w *world) usage(t *rapid.T) {
	usages, err := w.Usage(bg)
	if err != nil {
		t.Fatalf("usage: %v", err)
	}
	got := make(map[recordKey]provisioner.ImageUsage)
	for _, u := range usages {
		got[recordKey{u.Reference, u.Platform}] = u
	}
	for k := range union(got, w.model.images) {
		p := w.model.images[k]
		if p == nil {
			t.Errorf("usage has the image %v", k)
			continue
		}
		var size, unique, shared int64
		for i, l := range p.layers {
			if !w.model.layers[l] {
				continue
			}
			size += int64(len(tinyTar(l)))
			if bytes := w.occupied(t, p.ids[i]); w.model.users(l) == 1 {
				unique += bytes
			} else {
				shared += bytes
			}
		}
		if u := got[k]; u.Size != size || u.Unique != unique || u.Shared != shared {
			t.Errorf("%v costs %d, %d alone and %d shared; want %d, %d, %d", k, u.Size, u.Unique, u.Shared, size, unique, shared)
		}
	}
}

// damage does to a layer what a bad disk does, or a bad administrator.
func (w *world) damage(t *rapid.T) {
	if len(w.model.layers) == 0 {
		t.Skip("there is none")
	}
	name := rapid.SampledFrom(sorted(w.model.layers)).Draw(t, "layer")
	dir := filepath.Join(w.Layers.Dir(), "layers", newPicture(name).ids[0].String(), "tree")
	marker := filepath.Join(dir, "fs", "marker-"+name)
	switch rapid.SampledFrom([]string{"byte", "file", "split", "layer"}).Draw(t, "damage") {
	case "byte":
		content, err := os.ReadFile(marker)
		if os.IsNotExist(err) {
			t.Skip("it is gone already")
		}
		content[0] ^= 0x20
		content[len(content)-1] = '!' // also when it is the second time
		if err := errors.Join(err, os.WriteFile(marker, content, 0o644)); err != nil {
			t.Fatal(err)
		}
	case "file":
		if err := os.RemoveAll(marker); err != nil {
			t.Fatal(err)
		}
	case "split":
		if err := os.Truncate(filepath.Join(dir, "split.zst"), 3); err != nil {
			t.Fatal(err)
		}
		w.model.damage(name, false)
		return
	case "layer":
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		w.model.lose(name)
		return
	}
	w.model.damage(name, true)
}

func (w *world) anyRecover(t *rapid.T) operation {
	var known []string
	for _, at := range slices.Sorted(maps.Keys(w.model.containers)) {
		if rapid.IntRange(0, 4).Draw(t, "known") > 0 {
			known = append(known, at)
		}
	}
	return w.recover(known)
}

func (w *world) recover(known []string) operation {
	return operation{
		name: fmt.Sprintf("recover %q", known), most: 70,
		run: func(ctx context.Context) error {
			return w.Recover(ctx, func(id container.ID) bool { return slices.Contains(known, id.String()) })
		},
		effect: func(m *model) { m.recover(known) },
	}
}

func namesOf(ids []image.Digest) []string {
	names := make([]string, 0, len(ids))
	for _, id := range ids {
		names = append(names, layerNames[id])
	}
	slices.Sort(names)
	return names
}

func wantNames(t reporter, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}
