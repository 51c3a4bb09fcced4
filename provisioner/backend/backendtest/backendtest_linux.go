// Package backendtest is the conformance suite of the backends: what every one of them
// must do, whatever its means. A new backend is done when Run is green for it.
//
// Each check has a place of its own on a file system made for the test; after each,
// the place must be as if nothing had happened. The TestMain of the package that calls
// Run is mounttest.Main.
package backendtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/container"
	"berth/internal/mount/mounttest"
	"berth/provisioner/backend"
	"berth/state"
)

// Traits is in what backends may differ.
type Traits struct {
	Writable bool // root filesystems can be written
	Mounts   bool // root filesystems are mounts
	// MaxLayers is how many layers the backend can stack; 0: any number. One that
	// stacks a single layer refuses whiteouts.
	MaxLayers int
	// ReservedNames says that names which begin with .wh. cannot be shown. No layer of the
	// layer store has any.
	ReservedNames bool
	// OfTars says that layers are an index over a tar: none has a socket, and stat(2) counts
	// holes as blocks.
	OfTars bool
	// Shared is a directory that all backends of the factory use. With no root filesystem
	// there is nothing in it.
	Shared string
	// FileSystem is the type of the file system to try the backend on, by default ext4.
	FileSystem string
}

// stacks reports whether the backend can stack the layers.
func (t Traits) stacks(layers []Tree) bool {
	return t.MaxLayers != 1 || len(layers) == 1 && !layers[0].whiteouts()
}

// check is one rule that a backend must obey.
type check struct {
	rule    string
	applies func(Traits) bool // nil: always
	run     func(*testing.T, *suite)
}

func writable(t Traits) bool { return t.Writable }
func readOnly(t Traits) bool { return !t.Writable }
func mounts(t Traits) bool   { return t.Mounts }

const usualFileSystem = "ext4"

// Run checks the backends that factory returns.
func Run(t *testing.T, factory func() backend.Backend, traits Traits) {
	if traits.FileSystem == "" {
		traits.FileSystem = usualFileSystem
	}
	run(t, factory, traits)
	if _, ok := factory().(backend.Viewer); ok {
		traits.Writable = false
		t.Run("read-only", func(t *testing.T) {
			run(t, func() backend.Backend { return viewer{factory()} }, traits)
		})
	}
}

func run(t *testing.T, factory func() backend.Backend, traits Traits) {
	s := &suite{Traits: traits, factory: factory, dir: mounttest.FileSystem(t, traits.FileSystem)}
	for _, checks := range [][]check{stacking, attributes, writing, destroying, provisioning, faults} {
		for _, c := range checks {
			if c.applies == nil || c.applies(traits) {
				t.Run(c.rule, func(t *testing.T) { c.run(t, s) })
			}
		}
	}
	t.Run("for a user namespace", s.checkMap)
}

// viewer makes every root filesystem read-only.
type viewer struct {
	backend.Backend
}

func (v viewer) Ephemeral(string, string) []string { return nil }

func (v viewer) Provision(ctx context.Context, layers []backend.Layer, rootfs, dir string) error {
	return v.ProvisionMapped(ctx, layers, rootfs, dir, container.IDRange{})
}

func (v viewer) ProvisionMapped(ctx context.Context, layers []backend.Layer, rootfs, dir string, ids container.IDRange) error {
	return v.Backend.(backend.Viewer).ProvisionReadOnly(ctx, layers, rootfs, dir, ids)
}

// suite is a backend under test.
type suite struct {
	Traits
	factory func() backend.Backend
	dir     string // the root of a file system
	places  atomic.Int32
	ids     container.IDRange // of the containers
}

// place is where one check works: layers, and the directory of the backend.
//
//	<dir>/layers/<number>
//	<dir>/backend/rootfses/<id>
type place struct {
	t       *testing.T
	backend backend.Backend
	ids     container.IDRange
	dir     string
	shared  string
	written int // layers
}

// place makes a place. At the end of the test nothing may be left in it.
func (s *suite) place(t *testing.T) *place {
	t.Helper()
	return s.placeAt(t, filepath.Join(s.dir, fmt.Sprint("place-", s.places.Add(1))))
}

