package storetest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "berth/api/v1"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store"
)

// Pulled is what a store had for a moment.
type Pulled struct {
	store.Record
	*image.Config
	Fetched int // layers that were not there before
}

// Pull gets an image, looks at its layers and releases it; nothing but the image is left.
func Pull(t testing.TB, s store.Store, layers *layer.Store, img *v1.Image) Pulled {
	t.Helper()
	found, err := s.Get(t.Context(), img, layer.Tree)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	for _, id := range found.Layers {
		problems, err := layers.Check(t.Context(), id, layer.Tree)
		if err != nil || len(problems) > 0 {
			t.Errorf("layer %s: %v, %v", id, problems, err)
		}
	}
	pulled := Pulled{Record: found.Record, Config: found.Config}
	if found.Pull != nil {
		pulled.Fetched, _ = found.Pull.Fetched()
	}
	if err := found.Release(); err != nil {
		t.Errorf("release: %v", err)
	}
	WantNoTrace(t, layers)
	return pulled
}

// Fails gets an image that cannot be had, says why, and proves that nothing is left.
func Fails(t testing.TB, s store.Store, layers *layer.Store, img *v1.Image) error {
	t.Helper()
	found, err := s.Get(t.Context(), img, layer.Tree)
	if err == nil {
		t.Fatalf("get: no error, but %+v and %v", found.Record, found.Release())
	}
	WantNoTrace(t, layers)
	return err
}

// WantNoTrace says that nobody is getting layers, and that nothing of it is left.
func WantNoTrace(t testing.TB, layers *layer.Store) {
	t.Helper()
	for _, sub := range []string{"staging", "leases"} {
		left, err := os.ReadDir(filepath.Join(layers.Dir(), sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range left {
			t.Errorf("left behind: %s/%s", sub, e.Name())
		}
	}
}

// WantNothing says that a store has neither images nor layers.
func WantNothing(t testing.TB, s store.Store, layers *layer.Store) {
	t.Helper()
	recorded, err := s.List(t.Context())
	if err != nil || len(recorded) > 0 {
		t.Errorf("recorded: %v, %v", recorded, err)
	}
	visible, err := layers.List()
	if err != nil || len(visible) > 0 {
		t.Errorf("visible: %v, %v", visible, err)
	}
}

// WantError compares an error's class (nil: any) and text.
func WantError(t testing.TB, err, class error, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if class != nil && !errors.Is(err, class) {
		t.Errorf("error is %q, want the class %q", err, class)
	}
	for _, words := range says {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("error is %q, want it to say %q", err, words)
		}
	}
}
