package layer

import (
	"bufio"
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/internal/filelock"
)

func keepNothing(map[image.Digest]bool) (Decision, error) { return Decision{}, nil }

func keep(ids ...image.Digest) func(map[image.Digest]bool) (Decision, error) {
	d := Decision{Keep: make(map[image.Digest]bool)}
	for _, id := range ids {
		d.Keep[id] = true
	}
	return func(map[image.Digest]bool) (Decision, error) { return d, nil }
}

func sweep(t reporter, s *Store) []image.Digest {
	t.Helper()
	swept, err := s.Sweep(context.Background(), keepNothing)
	if err != nil {
		t.Fatalf("sweep: %v", err)
	}
	return swept.Layers
}

func recoverStore(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Recover(context.Background()); err != nil {
		t.Fatalf("recover: %v", err)
	}
}

func TestOnlyCommitMakesALayerVisible(t *testing.T) {
	s := newStore(t, testLimits)
	l := newLease(t, s)
	blob := archive(file("a", "x"))
	info, err := l.Unpack(context.Background(), Tree, image.DigestOf(blob), bytes.NewReader(gzipped(t, blob)))
	if err != nil {
		t.Fatal(err)
	}
	want := Info{Version: 1, DiffID: image.DigestOf(blob), Size: int64(len(blob)), Entries: 1, Nodes: 1, Implied: [][]byte{[]byte(".")}}
	if !info.equal(want) {
		t.Errorf("unpacked %+v, want %+v", info, want)
	}
	wantAbsent := func() {
		t.Helper()
		ids, err := s.List()
		if len(ids) != 0 || err != nil {
			t.Errorf("listed: %v, %v", ids, err)
		}
		if _, err := s.Info(info.DiffID, Tree); !errors.Is(err, container.ErrNotFound) {
			t.Errorf("its record: %v", err)
		}
	}
	wantAbsent()
	if err := l.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if ids, err := s.List(); err != nil || !slices.Equal(ids, []image.Digest{info.DiffID}) {
		t.Errorf("listed: %v, %v", ids, err)
	}
	if got, err := s.Info(info.DiffID, Tree); err != nil || !got.equal(want) {
		t.Errorf("its record: %+v, %v", got, err)
	}
	if swept := sweep(t, s); len(swept) != 0 {
		t.Errorf("a sweep took the layer from the lease that committed it")
	}
	release(t, l)
	wantClean(t, s, info.DiffID)

	if swept := sweep(t, s); !slices.Equal(swept, []image.Digest{info.DiffID}) {
		t.Errorf("swept %v", swept)
	}
	wantAbsent()
	wantEmpty(t, s)
}

func TestHoldTellsWhatIsAbsentOnce(t *testing.T) {
	s := newStore(t, testLimits)
	here := addLayer(t, s, archive(file("a", ""))).DiffID
	gone, never := image.DigestOf([]byte("gone")), image.DigestOf([]byte("never"))
	l := newLease(t, s)
	defer release(t, l)
	absent, err := l.Hold(context.Background(), Tree, []image.Digest{gone, here, never, gone, here})
	if err != nil || !slices.Equal(absent, []image.Digest{gone, never}) {
		t.Errorf("absent: %v, %v", absent, err)
	}
	if absent, err = l.Hold(context.Background(), "another form", []image.Digest{here}); err != nil || !slices.Equal(absent, []image.Digest{here}) {
		t.Errorf("absent in another form: %v, %v", absent, err)
	}
}

func TestSweepLeavesWhatIsHeldOrKept(t *testing.T) {
	s := newStore(t, testLimits)
	var ids []image.Digest
	for i := range 4 {
		ids = append(ids, addLayer(t, s, archive(file(fmt.Sprint(i), ""))).DiffID)
	}
	l := newLease(t, s)
	for _, id := range ids[:2] { // by two calls
		if _, err := l.Hold(context.Background(), Tree, []image.Digest{id}); err != nil {
			t.Fatal(err)
		}
	}
	other := openStore(t, s.Dir(), testLimits)
	swept, err := other.Sweep(context.Background(), keep(ids[2]))
	if err != nil || !slices.Equal(swept.Layers, ids[3:]) {
		t.Errorf("swept %v, %v; want %v", swept, err, ids[3:])
	}
	for _, id := range ids[:3] {
		wantClean(t, s, id)
	}
	release(t, l)
	if swept := sweep(t, other); len(swept) != 3 {
		t.Errorf("swept %v after the release", swept)
	}
	wantEmpty(t, s)
}

