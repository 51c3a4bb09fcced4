package layer

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"berth/image"
	"berth/internal/disk"
	"berth/internal/testrig"
)

// abandon ends the use of a store as a kill does.
func abandon(t *testing.T, s *Store) {
	t.Helper()
	if err := s.session.open.Unlock(); err != nil {
		t.Fatal(err)
	}
	s.session = nil
}

// crash is an unclean shutdown: the machine is another, as to the session file.
func crash(t *testing.T, s *Store) {
	t.Helper()
	abandon(t, s)
	editSession(t, s, func(line string) string { return strings.Replace(line, "-", "+", 1) })
}

func editSession(t *testing.T, s *Store, edit func(string) string) {
	t.Helper()
	data, err := os.ReadFile(s.sessionFile())
	if err == nil {
		err = os.WriteFile(s.sessionFile(), []byte(edit(string(data))), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func hold(t *testing.T, l *Lease, ids ...image.Digest) (absent []image.Digest) {
	t.Helper()
	absent, err := l.Hold(context.Background(), Tree, ids)
	if err != nil {
		t.Fatalf("hold: %v", err)
	}
	return absent
}

// flipByte breaks the content of the specimen without a trace in its attributes.
func flipByte(t *testing.T, s *Store, id image.Digest) {
	t.Helper()
	d := damage{t, s, s.formDir(id, Tree)}
	path := d.path("fs/d/file")
	info, err := os.Stat(path)
	d.must(err)
	d.flip("fs/d/file", 3)
	d.must(os.Chtimes(path, info.ModTime(), info.ModTime()))
}

// trusts says whether a lease takes a layer as it is, unverified.
func trusts(t *testing.T, s *Store, id image.Digest) bool {
	t.Helper()
	own := openStore(t, s.Dir(), testLimits)
	defer closeStore(t, own)
	l := newLease(t, own)
	defer release(t, l)
	return len(hold(t, l, id)) == 0
}

// trustsAfter breaks the layer, lets something happen, and says whether the layer is
// taken nevertheless.
func trustsAfter(t *testing.T, s *Store, id image.Digest, happens func()) bool {
	t.Helper()
	flipByte(t, s, id)
	happens()
	return trusts(t, s, id)
}

func TestFirstUseOfALayerIsVerifiedAfter(t *testing.T) {
	for _, c := range []struct {
		name    string
		happens func(t *testing.T, s *Store)
		trusted bool
	}{
		{"nothing", func(*testing.T, *Store) {}, true},
		{"a close", func(t *testing.T, s *Store) { closeStore(t, s) }, true},
		{"a close, and a shutdown", func(t *testing.T, s *Store) {
			closeStore(t, s)
			editSession(t, s, func(line string) string { return strings.Replace(line, "-", "+", 1) })
		}, true},
		{"a kill", abandon, true},
		{"a close, with another that has it open, and an unclean shutdown", func(t *testing.T, s *Store) {
			other := openStore(t, s.Dir(), testLimits)
			release(t, newLease(t, other))
			closeStore(t, s)
			crash(t, other)
		}, false},
		{"an unclean shutdown", crash, false},
		{"an unclean shutdown, an open and a close", func(t *testing.T, s *Store) {
			crash(t, s)
			other := openStore(t, s.Dir(), testLimits)
			release(t, newLease(t, other))
			closeStore(t, other)
		}, false},
		{"the loss of the session file", func(t *testing.T, s *Store) {
			closeStore(t, s)
			if err := os.Remove(s.sessionFile()); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"an empty session file", func(t *testing.T, s *Store) {
			closeStore(t, s)
			editSession(t, s, func(string) string { return "" })
		}, false},
		{"a torn session file", func(t *testing.T, s *Store) {
			closeStore(t, s)
			editSession(t, s, func(line string) string { return line[:20] })
		}, false},
		{"the loss of the session file while others have the store open", func(t *testing.T, s *Store) {
			editSession(t, s, func(string) string { return "" })
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t, testLimits)
			id := addLayer(t, s, archive(specimen...)).DiffID
			if got := trustsAfter(t, s, id, func() { c.happens(t, s) }); got != c.trusted {
				t.Errorf("the layer was trusted: %v, want %v", got, c.trusted)
			}
		})
	}
}

func closeStore(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestALayerInDoubtIsVerifiedOnce(t *testing.T) {
	s := newStore(t, testLimits)
	good := addLayer(t, s, archive(specimen...)).DiffID
	crash(t, s)
	l := newLease(t, s)
	if absent := hold(t, l, good); len(absent) != 0 || len(l.Broken(Tree)) != 0 {
		t.Errorf("a good layer is absent: %v", l.Broken(Tree))
	}
	release(t, l)
	if !trustsAfter(t, s, good, func() {}) {
		t.Error("it was verified again")
	}
	crash(t, s)
	if trusts(t, s, good) { // it is broken since
		t.Error("it was not verified after the next unclean shutdown")
	}
}

func TestACheckIsAVerification(t *testing.T) {
	s := newStore(t, testLimits)
	id := addLayer(t, s, archive(specimen...)).DiffID
	crash(t, s)
	wantClean(t, s, id)
	if !trustsAfter(t, s, id, func() {}) {
		t.Error("the layer was verified again")
	}
}

func TestABrokenLayerIsReplacedAtItsNextUse(t *testing.T) {
	s := newStore(t, testLimits)
	blob := archive(specimen...)
	broken, other := addLayer(t, s, blob).DiffID, addLayer(t, s, archive(file("a", ""))).DiffID
	flipByte(t, s, broken)
	crash(t, s)

	l := newLease(t, s)
	if absent := hold(t, l, other, broken, broken); !slices.Equal(absent, []image.Digest{broken}) {
		t.Errorf("absent is %v, want %s", absent, broken)
	}
	found := l.Broken(Tree)
	if len(found) != 1 || len(found[broken]) == 0 || !strings.Contains(found[broken][0].String(), "content has changed") {
		t.Errorf("broken is %v", found)
	}
	restore := disk.Intercept(func(step disk.Step) error {
		if step.Path == splitFile {
			t.Error("it is verified again")
		}
		return nil
	})
	if absent := hold(t, l, broken); len(absent) != 1 {
		t.Error("it is not absent any more")
	}
	restore()
	if _, err := l.Unpack(context.Background(), Tree, broken, bytes.NewReader(blob)); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if absent := hold(t, l, broken, other); len(absent) != 0 || len(l.Broken(Tree)) != 0 {
		t.Errorf("absent after the commit: %v, broken: %v", absent, l.Broken(Tree))
	}
	release(t, l)
	wantClean(t, s, broken)
}

// A commit without a look before, as of a repair, does not leave a layer in doubt either.
func TestCommitReplacesWhatIsInDoubt(t *testing.T) {
	s := newStore(t, testLimits)
	blob := archive(specimen...)
	id := addLayer(t, s, blob).DiffID
	flipByte(t, s, id)
	crash(t, s)
	addLayer(t, s, blob)
	wantClean(t, s, id)
}

// A copy of a disk that is in use is that of a disk whose machine has gone down.
func TestACopyOfAnOpenStoreIsInDoubt(t *testing.T) {
	for _, closed := range []bool{true, false} {
		s := newStore(t, testLimits)
		id := addLayer(t, s, archive(specimen...)).DiffID
		flipByte(t, s, id)
		if closed {
			closeStore(t, s)
		}
		mnt := mountNew(t, "tmpfs", "16M")
		run(t, "cp", "-a", s.Dir(), mnt)
		theCopy := openStore(t, filepath.Join(mnt, filepath.Base(s.Dir())), testLimits)
		l := newLease(t, theCopy)
		if absent := hold(t, l, id); (len(absent) == 0) != closed {
			t.Errorf("absent is %v; the original was closed: %v", absent, closed)
		}
		release(t, l)
		closeStore(t, theCopy)
	}
}

func TestVerifyingEndsWithItsContext(t *testing.T) {
	s := newStore(t, testLimits)
	id := addLayer(t, s, archive(specimen...)).DiffID
	crash(t, s)
	l := newLease(t, s)
	defer release(t, l)
	ctx, cancel := context.WithCancel(context.Background())
	restore := disk.Intercept(func(step disk.Step) error {
		if strings.HasSuffix(step.Path, splitFile) {
			cancel()
		}
		return nil
	})
	defer restore()
	if absent, err := l.Hold(ctx, Tree, []image.Digest{id}); ctx.Err() == nil || err == nil {
		t.Errorf("absent: %v, %v", absent, err)
	}
}

// Verifying takes long, so nobody waits for it who sweeps or commits.
func TestVerifyingKeepsNobodyOut(t *testing.T) {
	s := newStore(t, testLimits)
	id := addLayer(t, s, archive(specimen...)).DiffID
	crash(t, s)
	l := newLease(t, s)
	defer release(t, l)
	other := openStore(t, s.Dir(), testLimits)
	var once sync.Once
	restore := disk.Intercept(func(step disk.Step) error {
		if strings.HasSuffix(step.Path, splitFile) {
			once.Do(func() {
				if swept := sweep(t, other); len(swept) != 0 {
					t.Errorf("swept %v, which is being verified", swept)
				}
			})
		}
		return nil
	})
	defer restore()
	if absent := hold(t, l, id); len(absent) != 0 {
		t.Errorf("absent is %v", absent)
	}
	once.Do(func() { t.Error("the layer was not verified") })
}

func TestCloseMayBeRepeatedAndUndone(t *testing.T) {
	s := newStore(t, testLimits)
	closeStore(t, s) // before it was used
	id := addLayer(t, s, archive(specimen...)).DiffID
	closeStore(t, s)
	closeStore(t, s)
	wantSession(t, s, false)
	l := newLease(t, s)
	if absent := hold(t, l, id); len(absent) != 0 {
		t.Errorf("absent is %v", absent)
	}
	release(t, l)
	wantSession(t, s, true)
	closeStore(t, s)
	wantSession(t, s, false)
}

// Who comes when another goes must not meet it half gone.
func TestCloseEndsUnderTheLockOfTheSession(t *testing.T) {
	s := newStore(t, testLimits)
	release(t, newLease(t, s))
	var closed []string
	restore := disk.Intercept(func(step disk.Step) error {
		if step.Op == "close" {
			closed = append(closed, step.Path)
		}
		return nil
	})
	closeStore(t, s)
	restore()
	if want := []string{s.openFile(), s.sessionFile()}; !slices.Equal(closed, want) {
		t.Errorf("closed were %q, want %q", closed, want)
	}
}

func wantSession(t *testing.T, s *Store, open bool) {
	t.Helper()
	f, err := disk.Open(s.sessionFile())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if st := readSession(f); st.epoch == "" || st.open != open {
		t.Errorf("the session is %+v, want open: %v", st, open)
	}
}

// Whoever only looks needs not say that the store is open.
func TestALookLeavesTheSessionAlone(t *testing.T) {
	s := newStore(t, testLimits)
	id := addLayer(t, s, archive(specimen...)).DiffID
	closeStore(t, s)
	before := withTimes(t, s.Dir())
	reader := openStore(t, s.Dir(), testLimits)
	if ids, err := reader.List(); err != nil || len(ids) != 1 {
		t.Errorf("listed %v, %v", ids, err)
	}
	if _, err := reader.Info(id, Tree); err != nil {
		t.Error(err)
	}
	closeStore(t, reader)
	wantTree(t, withTimes(t, s.Dir()), before)
}

// A process in another mount namespace sees the same disk by another mount.
func TestTheStoreIsOpenInAnotherMountNamespace(t *testing.T) {
	testrig.RequireTools(t, "unshare")
	s := newStore(t, testLimits)
	id := addLayer(t, s, archive(specimen...)).DiffID
	flipByte(t, s, id)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other := exec.Command("unshare", "--mount", self)
	other.Env = append(os.Environ(), roleEnv+"=come and go", storeEnv+"="+s.Dir())
	if out, err := other.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	l := newLease(t, s)
	defer release(t, l)
	if absent := hold(t, l, id); len(absent) != 0 {
		t.Errorf("absent is %v", absent)
	}
	wantSession(t, s, true)
}

// Processes come and go all the time; none of them disturbs another's.
func TestManyProcessesOpenAndCloseAtOnce(t *testing.T) {
	s := newStore(t, testLimits)
	id := addLayer(t, s, archive(specimen...)).DiffID
	flipByte(t, s, id)
	closeStore(t, s)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), roleEnv+"=come and go", storeEnv+"="+s.Dir())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	all.Wait()
	wantSession(t, s, false)
	if !trusts(t, s, id) {
		t.Error("the layer came into doubt")
	}
}

// comeAndGo is what many a short-lived process does.
func comeAndGo(s *Store) error {
	for range 20 {
		ids, err := s.List()
		if err != nil {
			return err
		}
		l, err := s.Lease(context.Background())
		if err != nil {
			return err
		}
		absent, err := l.Hold(context.Background(), Tree, ids)
		if err == nil && len(absent) > 0 {
			err = fmt.Errorf("absent: %v, broken: %v", absent, l.Broken(Tree))
		}
		if err := cmp.Or(err, l.Release(), s.Close()); err != nil {
			return err
		}
	}
	return nil
}

func BenchmarkLeaseAndHold(b *testing.B) {
	s := newStore(b, testLimits)
	ids := []image.Digest{addLayer(b, s, archive(specimen...)).DiffID, addLayer(b, s, archive(file("a", ""))).DiffID}
	for b.Loop() {
		l := newLease(b, s)
		if absent, err := l.Hold(context.Background(), Tree, ids); err != nil || len(absent) != 0 {
			b.Fatal(absent, err)
		}
		release(b, l)
	}
}

func BenchmarkSession(b *testing.B) {
	s := newStore(b, testLimits)
	for b.Loop() {
		if _, err := s.epoch(context.Background()); err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
