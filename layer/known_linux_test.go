package layer

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"berth/container"
	"berth/image"
)

// What is remembered of a layer goes with it, also when another process removes it or
// puts another copy in its place.
func TestWhatIsKnownOfALayerEndsWithIt(t *testing.T) {
	s := newStore(t, testLimits)
	other := openStore(t, s.Dir(), testLimits)
	blob := archive(dir("a"), file("a/b", "content"))
	want := addLayer(t, s, blob)
	wantKnown := func(there bool) {
		t.Helper()
		l := newLease(t, s)
		defer release(t, l)
		absent, err := l.Hold(t.Context(), Tree, []image.Digest{want.DiffID})
		if err != nil || (len(absent) == 0) != there {
			t.Errorf("absent: %v, %v; want it there: %v", absent, err, there)
		}
		switch info, err := s.Info(want.DiffID, Tree); {
		case there && (err != nil || !info.equal(want)):
			t.Errorf("the record is %+v, %v; want %+v", info, err, want)
		case !there && !errors.Is(err, container.ErrNotFound):
			t.Errorf("the record is %+v, %v; want that there is none", info, err)
		}
	}
	for range 2 { // found out, and remembered
		wantKnown(true)
	}
	sweep(t, other)
	wantKnown(false)
	addLayer(t, other, blob)
	for range 2 {
		wantKnown(true)
	}

	// Another copy, in doubt and broken.
	sweep(t, other)
	addLayer(t, other, blob)
	form := s.formDir(want.DiffID, Tree)
	if err := errors.Join(os.Remove(filepath.Join(form, epochFile)), os.Remove(filepath.Join(form, contentDir, "a", "b"))); err != nil {
		t.Fatal(err)
	}
	l := newLease(t, s)
	defer release(t, l)
	if absent, err := l.Hold(t.Context(), Tree, []image.Digest{want.DiffID}); err != nil || len(absent) != 1 {
		t.Errorf("absent: %v, %v; want the broken layer", absent, err)
	}
}

func TestLayersAreRememberedWithinASession(t *testing.T) {
	s := newStore(t, testLimits)
	id := addLayer(t, s, archive(file("a", "content"))).DiffID
	l := newLease(t, s)
	defer release(t, l)
	if absent, err := l.Hold(t.Context(), Tree, []image.Digest{id}); err != nil || len(absent) > 0 {
		t.Fatalf("absent: %v, %v", absent, err)
	}
	if _, err := s.Info(id, Tree); err != nil {
		t.Fatal(err)
	}
	form := s.formDir(id, Tree)
	if f, err := s.known.of(form); err != nil || !f.present || f.info == nil {
		t.Errorf("known is %+v, %v", f, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err := s.known.of(form); err != nil || f.present {
		t.Errorf("known after the session is %+v, %v", f, err)
	}
}