func TestSweepThatCannotDecideTakesNothing(t *testing.T) {
	s := newStore(t, testLimits)
	id := addLayer(t, s, archive(specimen...)).DiffID
	broken := errors.New("broken record")
	if swept, err := s.Sweep(context.Background(), func(map[image.Digest]bool) (Decision, error) { return Decision{}, broken }); !errors.Is(err, broken) || swept.Layers != nil {
		t.Errorf("swept %v, %v", swept, err)
	}
	// A lease that cannot be read.
	lease := filepath.Join(s.leases(), crand.Text())
	if err := os.Mkdir(lease, 0o700); err != nil {
		t.Fatal(err)
	}
	if swept, err := s.Sweep(context.Background(), keepNothing); err == nil || swept.Layers != nil {
		t.Errorf("swept %v, %v", swept, err)
	}
	wantClean(t, s, id)
}

// A hold that comes after a Write that was cut short, on a full disk, must not join
// what that left.
func TestHoldAfterATornRecord(t *testing.T) {
	s := newStore(t, testLimits)
	id := addLayer(t, s, archive(file("a", ""))).DiffID
	l := newLease(t, s)
	defer release(t, l)
	if err := l.begin(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.file.File().WriteString("sha256:0123"); err != nil {
		t.Fatal(err)
	}
	if absent, err := l.Hold(context.Background(), Tree, []image.Digest{id}); err != nil || len(absent) != 0 {
		t.Fatal(absent, err)
	}
	if swept := sweep(t, s); len(swept) != 0 {
		t.Error("swept a layer that is held")
	}
}

func TestTwoLeasesCommitTheSameLayer(t *testing.T) {
	s := newStore(t, testLimits)
	blob := archive(specimen...)
	a, b := newLease(t, s), newLease(t, openStore(t, s.Dir(), testLimits))
	for _, l := range []*Lease{a, b, b} {
		if _, err := l.Unpack(context.Background(), Tree, image.DigestOf(blob), bytes.NewReader(blob)); err != nil {
			t.Fatal(err)
		}
	}
	var both sync.WaitGroup
	for _, l := range []*Lease{a, b} {
		both.Go(func() {
			if err := l.Commit(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	release(t, a)
	if swept := sweep(t, s); len(swept) != 0 {
		t.Error("swept what the other lease holds")
	}
	release(t, b)
	wantClean(t, s, image.DigestOf(blob))
	wantNothingIn(t, s.staging())
	wantNothingIn(t, s.leases())
}

func TestCommitThatFailedStaysFailed(t *testing.T) {
	s := newStore(t, testLimits)
	l := newLease(t, s)
	defer release(t, l)
	unpack := func(content string) {
		if _, err := l.Unpack(context.Background(), Tree, "", bytes.NewReader(archive(file("a", content)))); err != nil {
			t.Fatal(err)
		}
	}
	unpack("1")
	sweeper, err := s.lock(context.Background(), filelock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(enough)
	if err := l.Commit(ctx); !errors.Is(err, enough) {
		t.Errorf("commit that was cancelled: %v", err)
	}
	if err := sweeper.Unlock(); err != nil {
		t.Fatal(err)
	}
	unpack("2")
	if err := l.Commit(context.Background()); !errors.Is(err, enough) {
		t.Errorf("the next commit: %v", err)
	}
	wantNothingIn(t, s.layers())
}

func TestCancelledUnpackLeavesNothing(t *testing.T) {
	s := newStore(t, DefaultLimits)
	enough := errors.New("enough")
	for _, c := range []struct {
		name    string
		members []member
	}{
		{"between files", many(1000, func(i int) member { return file(fmt.Sprint(i), strings.Repeat("x", 5000)) })},
		{"in a file", []member{file("a", string(make([]byte, 5<<20)))}},
		{"after the end", []member{file("a", ""), {raw: make([]byte, 5<<20)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(context.Background())
			blob := archive(c.members...)
			trigger := readerFunc(func([]byte) (int, error) { cancel(enough); return 0, io.EOF })
			l := newLease(t, s)
			_, err := l.Unpack(ctx, Tree, "", io.MultiReader(bytes.NewReader(blob[:2<<20]), trigger, bytes.NewReader(blob[2<<20:])))
			if !errors.Is(err, enough) {
				t.Errorf("error is %v", err)
			}
			wantNothingIn(t, l.stagingDir())
			release(t, l)
			wantEmpty(t, s)
		})
	}
}

// What Release cannot remove it leaves with its lease, so that Recover can.
func TestReleaseThatFailsIsTakenUpByRecover(t *testing.T) {
	s := newStore(t, testLimits)
	l := newLease(t, s)
	if _, err := l.Unpack(context.Background(), Tree, "", bytes.NewReader(archive(file("a/b", "x")))); err != nil {
		t.Fatal(err)
	}
	restore := disk.Intercept(func(step disk.Step) error {
		if step.Op == "remove" && step.Path == "b" {
			return unix.EIO
		}
		return nil
	})
	err := l.Release()
	restore()
	if !errors.Is(err, unix.EIO) {
		t.Errorf("release of what cannot be removed: %v", err)
	}
	recoverStore(t, s)
	wantEmpty(t, s)
}

// A power cut may lose the file of a lease and keep what was staged, and it may come
// between the two steps of a commit.
func TestRecoverAfterAPowerCut(t *testing.T) {
	s := newStore(t, testLimits)
	id := addLayer(t, s, archive(file("a", ""))).DiffID
	for _, dir := range []string{
		filepath.Join(s.staging(), crand.Text(), "1", "fs", "etc"),
		filepath.Join(s.layers(), image.DigestOf(nil).String()),
	} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	l := newLease(t, s)
	if _, err := l.Unpack(context.Background(), Tree, "", bytes.NewReader(archive(file("b", "")))); err != nil {
		t.Fatal(err)
	}
	recoverStore(t, s)
	if entries, _ := os.ReadDir(s.staging()); len(entries) != 1 {
		t.Errorf("staging has %v, want what the live lease has staged", entries)
	}
	if entries, _ := os.ReadDir(s.layers()); len(entries) != 1 {
		t.Errorf("layers has %v, want %s", entries, id)
	}
	if err := l.Commit(context.Background()); err != nil {
		t.Error(err)
	}
	release(t, l)
	wantClean(t, s, id)
}

func TestFullDisk(t *testing.T) {
	for _, c := range []struct {
		name    string
		options []string
		members []member
	}{
		{"no blocks", nil, []member{dir("d"), file("d/small", "x"), file("d/big", pseudoRandom(16<<20))}},
		{"no blocks for a sparse file", nil, []member{sparse("big", 16<<20, fmt.Sprint("0,", 16<<20), pseudoRandom(16<<20))}},
		{"no blocks for the split", nil, []member{{raw: make([]byte, 1024)}, {raw: []byte(pseudoRandom(16 << 20))}}},
		{"no inodes", []string{"-N", "64"}, many(100, func(i int) member { return file(fmt.Sprint(i), "") })},
	} {
		t.Run(c.name, func(t *testing.T) {
			needRoot(t)
			s := openStore(t, filepath.Join(mountNew(t, "ext4", "8M", c.options...), "store"), DefaultLimits)
			id := addLayer(t, s, archive(file("a", "x"))).DiffID
			l := newLease(t, s)
			_, err := l.Unpack(context.Background(), Tree, "", bytes.NewReader(archive(c.members...)))
			if !errors.Is(err, unix.ENOSPC) || errors.Is(err, container.ErrInvalid) {
				t.Errorf("error is %v, want ENOSPC and no class", err)
			}
			for _, word := range []string{"no space left on device", s.Dir(), "free space", "berth rmi", "--work_dir"} {
				if err != nil && !strings.Contains(err.Error(), word) {
					t.Errorf("error is %q, want it to say %q", err, word)
				}
			}
			release(t, l)
			wantNothingIn(t, s.staging())
			wantNothingIn(t, s.leases())
			wantClean(t, s, id)
		})
	}
}

// The second process of the tests below is this test binary.
const (
	roleEnv  = "BERTH_LAYER_TEST_ROLE"
	storeEnv = "BERTH_LAYER_TEST_STORE"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		if err := playRole(role, os.Getenv(storeEnv)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// playRole does one thing, says "ready" and waits to be killed.
func playRole(role, store string) error {
	ctx := context.Background()
	s, err := Open(store, testLimits)
	if err != nil {
		return err
	}
	if place, ok := strings.CutPrefix(role, "die at "); ok {
		return dieAt(s, place)
	}
	if role == "come and go" {
		return comeAndGo(s)
	}
	l, err := s.Lease(ctx)
	if err != nil {
		return err
	}
	ready := func() {
		fmt.Println("ready")
		time.Sleep(time.Hour)
	}
	switch role {
	case "hold":
		ids, err := s.List()
		if err == nil {
			_, err = l.Hold(ctx, Tree, ids)
		}
		if err != nil {
			return err
		}
	case "unpack":
		stuck := readerFunc(func([]byte) (int, error) { ready(); return 0, io.EOF })
		blob := archive(many(500, func(i int) member { return file(fmt.Sprintf("d/%d", i), "x") })...)
		_, err := l.Unpack(ctx, Tree, "", io.MultiReader(bytes.NewReader(blob), stuck))
		return err
	case "stage":
		if _, err := l.Unpack(ctx, Tree, "", bytes.NewReader(archive(specimen...))); err != nil {
			return err
		}
	case "churn": // until it is killed
		fmt.Println("ready")
		for i := 0; ; i++ {
			if err := churn(s, rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(i)))); err != nil {
				return err
			}
		}
	}
	ready()
	return nil
}

// start runs a process in a role and returns when it is ready.
func start(t *testing.T, role string, s *Store) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"="+role, storeEnv+"="+s.Dir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the other process said %q (%v)", line, err)
	}
	return cmd
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func TestHoldKeepsALayerFromAnotherProcess(t *testing.T) {
	s := newStore(t, testLimits)
	id := addLayer(t, s, archive(specimen...)).DiffID
	holder := start(t, "hold", s)
	recoverStore(t, s)
	if swept := sweep(t, s); len(swept) != 0 {
		t.Error("swept what a live process holds")
	}
	wantClean(t, s, id)
	kill(holder)
	if swept := sweep(t, s); len(swept) != 1 {
		t.Error("a dead process still holds its layer")
	}
	recoverStore(t, s)
	wantEmpty(t, s)
}

func TestRecoverRemovesWhatAKilledProcessLeft(t *testing.T) {
	for _, role := range []string{"unpack", "stage", "hold"} {
		t.Run(role, func(t *testing.T) {
			s := newStore(t, testLimits)
			id := addLayer(t, s, archive(file("a", ""))).DiffID
			victim, survivor := start(t, role, s), start(t, role, s)
			own := newLease(t, s)
			if _, err := own.Unpack(context.Background(), Tree, "", bytes.NewReader(archive(file("b", "")))); err != nil {
				t.Fatal(err)
			}
			before := count(t, s.staging())
			kill(victim)
			recoverStore(t, s)
			if staged := 1; role != "hold" && count(t, s.staging()) != before-staged {
				t.Errorf("of %d stagings %d are left, want all but one", before, count(t, s.staging()))
			}
			if n := count(t, s.leases()); n != 2 {
				t.Errorf("%d leases are left, want 2", n)
			}
			kill(survivor)
			recoverStore(t, s)
			if err := own.Commit(context.Background()); err != nil {
				t.Error(err)
			}
			release(t, own)
			wantNothingIn(t, s.staging())
			wantNothingIn(t, s.leases())
			wantClean(t, s, id)
			if n := count(t, s.layers()); n != 2 {
				t.Errorf("there are %d layers, want 2", n)
			}
		})
	}
}

func count(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// churn does something at random, as many processes do all the time, and looks
// whether what it holds is whole.
func churn(s *Store, random *rand.Rand) error {
	ctx := context.Background()
	switch random.IntN(8) {
	case 0:
		if _, err := s.Sweep(ctx, keepNothing); err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
		return nil
	case 1:
		if err := s.Recover(ctx); err != nil {
			return fmt.Errorf("recover: %w", err)
		}
		return nil
	}
	l, err := s.Lease(ctx)
	if err != nil {
		return err
	}
	return errors.Join(use(l, random.IntN(5)), l.Release())
}

// use takes one of a few layers under the lease, pulled when absent, and checks it.
func use(l *Lease, which int) error {
	ctx := context.Background()
	blob := archive(append([]member{file(fmt.Sprint("layer", which), "")}, specimen...)...)
	id := image.DigestOf(blob)
	absent, err := l.Hold(ctx, Tree, []image.Digest{id})
	if err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	if len(absent) > 0 {
		if _, err := l.Unpack(ctx, Tree, id, iotest.HalfReader(bytes.NewReader(blob))); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		if err := l.Commit(ctx); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
	}
	found, err := l.store.Check(ctx, id, Tree)
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("check: %v", found)
	}
	return err
}

func TestConcurrentUse(t *testing.T) {
	s := newStore(t, testLimits)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			own := openStore(t, s.Dir(), testLimits)
			for j := range 15 {
				if err := churn(own, rand.New(rand.NewPCG(uint64(i), uint64(j)))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	wantWhole(t, s)
}

// wantWhole says that all visible layers are clean and nothing else is there.
func wantWhole(t *testing.T, s *Store) {
	t.Helper()
	recoverStore(t, s)
	wantNothingIn(t, s.staging())
	wantNothingIn(t, s.leases())
	ids, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	if n := count(t, s.layers()); n != len(ids) {
		t.Errorf("%d layers are visible, %d directories there", len(ids), n)
	}
	for _, id := range ids {
		wantClean(t, s, id)
	}
}

// Processes that use one store are killed at random moments; the others never see a
// layer that is not whole, and in the end nothing is left of the dead.
func TestKilledAtRandom(t *testing.T) {
	s := newStore(t, testLimits)
	random := rand.New(rand.NewPCG(1, 2))
	for range 15 {
		victim := start(t, "churn", s)
		for range 3 {
			if err := churn(s, random); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
		kill(victim)
	}
	wantWhole(t, s)
}

// The kernel reports a failed sync once. What was staged before may be lost, whatever a
// second one says.
func TestAFailedSyncEndsTheCommitsOfALease(t *testing.T) {
	s := newStore(t, testLimits)
	blob := archive(specimen...)
	l := newLease(t, s)
	if _, err := l.Unpack(context.Background(), Tree, "", bytes.NewReader(blob)); err != nil {
		t.Fatal(err)
	}
	failed := false
	restore := disk.Intercept(func(step disk.Step) error {
		if step.Op == "syncfs" && !failed {
			failed = true
			return unix.EIO
		}
		return nil
	})
	defer restore()
	for range 2 {
		if err := l.Commit(context.Background()); !errors.Is(err, unix.EIO) {
			t.Errorf("commit: %v", err)
		}
	}
	release(t, l)
	wantEmpty(t, s)
	wantClean(t, s, addLayer(t, s, blob).DiffID)
}

// I1, to the letter: nothing is visible before its bytes are synced, and after a Commit
// the names of all layers that it is about are synced too.
func TestCommitSyncsWhatItMakesVisible(t *testing.T) {
	s := newStore(t, testLimits)
	there, staged := archive(file("a", "")), archive(specimen...)
	addLayer(t, s, there)
	l := newLease(t, s)
	hold(t, l, image.DigestOf(there), image.DigestOf(staged))
	if _, err := l.Unpack(context.Background(), Tree, "", bytes.NewReader(staged)); err != nil {
		t.Fatal(err)
	}
	dir := s.layerDir(image.DigestOf(staged))
	wantSteps(t, func() error { return l.Commit(context.Background()) },
		"syncfs "+s.Dir(), "mkdir "+dir, "rename "+s.formDir(image.DigestOf(staged), Tree), "fsync "+dir, "fsync "+s.layers())
	release(t, l)

	// Who makes a layer visible may have been killed before it synced the names.
	l = newLease(t, s)
	defer release(t, l)
	hold(t, l, image.DigestOf(there))
	wantSteps(t, func() error { return l.Commit(context.Background()) },
		"fsync "+s.layerDir(image.DigestOf(there)), "fsync "+s.layers())
	wantSteps(t, func() error { return l.Commit(context.Background()) })
}

// wantSteps says which changes and syncs, in this order, are the steps of do.
func wantSteps(t *testing.T, do func() error, want ...string) {
	t.Helper()
	var steps []string
	restore := disk.Intercept(func(step disk.Step) error {
		switch step.Op {
		case "syncfs", "fsync", "mkdir", "rename", "remove":
			steps = append(steps, step.Op+" "+step.Path)
		}
		return nil
	})
	err := do()
	restore()
	if err != nil || !slices.Equal(steps, want) {
		t.Errorf("the steps were %q, %v, want %q", steps, err, want)
	}
}
