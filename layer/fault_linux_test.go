package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"berth/image"
	"berth/internal/atomicfile"
	"berth/internal/disk"
)

// faults are what a disk, or a process, may lack.
var faults = []error{unix.EIO, unix.ENOSPC, unix.EDQUOT, unix.EMFILE, unix.EINTR, disk.ErrShort}

// The layers of the operations that are made to fail.
var (
	smallSpecimen = archive(dir("d"), file("d/file", "content").xattr("user.a", "b"), file("d/.wh.gone", ""),
		hardLink("d/hard", "d/file"), symlink("soft", "d/file"), sparse("sparse", 128<<10, "4096,5", "holes"))
	plain = archive(file("etc/plain", "x"))
	other = archive(file("other", "x"))
)

// operation is one whose every step is made to fail.
type operation struct {
	name string
	// prepare makes a store fit for it, the layers that it needs included.
	prepare func(t *testing.T, s *Store)
	run     func(s *Store) error
	// broken is a layer that is so until it has succeeded.
	broken []byte
	// done says whether a run has done what it should.
	done func(t *testing.T, s *Store)
}

var operations = []operation{
	{
		name:    "pull",
		prepare: func(t *testing.T, s *Store) { addLayer(t, s, other) },
		run:     func(s *Store) error { return getAll(s, Tree, smallSpecimen, plain, other) },
		done:    func(t *testing.T, s *Store) { wantLayers(t, s, smallSpecimen, plain, other) },
	},
	{
		name:    "pull in the form erofs",
		prepare: func(*testing.T, *Store) {},
		run:     func(s *Store) error { return getAll(s, EROFS, smallSpecimen, plain) },
		done:    func(t *testing.T, s *Store) { wantLayers(t, s, smallSpecimen, plain) },
	},
	{
		name:    "conversion",
		prepare: func(t *testing.T, s *Store) { addLayer(t, s, smallSpecimen) },
		run:     func(s *Store) error { return convertAll(s, EROFS, smallSpecimen) },
		done: func(t *testing.T, s *Store) {
			wantLayers(t, s, smallSpecimen)
			if forms, err := s.Forms(image.DigestOf(smallSpecimen)); err != nil || len(forms) != 2 {
				t.Errorf("the layer has the forms %v, %v", forms, err)
			}
		},
	},
	{
		name: "first use after an unclean shutdown",
		prepare: func(t *testing.T, s *Store) {
			for _, blob := range [][]byte{smallSpecimen, plain} {
				addLayer(t, s, blob)
			}
			newDamage(t, s, image.DigestOf(smallSpecimen)).write("fs/d/file", "changed")
			crash(t, s)
		},
		broken: smallSpecimen,
		run:    func(s *Store) error { return getAll(s, Tree, smallSpecimen, plain) },
		done:   func(t *testing.T, s *Store) { wantLayers(t, s, smallSpecimen, plain) },
	},
	{
		name: "repair",
		prepare: func(t *testing.T, s *Store) {
			addLayer(t, s, plain)
			addLayer(t, s, smallSpecimen)
			d := newDamage(t, s, image.DigestOf(smallSpecimen))
			d.remove("fs/d/file")
			d.remove(epochFile)
		},
		broken: smallSpecimen,
		run:    func(s *Store) error { return mend(s, smallSpecimen) },
		done:   func(t *testing.T, s *Store) { wantLayers(t, s, smallSpecimen, plain) },
	},
	{
		name: "sweep",
		prepare: func(t *testing.T, s *Store) {
			for _, blob := range [][]byte{smallSpecimen, plain, other} {
				addLayer(t, s, blob)
			}
			supersede(t, s, other)
		},
		run: func(s *Store) error {
			_, err := s.Sweep(context.Background(), decision(Decision{
				Keep: set(image.DigestOf(other)), Settle: func() error { return atomicfile.SyncDir(s.Dir()) },
			}))
			return err
		},
		done: func(t *testing.T, s *Store) {
			wantLayers(t, s, other)
			if left := superseded(t, s, image.DigestOf(other)); len(left) != 0 {
				t.Errorf("left are %v", left)
			}
		},
	},
}

// getAll gets layers as an image store does.
func getAll(s *Store, form Form, blobs ...[]byte) (err error) {
	ctx := context.Background()
	l, err := s.Lease(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	var ids []image.Digest
	for _, blob := range blobs {
		ids = append(ids, image.DigestOf(blob))
	}
	absent, err := l.Hold(ctx, form, ids)
	if err != nil {
		return err
	}
	for i, id := range ids {
		if !slices.Contains(absent, id) {
			continue
		}
		if _, err := l.Unpack(ctx, form, id, bytes.NewReader(blobs[i])); err != nil {
			return err
		}
	}
	return l.Commit(ctx)
}

// convertAll converts a layer unless it has the form.
func convertAll(s *Store, form Form, blob []byte) (err error) {
	ctx := context.Background()
	l, err := s.Lease(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	absent, err := l.Hold(ctx, form, []image.Digest{image.DigestOf(blob)})
	if err != nil {
		return err
	}
	rest, err := l.Convert(ctx, form, absent)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("cannot be converted: %v", rest)
	}
	if err != nil {
		return err
	}
	return l.Commit(ctx)
}

func mend(s *Store, blob []byte) (err error) {
	ctx := context.Background()
	l, err := s.Lease(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Release()) }()
	id := image.DigestOf(blob)
	if err := l.Keep(ctx, id); err != nil {
		return err
	}
	l.Supersede(Tree, id)
	if _, err := l.Unpack(ctx, Tree, id, bytes.NewReader(blob)); err != nil {
		return err
	}
	return l.Commit(ctx)
}

