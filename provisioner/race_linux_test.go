package provisioner_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/testrig"
	"berth/layer"
	"berth/provisioner"
)

// Many provision, destroy and prune the same images at once, over two processes on one
// directory. Each root filesystem has its content for as long as it lives, whatever is
// pruned (I6); nothing but what is documented fails, and in the end nothing is left.
func TestRaces(t *testing.T) {
	testrig.RequireRoot(t)
	const workers = 64
	load := 20 * time.Second
	if os.Getenv("BERTH_TEST_SOAK") != "" {
		load = 5 * time.Minute
	}
	dir := testrig.TempDir(t)
	testrig.NoLeaks(t, testrig.Scope{Only: []string{dir + "/"}})
	g := newGallery(t)
	processes := []*process{newProcess(t, dir, "overlay"), newProcess(t, dir, "copy")}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	waits := newWaits()
	var wished, swept atomic.Int64 // images, layers
	var all sync.WaitGroup
	for n := range workers {
		r := &racer{process: processes[n%len(processes)], gallery: g, waits: waits, wished: &wished, swept: &swept, number: n, random: rand.New(rand.NewPCG(uint64(n), 0))}
		all.Go(func() {
			for ctx.Err() == nil {
				if err := r.act(t.Context()); err != nil {
					t.Errorf("worker %d: %v", n, err)
					stop()
				}
			}
		})
	}
	// On a slow machine it takes longer until an image is out of use.
	for begin, enough := time.Now(), false; !enough && ctx.Err() == nil; {
		time.Sleep(100 * time.Millisecond)
		took := time.Since(begin)
		enough = took > load && swept.Load() > 0 || took > 5*load
	}
	stop()
	all.Wait()
	waits.log(t)
	t.Logf("%d layers were removed", swept.Load())
	if swept.Load() == 0 {
		t.Error("no layer was ever removed: the test proves nothing")
	}
	for _, p := range processes {
		wantIdle(t, p)
		wantAllProvisioned(t, p, g)
		p.stop(t)
	}
}

var raced = []wish{{"one", "", true}, {"two", "", true}, {"three", "", true}, {"four", "", true}, {"multi", "", true}}

// racer is one of the workers.
type racer struct {
	*process
	gallery *gallery
	waits   *waits
	wished  *atomic.Int64
	swept   *atomic.Int64
	number  int
	random  *rand.Rand
}

// wish is mostly the one image that everybody wants at present. Those that were wanted
// before get out of use and are pruned, and later everybody wants them again.
func (r *racer) wish() wish {
	const many = 50
	n := int(r.wished.Add(1)) / many
	if r.random.IntN(30) == 0 {
		n++
	}
	return raced[n%len(raced)]
}

// act does one thing. Its error is one that should not be.
func (r *racer) act(ctx context.Context) error {
	switch n := r.random.IntN(100); {
	case n < 50:
		return r.live(ctx)
	case n < 60:
		return r.compete(ctx)
	case n < 64:
		return r.waits.time("lease", func() error {
			lease, err := r.Layers.Lease(ctx)
			if err != nil {
				return err
			}
			return lease.Release()
		})
	case n < 72:
		return r.waits.time("sweep", func() error { return r.count(r.Sweep(ctx)) })
	case n < 78:
		err := r.count(r.Remove(ctx, r.gallery.image(r.wish())))
		if errors.Is(err, container.ErrNotFound) || errors.Is(err, container.ErrFailedPrecondition) { // not there, or in use
			return nil
		}
		return err
	case n < 80:
		return r.waits.time("recover", func() error { return r.Recover(ctx, func(container.ID) bool { return true }) })
	case n < 83:
		return r.waits.time("pull", func() error {
			asked := r.wish()
			asked.cached = false
			return r.pull(ctx, r.gallery.image(asked))
		})
	}
	return r.prune(ctx)
}

// live is the life of a container of this worker: its own root filesystem, that of an
// image volume and that of a child.
func (r *racer) live(ctx context.Context) error {
	at := fmt.Sprintf("own%d", r.number)
	var made []*modelRootfs
	for range 1 + r.random.IntN(2) {
		id := at
		if r.random.IntN(3) == 0 {
			id += ".child"
		}
		asked := r.wish()
		var rootfs *provisioner.Rootfs
		err := r.waits.time("provision", func() (err error) {
			rootfs, err = r.Provision(ctx, mustID(id), r.gallery.image(asked))
			return err
		})
		if err != nil {
			return err
		}
		m := &modelRootfs{path: rootfs.Path, tree: maps.Clone(r.gallery.picture(asked).tree)}
		if err := checked(func(t reporter) { wantTree(t, m.path, m.tree); m.scribble(t) }); err != nil {
			return err
		}
		made = append(made, m)
	}
	for _, m := range made {
		if err := checked(func(t reporter) { wantTree(t, m.path, m.tree) }); err != nil {
			return err
		}
	}
	return r.waits.time("destroy", func() error {
		existed, err := r.Destroy(ctx, mustID(at))
		if err == nil && !existed {
			err = fmt.Errorf("destroy %s: %w", at, errNothing)
		}
		return err
	})
}

