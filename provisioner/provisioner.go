// Package provisioner gives containers their root filesystems: it asks a store for
// the layers of an image and a backend to stack them, and it remembers which layers
// are in use.
//
// A container may have several root filesystems: its own and one for each image
// volume. They are recorded in the file `layers` of the container's directory before
// they are made, so that whatever interrupts the provisioner, Destroy finds them and
// no sweep removes their layers.
//
// Containers nest: the directory of a child lies in that of its parent, and Destroy
// takes the children first.
package provisioner

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/atomicfile"
	"berth/layer"
	"berth/provisioner/backend"
	"berth/provisioner/store"
	"berth/state"
)

// Options are what a Provisioner is made of.
type Options struct {
	Paths    state.Provisioner
	Layers   *layer.Store
	Stores   map[v1.Image_Type]store.Store
	Backends map[string]backend.Backend
	// Backend is the name of the one that provisions; the others destroy what they
	// provisioned earlier.
	Backend string
}

// Provisioner implements the life of root filesystems. Its methods may be called
// concurrently; calls for one container are serialised. Several processes may work
// in one directory as long as they work on different containers.
type Provisioner struct {
	Options

	mu   sync.Mutex
	busy map[container.ID]*work
}

// work is what goes on for one container.
type work struct {
	done   chan struct{}
	cancel context.CancelCauseFunc
}

// Rootfs is a provisioned root filesystem.
type Rootfs struct {
	Path string `json:"rootfs"`
	// Ephemeral are further directories with what the container writes; they count
	// towards its disk quota.
	Ephemeral []string `json:"ephemeral_volumes,omitempty"`
	// Image is what the root filesystem was made of, Config its configuration.
	Image  store.Record  `json:"image"`
	Config *image.Config `json:"config"`
}

// errDestroyed ends a Provision whose container is being destroyed.
var errDestroyed = errors.New("the container is being destroyed")

// New returns a provisioner and makes its directory.
func New(o Options) (*Provisioner, error) {
	if _, ok := o.Backends[o.Backend]; !ok {
		return nil, fmt.Errorf("provisioner backend %q: %w", o.Backend, container.ErrNotFound)
	}
	if err := os.MkdirAll(o.Paths.Containers(), 0o700); err != nil {
		return nil, fmt.Errorf("open provisioner: %w", err)
	}
	return &Provisioner{Options: o, busy: make(map[container.ID]*work)}, nil
}

// Provision makes a root filesystem of img for the container, besides those it may
// have already.
//
// A nil error proves that the root filesystem is at Path, and that its layers stay
// until Destroy. After an error the caller owes a Destroy. Errors are those of the
// store and of the backend; ErrNotSupported for a type of image without a store.
func (p *Provisioner) Provision(ctx context.Context, id container.ID, img *v1.Image) (*Rootfs, error) {
	ctx, end, err := p.begin(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("provision %s: %w", id, err)
	}
	defer end()
	from, ok := p.Stores[img.GetType()]
	if !ok {
		return nil, fmt.Errorf("provision %s: image type %s: %w: it is not among --image_providers", id, img.GetType(), container.ErrNotSupported)
	}
	to := p.Backends[p.Backend]
	found, err := from.Get(ctx, img, to.Form())
	if err != nil {
		return nil, err
	}
	defer found.Release()
	return p.stack(ctx, id, found, to)
}

func (p *Provisioner) stack(ctx context.Context, id container.ID, found *store.Image, to backend.Backend) (*Rootfs, error) {
	layers, err := p.backendLayers(found.Layers, to.Form())
	if err != nil {
		return nil, fmt.Errorf("provision %s: %w", id, err)
	}
	dir := p.Paths.BackendDir(id, p.Backend)
	rootfsID := rand.Text()
	if err := p.record(id, rootfsID, found); err != nil {
		return nil, fmt.Errorf("provision %s: record its layers: %w", id, err)
	}
	path := state.Rootfs(dir, rootfsID)
	ephemeral, err := to.Provision(ctx, layers, path, dir)
	if err != nil {
		return nil, fmt.Errorf("provision %s: %w", id, err)
	}
	return &Rootfs{Path: path, Ephemeral: ephemeral, Image: found.Record, Config: found.Config}, nil
}