// wantLayers says that these layers are visible and whole, and no others.
func wantLayers(t *testing.T, s *Store, blobs ...[]byte) {
	t.Helper()
	var want []image.Digest
	for _, blob := range blobs {
		want = append(want, image.DigestOf(blob))
		wantClean(t, s, image.DigestOf(blob))
	}
	slices.Sort(want)
	if ids, err := s.List(); err != nil || !slices.Equal(ids, want) {
		t.Errorf("listed %v, %v, want %v", ids, err, want)
	}
}

// Every step of every operation fails once, in every way. Either the operation says so,
// or it has done all that it should; and nothing that it leaves keeps the next from it.
func TestEveryStepMayFail(t *testing.T) {
	mnt := mountNew(t, "tmpfs", "256M")
	for _, op := range operations {
		for _, fault := range faults {
			t.Run(fmt.Sprintf("%s/%v", op.name, fault), func(t *testing.T) {
				reported, n := 0, int64(1)
				for ; ; n++ {
					dir := filepath.Join(mnt, fmt.Sprintf("%s-%v-%d", op.name, fault, n))
					ran, err := failAt(t, op, dir, n, fault)
					if err != nil {
						reported++
					}
					if !ran || t.Failed() {
						break
					}
				}
				t.Logf("%d steps, %d failures reported", n-1, reported)
				if fault != unix.EINTR && reported == 0 {
					t.Error("no failure was reported")
				}
			})
		}
	}
}

// failAt lets the n-th step fail. It reports whether there was one, and the outcome.
func failAt(t *testing.T, op operation, dir string, n int64, fault error) (ran bool, outcome error) {
	t.Helper()
	s := openStore(t, dir, testLimits)
	op.prepare(t, s)
	var steps atomic.Int64
	var at disk.Step
	restore := disk.Intercept(func(step disk.Step) error {
		if steps.Add(1) == n {
			at = step
			return fault
		}
		return nil
	})
	outcome = op.run(s)
	restore()
	ran = steps.Load() >= n
	switch {
	case outcome == nil:
		op.done(t, s)
	case ran:
		wantWholeBut(t, s, op.broken)
	default:
		t.Errorf("without a fault: %v", outcome)
	}
	if err := op.run(s); err != nil {
		t.Errorf("again: %v", err)
	}
	op.done(t, s)
	recoverStore(t, s)
	wantNothingIn(t, s.staging())
	wantNothingIn(t, s.leases())
	if unknown, err := s.Unknown(); err != nil || len(unknown) > 0 {
		t.Errorf("unknown are %q, %v", unknown, err)
	}
	closeStore(t, s)
	wantSession(t, s, false)
	if t.Failed() {
		t.Logf("step %d was %+v, its fault %v, the outcome %v", n, at, fault, outcome)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
	return ran, outcome
}

// wantWholeBut says that all visible layers are whole, but for one that may still be as
// broken as it was, when it counts as absent.
func wantWholeBut(t *testing.T, s *Store, broken []byte) {
	t.Helper()
	ids, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if id != image.DigestOf(broken) {
			wantClean(t, s, id)
		} else if len(check(t, s, id)) > 0 && trusts(t, s, id) {
			t.Errorf("%s is broken and trusted", id)
		}
	}
}

// What this process lacks is no fault of the layer.
func TestACheckWithoutDescriptorsFindsNothingBroken(t *testing.T) {
	s := newStore(t, testLimits)
	id := addLayer(t, s, smallSpecimen).DiffID
	for _, form := range []Form{Tree, EROFS} {
		if err := convertAll(s, form, smallSpecimen); err != nil {
			t.Fatal(err)
		}
		checkWithoutDescriptors(t, s, id, form)
	}
}

func checkWithoutDescriptors(t *testing.T, s *Store, id image.Digest, form Form) {
	refused := 0
	for n, steps := 1, 1; steps >= n; n++ {
		steps = 0
		restore := disk.Intercept(func(disk.Step) error {
			if steps++; steps == n {
				return unix.EMFILE
			}
			return nil
		})
		found, err := s.Check(context.Background(), id, form)
		restore()
		if len(found) > 0 {
			t.Errorf("step %d: found %v", n, found)
		}
		if errors.Is(err, unix.EMFILE) {
			refused++
		} else if err != nil {
			t.Errorf("step %d: %v", n, err)
		}
	}
	if refused == 0 {
		t.Error("no check was refused")
	}
}
