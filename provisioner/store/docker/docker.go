// Package docker is the store of Docker images: from registries of the distribution
// protocol, OCI images included, and from files as `docker save` writes them.
//
// A source (registry.go, archive.go) resolves a reference into a manifest, a
// configuration and the layers to fetch; pull.go fetches them; record.go keeps what
// was found.
package docker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store"
	"berth/registry"
)

// Options are what a store is made of.
type Options struct {
	// Dir is where the records lie, on the file system of Layers.
	Dir      string
	Layers   *layer.Store
	Registry *registry.Client
	// Progress may be nil.
	Progress store.Progress
}

// Store implements store.Store.
type Store struct {
	layers   *layer.Store
	registry *registry.Client
	records  records
	pulls    pulls
	progress store.Progress
}

var _ store.Store = (*Store)(nil)

// New returns the store, and makes its directory when missing.
func New(o Options) (*Store, error) {
	records, err := openRecords(filepath.Join(o.Dir, "images"))
	if err != nil {
		return nil, fmt.Errorf("open docker store: %w", err)
	}
	if o.Progress == nil {
		o.Progress = func(store.Event) {}
	}
	return &Store{layers: o.Layers, registry: o.Registry, records: records, progress: o.Progress}, nil
}

// key is what an image is recorded under.
type key struct {
	reference image.Reference
	platform  string // as asked for, "" when not
}

func (k key) String() string {
	if k.platform == "" {
		return k.reference.String()
	}
	return k.reference.String() + " for " + k.platform
}

// want returns the platform of the image that is wanted.
func (k key) want() (image.Platform, error) {
	if k.platform == "" {
		return image.HostPlatform(), nil
	}
	return image.ParsePlatform(k.platform)
}

func parseKey(img *v1.Image) (key, error) {
	if img.GetType() != v1.Image_DOCKER {
		return key{}, fmt.Errorf("image of type %s: %w for the docker store", img.GetType(), container.ErrInvalid)
	}
	reference, err := image.ParseReference(img.GetDocker().GetName())
	if err != nil {
		return key{}, err
	}
	if img.GetDocker().GetConfig() != nil {
		return key{}, fmt.Errorf("image %s: credentials in the request: %w; give them to the docker configuration of the user that runs berth",
			reference, container.ErrNotSupported)
	}
	switch reference.Transport {
	case image.Docker:
	case image.DockerArchive:
		if reference, err = absolute(reference); err != nil {
			return key{}, err
		}
	default:
		return key{}, fmt.Errorf("image %s: %w: the docker store has no images of the transport %s",
			reference, container.ErrNotSupported, reference.Transport)
	}
	k := key{reference: reference, platform: img.GetPlatform()}
	if _, err := k.want(); err != nil {
		return key{}, err
	}
	return k, nil
}

// absolute makes the record one of this file, from wherever berth is called.
func absolute(reference image.Reference) (image.Reference, error) {
	path, err := filepath.Abs(reference.Path)
	if err != nil {
		return reference, fmt.Errorf("image %s: %w", reference, err)
	}
	reference.Path = path
	// The current directory may have what a reference cannot have, a colon above all.
	if parsed, err := image.ParseReference(reference.String()); err != nil || parsed != reference {
		return reference, fmt.Errorf("image %q: %w: its path from the root has a colon, a control character or no UTF-8: move or link the file to another directory",
			reference, container.ErrInvalid)
	}
	return reference, nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, img *v1.Image, form layer.Form) (_ *store.Image, err error) {
	k, err := parseKey(img)
	if err != nil {
		return nil, err
	}
	lease, err := s.layers.Lease(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lease.Release())
		}
	}()
	return s.get(ctx, k, img.GetCached(), form, lease)
}

func (s *Store) get(ctx context.Context, k key, cached bool, form layer.Form, lease *layer.Lease) (*store.Image, error) {
	if cached {
		if found, err := s.cached(ctx, k, form, lease); found != nil || err != nil {
			return found, err
		}
	}
	end, err := s.pulls.begin(ctx, k)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", k, err)
	}
	defer end()
	if cached { // perhaps somebody else has pulled it meanwhile
		if found, err := s.cached(ctx, k, form, lease); found != nil || err != nil {
			return found, err
		}
	}
	pulled, err := s.pull(ctx, k, form, lease)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", k, err)
	}
	return pulled, nil
}

// cached returns the image if it is recorded and all its layers are there, else nil.
func (s *Store) cached(ctx context.Context, k key, form layer.Form, lease *layer.Lease) (*store.Image, error) {
	rec, err := s.records.load(k)
	if errors.Is(err, container.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !rec.Source.unchanged() {
		return nil, nil
	}
	absent, err := lease.Hold(ctx, form, rec.Layers)
	if err != nil || len(absent) > 0 {
		return nil, err
	}
	config, err := image.ParseConfig([]byte(rec.Config))
	if err != nil {
		return nil, fmt.Errorf("image record of %s: %w", k, err)
	}
	return store.NewImage(rec.Record, config, lease), nil
}

// Reference implements store.Store.
func (s *Store) Reference(img *v1.Image) (string, error) {
	k, err := parseKey(img)
	if err != nil {
		return "", err
	}
	return k.reference.String(), nil
}

// List implements store.Store.
func (s *Store) List(context.Context) ([]store.Record, error) {
	return s.records.list()
}

// Remove implements store.Store.
func (s *Store) Remove(_ context.Context, img *v1.Image) error {
	k, err := parseKey(img)
	if err != nil {
		return err
	}
	all, err := s.records.list()
	if err != nil {
		return err
	}
	removed := false
	for _, rec := range all {
		if rec.Reference != k.reference.String() {
			continue
		}
		was, err := s.records.remove(key{k.reference, rec.Platform})
		if err != nil {
			return fmt.Errorf("remove image %s: %w", k, err)
		}
		removed = removed || was
	}
	if !removed {
		return fmt.Errorf("remove image %s: %w in the store", k, container.ErrNotFound)
	}
	return nil
}