func (p *Provisioner) backendLayers(ids []image.Digest, form layer.Form) ([]backend.Layer, error) {
	var layers []backend.Layer
	for _, id := range ids {
		info, err := p.Layers.Info(id, form)
		if err != nil {
			return nil, err
		}
		layers = append(layers, backend.Layer{Path: p.Layers.Path(id, form), Whiteouts: info.Whiteouts > 0})
	}
	return layers, nil
}

// begin claims the container; end gives it back. The context ends when a Destroy
// wants the container.
func (p *Provisioner) begin(ctx context.Context, id container.ID) (context.Context, func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.busy[id]; ok {
		return nil, nil, fmt.Errorf("%w: another provisioning is under way", container.ErrFailedPrecondition)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	w := &work{done: make(chan struct{}), cancel: cancel}
	p.busy[id] = w
	return ctx, func() {
		p.mu.Lock()
		delete(p.busy, id)
		p.mu.Unlock()
		cancel(nil)
		close(w.done)
	}, nil
}

// interrupt cancels the provisioning of a container and waits until it has ended.
func (p *Provisioner) interrupt(ctx context.Context, id container.ID) error {
	p.mu.Lock()
	w := p.busy[id]
	p.mu.Unlock()
	if w == nil {
		return nil
	}
	w.cancel(errDestroyed)
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Destroy removes the root filesystems of a container and of the containers nested
// in it, and reports whether there was anything. It cancels a provisioning that is
// under way and waits for it. It may be repeated; open files and busy mounts do not
// stop it.
func (p *Provisioner) Destroy(ctx context.Context, id container.ID) (bool, error) {
	if err := p.interrupt(ctx, id); err != nil {
		return false, fmt.Errorf("destroy the root filesystems of %s: %w", id, err)
	}
	dir := p.Paths.Container(id)
	children, err := state.Children(dir, id)
	if err != nil {
		return false, fmt.Errorf("destroy the root filesystems of %s: %w", id, err)
	}
	for _, child := range children {
		if _, err := p.Destroy(ctx, child); err != nil {
			return true, err
		}
	}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err := p.destroyRootfses(ctx, id); err != nil {
		return true, fmt.Errorf("destroy the root filesystems of %s: %w", id, err)
	}
	// The record goes with the directory, after all that it speaks of.
	if err := removeUnmounted(dir); err != nil {
		return true, fmt.Errorf("destroy the root filesystems of %s: %w", id, err)
	}
	return true, nil
}

func (p *Provisioner) destroyRootfses(ctx context.Context, id container.ID) error {
	backends, err := readNames(p.Paths.Backends(id))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range backends {
		b, ok := p.Backends[name]
		if !ok {
			errs = append(errs, fmt.Errorf("backend %q: %w on this host", name, container.ErrNotSupported))
			continue
		}
		dir := p.Paths.BackendDir(id, name)
		rootfses, err := rootfsIDs(dir)
		errs = append(errs, err)
		for _, rootfs := range rootfses {
			_, err := b.Destroy(ctx, state.Rootfs(dir, rootfs), dir)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// rootfsIDs lists what is in a backend's directory, also what has only scratch.
func rootfsIDs(backendDir string) ([]string, error) {
	rootfses, err := readNames(filepath.Join(backendDir, "rootfses"))
	if err != nil {
		return nil, err
	}
	scratches, err := readNames(filepath.Join(backendDir, "scratch"))
	ids := append(rootfses, scratches...)
	slices.Sort(ids)
	return slices.Compact(ids), err
}

func readNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Recover destroys what containers left that known does not know, also after a
// reboot or a kill at any instruction. known is asked after the containers on disk
// were listed, so that one admitted meanwhile is never taken for a left-over. A
// failure for one container does not keep the others from being recovered.
func (p *Provisioner) Recover(ctx context.Context, known func(container.ID) bool) error {
	errs := []error{p.Layers.Recover(ctx)}
	roots, err := state.Children(p.Paths.Root(), container.ID{})
	if err != nil {
		return fmt.Errorf("recover provisioner: %w", err)
	}
	for _, id := range roots {
		if known(id) {
			continue
		}
		_, err := p.Destroy(ctx, id)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("recover provisioner: %w", err)
	}
	return nil
}

// Sweep removes the layers that no recorded image and no container uses, and returns
// their diffIDs.
func (p *Provisioner) Sweep(ctx context.Context) ([]image.Digest, error) {
	return p.Layers.Sweep(ctx, func() (map[image.Digest]bool, error) {
		keep := make(map[image.Digest]bool)
		for _, s := range p.Stores {
			recorded, err := s.List(ctx)
			if err != nil {
				return nil, err
			}
			for _, rec := range recorded {
				keepAll(keep, rec.Layers)
			}
		}
		uses, err := p.Uses()
		for _, use := range uses {
			keepAll(keep, use.Layers)
		}
		return keep, err
	})
}

func keepAll(keep map[image.Digest]bool, ids []image.Digest) {
	for _, id := range ids {
		keep[id] = true
	}
}

// Use is a root filesystem that exists or is being made.
type Use struct {
	Container container.ID   `json:"-"`
	Backend   string         `json:"backend"`
	Image     string         `json:"image"`
	Layers    []image.Digest `json:"layers"` // base first
}

// layersRecord is the file `layers` of a container.
type layersRecord struct {
	Version  int            `json:"version"` // of this form: 1
	Rootfses map[string]Use `json:"rootfses"`
}

// Uses returns all root filesystems of all containers.
func (p *Provisioner) Uses() ([]Use, error) { return p.usesBelow(container.ID{}) }

func (p *Provisioner) usesBelow(parent container.ID) (uses []Use, err error) {
	dir := p.Paths.Root()
	if !parent.IsZero() {
		dir = p.Paths.Container(parent)
	}
	children, err := state.Children(dir, parent)
	if err != nil {
		return nil, err
	}
	for _, id := range children {
		rec, err := p.readRecord(id)
		if err != nil {
			return nil, err
		}
		for _, use := range rec.Rootfses {
			use.Container = id
			uses = append(uses, use)
		}
		below, err := p.usesBelow(id)
		if err != nil {
			return nil, err
		}
		uses = append(uses, below...)
	}
	return uses, nil
}

// readRecord reads a container's record. A torn one is that of an interrupted launch
// before a power cut: no root filesystem of it is mounted.
func (p *Provisioner) readRecord(id container.ID) (layersRecord, error) {
	rec := layersRecord{Version: 1, Rootfses: make(map[string]Use)}
	data, err := os.ReadFile(p.Paths.Layers(id))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) == 0 {
		return rec, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &rec)
	}
	if err != nil {
		return rec, fmt.Errorf("record of the layers of %s: %w", id, err)
	}
	if rec.Version != 1 {
		return rec, fmt.Errorf("record of the layers of %s, version %d: %w: it was written by a newer berth", id, rec.Version, container.ErrNotSupported)
	}
	return rec, nil
}

// record adds a root filesystem to the container's record.
func (p *Provisioner) record(id container.ID, rootfsID string, found *store.Image) error {
	rec, err := p.readRecord(id)
	if err != nil {
		return err
	}
	rec.Rootfses[rootfsID] = Use{Backend: p.Backend, Image: found.Reference, Layers: found.Layers}
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.Paths.BackendDir(id, p.Backend), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(p.Paths.Layers(id), append(data, '\n'), 0o600, false)
}
