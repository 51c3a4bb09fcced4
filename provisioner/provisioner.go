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
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/internal/metrics"
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
	// Log takes what happens that no caller is told; nil: nobody.
	Log *slog.Logger
	// Metrics may be nil.
	Metrics *metrics.Set
}

// Provisioner implements the life of root filesystems. Its methods may be called
// concurrently; for one container there is one Provision or one Destroy at a time.
// Several processes may work in one directory (claim.go).
type Provisioner struct {
	Options
	count counters

	mu   sync.Mutex
	busy map[container.ID]*claim
	left map[container.ID]error // why a Destroy of this process has left something of it
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

// New returns a provisioner and makes its directory.
func New(o Options) (*Provisioner, error) {
	if _, ok := o.Backends[o.Backend]; !ok {
		return nil, fmt.Errorf("provisioner backend %q: %w", o.Backend, container.ErrNotFound)
	}
	if err := disk.MkdirAll(o.Paths.Containers(), 0o700); err != nil {
		return nil, fmt.Errorf("open provisioner: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Provisioner{Options: o, count: newCounters(o.Metrics),
		busy: make(map[container.ID]*claim), left: make(map[container.ID]error)}, nil
}

// Provision makes a root filesystem of img for the container, besides those it may
// have already.
//
// A nil error proves that the root filesystem is at Path, and that its layers stay
// until Destroy. After an error the caller owes a Destroy. Errors are those of the
// store and of the backend; ErrNotSupported for a type of image without a store;
// ErrFailedPrecondition when another Provision or a Destroy has the container, or what
// an earlier one of the same id has left cannot be removed.
func (p *Provisioner) Provision(ctx context.Context, id container.ID, img *v1.Image) (*Rootfs, error) {
	all, err := p.ProvisionAll(ctx, id, []Wanted{{Image: img}}, container.IDRange{})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// Wanted is a root filesystem to be made.
type Wanted struct {
	Image *v1.Image
	// ReadOnly says that nobody writes to it, so that the backend may leave out what is needed
	// for that. With a backend that cannot it may be writable.
	ReadOnly bool
}

// ProvisionAll does what Provision does for each of several images, in their order, and
// gets them from their stores side by side. The first failure ends it. Of the root
// filesystems the owners are those of the container's range of ids; the range is
// that of all of them, and no business of Destroy. ErrNotSupported, too: the backend, or a
// file system, cannot do that.
func (p *Provisioner) ProvisionAll(ctx context.Context, id container.ID, wanted []Wanted, ids container.IDRange) ([]*Rootfs, error) {
	if err := p.clear(ctx, id); err != nil {
		return nil, fmt.Errorf("provision %s: %w", id, err)
	}
	ctx, end, err := p.begin(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("provision %s: %w", id, err)
	}
	defer end()
	all, err := p.plan(id, wanted, ids)
	if err != nil {
		return nil, fmt.Errorf("provision %s: %w", id, err)
	}
	made, err := p.provision(ctx, id, all)
	if why := context.Cause(ctx); errors.Is(why, errDestroyed) {
		// What failed for it, if anything, says only that it was cancelled.
		return nil, fmt.Errorf("provision %s: %w", id, why)
	}
	return made, err
}

// provisioning is a root filesystem that is being made.
type provisioning struct {
	Wanted
	from  store.Store
	to    backend.Backend
	path  string
	found *store.Image
	// infos are what is known of the layers; nil as long as a lease holds them, and not the
	// container's record.
	infos []layer.Info
}

// plan returns what is to be made. Nothing is there yet.
func (p *Provisioner) plan(id container.ID, wanted []Wanted, ids container.IDRange) ([]*provisioning, error) {
	dir := p.Paths.BackendDir(id, p.Backend)
	all := make([]*provisioning, len(wanted))
	for i, w := range wanted {
		from, err := p.storeOf(w.Image)
		if err != nil {
			return nil, err
		}
		to, err := p.stacker(ids, w.ReadOnly)
		if err != nil {
			return nil, err
		}
		all[i] = &provisioning{Wanted: w, from: from, to: to, path: state.Rootfs(dir, rand.Text())}
	}
	return all, nil
}

func (p *Provisioner) storeOf(img *v1.Image) (store.Store, error) {
	s, ok := p.Stores[img.GetType()]
	if !ok {
		return nil, fmt.Errorf("image type %s: %w: it is not among --image_providers", img.GetType(), container.ErrNotSupported)
	}
	return s, nil
}

func (p *Provisioner) provision(ctx context.Context, id container.ID, all []*provisioning) (_ []*Rootfs, err error) {
	defer func() { err = errors.Join(err, releaseAll(all)) }()
	if err := p.find(ctx, id, all); err != nil {
		return nil, err
	}
	made := make([]*Rootfs, len(all))
	for i, m := range all {
		if pull := m.found.Pull; pull != nil && pull.Warning != "" {
			p.Log.Warn("image "+m.found.Reference, slog.String("warning", pull.Warning))
		}
		if made[i], err = p.stack(ctx, id, m); err != nil {
			return nil, fmt.Errorf("provision %s: %w", id, p.withRemedy(err))
		}
	}
	return made, nil
}

// find finds the images of all. Mostly they are there, and the record of the container is
// what holds their layers from the beginning.
func (p *Provisioner) find(ctx context.Context, id container.ID, all []*provisioning) error {
	var absent []*provisioning
	for _, m := range all {
		var err error
		m.found, m.infos, err = m.from.Use(ctx, m.Image, p.Form(), func(rec store.Record) error {
			err := disk.At("provision: layers are there")
			if err == nil {
				err = p.record(id, m, rec)
			}
			if err != nil {
				return fmt.Errorf("record the layers of %s: %w", id, p.withRemedy(err))
			}
			return nil
		})
		if err != nil {
			return err
		}
		if m.found == nil {
			absent = append(absent, m)
		}
	}
	if len(absent) == 0 {
		return nil
	}
	return getAll(ctx, absent, p.Form())
}

// Form is the form of layers that the backend takes.
func (p *Provisioner) Form() layer.Form { return p.Backends[p.Backend].Form() }

// stacker is the backend for root filesystems of a range.
func (p *Provisioner) stacker(ids container.IDRange, readOnly bool) (backend.Backend, error) {
	to := p.Backends[p.Backend]
	mapper, canMap := to.(backend.Mapper)
	if !ids.IsHost() && !canMap {
		return nil, fmt.Errorf("the backend %s: %w: it cannot make root filesystems for user namespaces: leave --userns out, or use --image_provisioner_backend=overlay or copy",
			p.Backend, container.ErrNotSupported)
	}
	if viewer, ok := to.(backend.Viewer); ok && readOnly {
		return viewed{to, viewer, ids}, nil
	}
	if ids.IsHost() {
		return to, nil
	}
	return mapped{to, mapper, ids}, nil
}

// mapped makes the root filesystems of a range.
type mapped struct {
	backend.Backend
	mapper backend.Mapper
	ids    container.IDRange
}

func (m mapped) Provision(ctx context.Context, layers []backend.Layer, rootfs, dir string) error {
	return m.mapper.ProvisionMapped(ctx, layers, rootfs, dir, m.ids)
}

// viewed makes read-only root filesystems of a range.
type viewed struct {
	backend.Backend
	viewer backend.Viewer
	ids    container.IDRange
}

func (v viewed) Ephemeral(string, string) []string { return nil }

func (v viewed) Provision(ctx context.Context, layers []backend.Layer, rootfs, dir string) error {
	return v.viewer.ProvisionReadOnly(ctx, layers, rootfs, dir, v.ids)
}

// getAll gets images side by side. The caller owes their release also after an error;
// those that are nil were not found.
func getAll(ctx context.Context, all []*provisioning, form layer.Form) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, m := range all {
		group.Go(func() (err error) {
			m.found, err = m.from.Get(ctx, m.Image, form)
			return err
		})
	}
	return group.Wait()
}

func releaseAll(all []*provisioning) error {
	var errs []error
	for _, m := range all {
		if m.found != nil {
			errs = append(errs, m.found.Release())
		}
	}
	return errors.Join(errs...)
}

// withRemedy says what to do where the disk is full.
func (p *Provisioner) withRemedy(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: free space on the file system of %s, remove images with `berth prune`, or choose another --work_dir", err, p.Paths.Root())
	}
	return err
}

func (p *Provisioner) stack(ctx context.Context, id container.ID, m *provisioning) (*Rootfs, error) {
	if m.infos == nil {
		if err := p.recordFound(id, m); err != nil {
			return nil, err
		}
	}
	if err := disk.At("provision: recorded"); err != nil {
		return nil, err
	}
	dir := p.Paths.BackendDir(id, p.Backend)
	if err := m.to.Provision(ctx, p.backendLayers(m), m.path, dir); err != nil {
		return nil, err
	}
	if err := disk.At("provision: stacked"); err != nil {
		return nil, err
	}
	return &Rootfs{Path: m.path, Ephemeral: m.to.Ephemeral(m.path, dir), Image: m.found.Record, Config: m.found.Config}, nil
}

// recordFound records the layers that a lease holds.
func (p *Provisioner) recordFound(id container.ID, m *provisioning) error {
	if err := disk.At("provision: layers are held"); err != nil {
		return err
	}
	for _, layer := range m.found.Layers {
		info, err := p.Layers.Info(layer, m.to.Form())
		if err != nil {
			return err
		}
		m.infos = append(m.infos, info)
	}
	if err := p.record(id, m, m.found.Record); err != nil {
		return fmt.Errorf("record its layers: %w", err)
	}
	return nil
}

func (p *Provisioner) backendLayers(m *provisioning) []backend.Layer {
	layers := make([]backend.Layer, len(m.infos))
	for i, info := range m.infos {
		layers[i] = backend.Layer{Path: p.Layers.Path(m.found.Layers[i], m.to.Form()), Whiteouts: info.Whiteouts > 0}
		for _, name := range info.Implied {
			layers[i].Implied = append(layers[i].Implied, string(name))
		}
	}
	return layers
}
