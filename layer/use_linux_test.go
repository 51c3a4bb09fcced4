package layer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"berth/image"
)

func TestUse(t *testing.T) {
	s := newStore(t, testLimits)
	one, two := addLayer(t, s, archive(file("a", "1"))), addLayer(t, s, archive(file("a", "2")))
	recorded := 0
	record := func() error {
		recorded++
		return nil
	}
	use := func(there bool, ids ...image.Digest) {
		t.Helper()
		recorded = 0
		infos, err := s.Use(t.Context(), Tree, ids, record)
		if err != nil || (infos != nil) != there || (recorded == 1) != there {
			t.Fatalf("Use returns %v, %v and has recorded %d times; want it there: %v", infos, err, recorded, there)
		}
		for i, info := range infos {
			if info.DiffID != ids[i] {
				t.Errorf("layer %d is %s, want %s", i, info.DiffID, ids[i])
			}
		}
	}
	for range 2 { // found out, and remembered
		use(true, two.DiffID, one.DiffID)
	}
	wantNothingIn(t, s.leases())
	use(false, one.DiffID, image.DigestOf(nil))

	failure := errors.New("the record cannot be written")
	record = func() error { return failure }
	if infos, err := s.Use(t.Context(), Tree, []image.Digest{one.DiffID}, record); infos != nil || !errors.Is(err, failure) {
		t.Errorf("Use returns %v, %v", infos, err)
	}

	// In doubt.
	other := openStore(t, s.Dir(), testLimits)
	if err := os.Remove(filepath.Join(s.formDir(two.DiffID, Tree), epochFile)); err != nil {
		t.Fatal(err)
	}
	record = func() error {
		t.Error("a layer in doubt is recorded")
		return nil
	}
	if infos, err := other.Use(t.Context(), Tree, []image.Digest{one.DiffID, two.DiffID}, record); infos != nil || err != nil {
		t.Errorf("Use returns %v, %v", infos, err)
	}
}

// While somebody records, no sweep decides, in whichever process; and none takes what is
// recorded from then on.
func TestNoSweepDecidesWhileSomebodyRecords(t *testing.T) {
	s := newStore(t, testLimits)
	other := openStore(t, s.Dir(), testLimits)
	id := addLayer(t, s, archive(file("a", "content"))).DiffID
	used := make(map[image.Digest]bool)
	decide := func(map[image.Digest]bool) (Decision, error) { return Decision{Keep: used}, nil }
	infos, err := s.Use(t.Context(), Tree, []image.Digest{id}, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if swept, err := other.Sweep(ctx, decide); !errors.Is(err, context.DeadlineExceeded) || len(swept.Layers) > 0 {
			t.Errorf("a sweep took %v, %v", swept, err)
		}
		used[id] = true
		return nil
	})
	if err != nil || len(infos) != 1 {
		t.Fatalf("Use returns %v, %v", infos, err)
	}
	if swept, err := other.Sweep(t.Context(), decide); err != nil || len(swept.Layers) > 0 {
		t.Errorf("a sweep took %v, %v", swept, err)
	}
	delete(used, id)
	if swept, err := other.Sweep(t.Context(), decide); err != nil || len(swept.Layers) != 1 {
		t.Errorf("a sweep took %v, %v", swept, err)
	}
	infos, err = s.Use(t.Context(), Tree, []image.Digest{id}, func() error { panic("the layer is gone") })
	if infos != nil || err != nil {
		t.Errorf("Use returns %v, %v", infos, err)
	}
}