// placeAt makes a place in dir, which does not exist.
func (s *suite) placeAt(t *testing.T, dir string) *place {
	t.Helper()
	p := &place{t: t, backend: s.factory(), ids: s.ids, dir: dir, shared: s.Shared}
	for _, dir := range []string{filepath.Join(dir, "layers"), p.backendDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(p.nothingLeft)
	return p
}

func (p *place) backendDir() string { return filepath.Join(p.dir, "backend") }

func (p *place) rootfs(id string) string { return state.Rootfs(p.backendDir(), id) }

// layers writes layers.
func (p *place) layers(trees ...Tree) (layers []backend.Layer) {
	p.t.Helper()
	for _, tree := range trees {
		p.written++
		layers = append(layers, tree.WriteAs(p.t, p.backend.Form(), filepath.Join(p.dir, "layers", fmt.Sprint(p.written))))
	}
	return layers
}

// provision makes a root filesystem, and destroys it at the end of the test.
func (p *place) provision(layers ...backend.Layer) (rootfs string) {
	p.t.Helper()
	rootfs, _ = p.provisionAs("rootfs", layers...)
	return rootfs
}

func (p *place) provisionAs(id string, layers ...backend.Layer) (rootfs string, ephemeral []string) {
	p.t.Helper()
	rootfs = p.rootfs(id)
	p.t.Cleanup(func() {
		if _, err := p.backend.Destroy(context.Background(), rootfs, p.backendDir()); err != nil {
			p.t.Errorf("destroy at the end of the test: %v", err)
		}
	})
	if err := p.backend.Provision(context.Background(), layers, rootfs, p.backendDir()); err != nil {
		p.t.Fatal(err)
	}
	return rootfs, p.backend.Ephemeral(rootfs, p.backendDir())
}

// destroy destroys a root filesystem and checks what Destroy reports.
func (p *place) destroy(rootfs string, existed bool) {
	p.t.Helper()
	got, err := p.backend.Destroy(context.Background(), rootfs, p.backendDir())
	if err != nil {
		p.t.Fatal(err)
	}
	if got != existed {
		p.t.Errorf("Destroy returned %v, want %v", got, existed)
	}
}

// nothingLeft checks that all root filesystems are destroyed.
func (p *place) nothingLeft() {
	p.t.Helper()
	if points := p.mounts(); len(points) > 0 {
		p.t.Errorf("mounts are left: %q", points)
	}
	if p.shared != "" {
		if names, err := readNames(p.shared); len(names) > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
			p.t.Errorf("left in the directory that root filesystems share is %q, %v", names, err)
		}
	}
	err := filepath.WalkDir(p.backendDir(), func(path string, _ os.DirEntry, err error) error {
		inner := strings.TrimPrefix(path, p.backendDir())
		if err == nil && strings.Count(inner, "/") > 1 {
			p.t.Errorf("%q is left in the directory of the backend", inner)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Error(err)
	}
}

// mounts returns where something is mounted.
func (p *place) mounts() (points []string) {
	p.t.Helper()
	points, err := mounttest.Points(p.backendDir())
	if err == nil && p.shared != "" {
		var shared []string
		shared, err = mounttest.Points(p.shared)
		points = append(points, shared...)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return points
}

// shows checks that a root filesystem is what its layers should make.
func (p *place) shows(rootfs string, want listing) {
	p.t.Helper()
	if diff := cmp.Diff(want, readAs(p.t, rootfs, p.ids)); diff != "" {
		p.t.Errorf("the root filesystem differs (-want +got):\n%s", diff)
	}
}

// unchanged returns a function that checks that the layers are as they are now.
func (p *place) unchanged() func() {
	p.t.Helper()
	layers := filepath.Join(p.dir, "layers")
	before := readTree(p.t, layers, true)
	return func() {
		p.t.Helper()
		if diff := cmp.Diff(before, readTree(p.t, layers, true)); diff != "" {
			p.t.Errorf("a layer has changed (-before +after):\n%s", diff)
		}
	}
}