// compete provisions and destroys a container that others of the process want, too. Any of
// them may destroy what another has provisioned.
func (r *racer) compete(ctx context.Context) error {
	at := fmt.Sprintf("shared%d-%s", r.random.IntN(4), r.Backend)
	child := at
	if r.random.IntN(2) == 0 {
		child += ".child"
	}
	_, err := r.Provision(ctx, mustID(child), r.gallery.image(r.wish()))
	if err != nil && !errors.Is(err, container.ErrFailedPrecondition) {
		return err
	}
	_, err = r.Destroy(ctx, mustID(at))
	return err
}

func (r *racer) prune(ctx context.Context) error {
	o := provisioner.PruneOptions{DryRun: r.random.IntN(4) == 0}
	if r.random.IntN(2) == 0 {
		o.Excluded = []*v1.Image{r.gallery.image(r.wish())}
	}
	switch r.random.IntN(20) {
	case 0:
		return r.waits.time("check", func() error {
			report, err := r.Check(ctx)
			if err == nil && !report.Clean() {
				err = fmt.Errorf("check: %+v", report)
			}
			return err
		})
	case 1:
		return r.waits.time("repair", func() error {
			mended, err := r.Repair(ctx)
			if err == nil && len(mended.Fetched)+len(mended.Removed)+len(mended.Images)+len(mended.Remained) > 0 {
				err = fmt.Errorf("repair has mended what was not broken: %+v", mended)
			}
			return err
		})
	case 2:
		return r.waits.time("usage", func() error { _, err := r.Usage(ctx); return err })
	}
	return r.waits.time("prune", func() error {
		pruned, err := r.Prune(ctx, o)
		if o.DryRun {
			return err
		}
		return r.count(layer.Swept{Layers: pruned.Layers}, err)
	})
}

// count counts the layers that were removed.
func (r *racer) count(swept layer.Swept, err error) error {
	r.swept.Add(int64(len(swept.Layers)))
	return err
}

// checked runs checks in a goroutine that is not the test's.
func checked(check func(reporter)) (err error) {
	defer func() {
		if fatal := recover(); fatal != nil {
			err = fatal.(collector).err // all others are bugs
		}
	}()
	c := &collector{}
	check(c)
	return c.err
}

// collector is a reporter whose reports make an error.
type collector struct{ err error }

func (c *collector) Helper()             {}
func (c *collector) Logf(string, ...any) {}
func (c *collector) Errorf(format string, args ...any) {
	c.err = errors.Join(c.err, fmt.Errorf(format, args...))
}
func (c *collector) Fatalf(format string, args ...any) { c.Errorf(format, args...); panic(*c) }
func (c *collector) Fatal(args ...any)                 { c.Fatalf("%s", fmt.Sprint(args...)) }

// waits are how long each kind of operation took.
type waits struct {
	mu   sync.Mutex
	took map[string][]time.Duration
}

func newWaits() *waits { return &waits{took: make(map[string][]time.Duration)} }

func (w *waits) time(kind string, do func() error) error {
	begin := time.Now()
	err := do()
	took := time.Since(begin)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.took[kind] = append(w.took[kind], took)
	if err != nil {
		err = fmt.Errorf("%s: %w", kind, err)
	}
	return err
}

func (w *waits) log(t testing.TB) {
	for _, kind := range slices.Sorted(maps.Keys(w.took)) {
		took := w.took[kind]
		slices.Sort(took)
		t.Logf("%-9s %6d times, half of them within %v, 99 %% within %v, all within %v",
			kind, len(took), at(took, 0.5), at(took, 0.99), took[len(took)-1])
	}
}

// at is a quantile of what is sorted.
func at(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)-1))].Round(time.Microsecond)
}

// wantIdle removes the containers that live, and everything that is then nobody's, and
// says that nothing is left.
func wantIdle(t *testing.T, p *process) {
	t.Helper()
	if err := p.Recover(t.Context(), func(container.ID) bool { return false }); err != nil {
		t.Error(err)
	}
	if _, err := p.Prune(t.Context(), provisioner.PruneOptions{}); err != nil {
		t.Error(err)
	}
	report, err := p.Check(t.Context())
	if err != nil || !report.Clean() || report.Checked > 0 {
		t.Errorf("check: %+v, %v", report, err)
	}
	for _, dir := range []string{p.Paths.Containers(), filepath.Join(p.Layers.Dir(), "layers"), filepath.Join(p.Layers.Dir(), "leases"), filepath.Join(p.Layers.Dir(), "staging")} {
		if left := list(t, dir); len(left) > 0 {
			t.Errorf("%s has %q", dir, left)
		}
	}
}

func wantAllProvisioned(t *testing.T, p *process, g *gallery) {
	t.Helper()
	for _, asked := range raced {
		rootfs, err := p.Provision(t.Context(), id(t, asked.name), g.image(asked))
		if err != nil {
			t.Errorf("%s: %v", asked.name, err)
			continue
		}
		wantTree(t, rootfs.Path, g.picture(asked).tree)
	}
	wantIdle(t, p)
}
