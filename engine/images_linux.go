package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store"
)

// ImageName is the name in an image message, whatever its type.
func ImageName(img *v1.Image) string {
	switch img.GetType() {
	case v1.Image_DOCKER:
		return img.GetDocker().GetName()
	case v1.Image_OCI:
		return img.GetOci().GetName()
	default:
		return img.GetAppc().GetName()
	}
}

func (i *Images) store(img *v1.Image) (store.Store, error) {
	s, ok := i.Stores[img.GetType()]
	if !ok {
		return nil, fmt.Errorf("image %s of type %s: %w: it is not among --image_providers", ImageName(img), img.GetType(), container.ErrNotSupported)
	}
	return s, nil
}

// Pull gets an image into its store and returns its record.
func (i *Images) Pull(ctx context.Context, img *v1.Image) (store.Record, error) {
	s, err := i.store(img)
	if err != nil {
		return store.Record{}, err
	}
	found, err := s.Get(ctx, img, layer.Tree)
	if err != nil {
		return store.Record{}, err
	}
	return found.Record, found.Release()
}

// Has reports whether an image is recorded.
func (i *Images) Has(ctx context.Context, img *v1.Image) (bool, error) {
	s, err := i.store(img)
	if err != nil {
		return false, err
	}
	reference, err := s.Reference(img)
	if err != nil {
		return false, err
	}
	recorded, err := s.List(ctx)
	return slices.ContainsFunc(recorded, func(rec store.Record) bool {
		return rec.Reference == reference && rec.Platform == img.GetPlatform()
	}), err
}

// List returns the recorded images of all stores.
func (i *Images) List(ctx context.Context) ([]store.Record, error) {
	var all []store.Record
	for _, s := range i.Stores {
		recorded, err := s.List(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, recorded...)
	}
	return all, nil
}

// Remove forgets an image and removes the layers that nothing else needs, whose diffIDs
// it returns. ErrFailedPrecondition: a container uses the image.
func (i *Images) Remove(ctx context.Context, img *v1.Image) ([]image.Digest, error) {
	s, err := i.store(img)
	if err != nil {
		return nil, err
	}
	reference, err := s.Reference(img)
	if err != nil {
		return nil, err
	}
	uses, err := i.Provisioner.Uses()
	if err != nil {
		return nil, err
	}
	for _, use := range uses {
		if use.Image == reference {
			return nil, fmt.Errorf("remove image %s: %w: the container %s uses it; destroy that first", reference, container.ErrFailedPrecondition, use.Container)
		}
	}
	if err := s.Remove(ctx, img); err != nil {
		return nil, err
	}
	return i.Provisioner.Sweep(ctx)
}

// LayerReport is what Check found of one layer.
type LayerReport struct {
	Layer    image.Digest    `json:"layer"`
	Images   []string        `json:"images,omitempty"` // that have it
	Problems []layer.Problem `json:"problems,omitempty"`
}

// Check compares every layer in the store, and every layer that an image or a container
// needs, with its digest. It reads all of them, and changes nothing.
func (i *Images) Check(ctx context.Context) (reports []LayerReport, err error) {
	lease, err := i.Layers.Lease(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	needed, err := i.needed(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := i.Layers.List()
	if err != nil {
		return nil, err
	}
	for id := range needed {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	absent, err := lease.Hold(ctx, layer.Tree, ids)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		report := LayerReport{Layer: id, Images: needed[id]}
		if slices.Contains(absent, id) {
			report.Problems = []layer.Problem{{What: "it is missing"}}
		} else if report.Problems, err = i.Layers.Check(ctx, id, layer.Tree); err != nil {
			return nil, err
		}
		reports = append(reports, report)
	}
	return reports, nil
}

// needed maps the layers of recorded images to their names.
func (i *Images) needed(ctx context.Context) (map[image.Digest][]string, error) {
	recorded, err := i.List(ctx)
	if err != nil {
		return nil, err
	}
	needed := make(map[image.Digest][]string)
	for _, rec := range recorded {
		for _, id := range rec.Layers {
			needed[id] = append(needed[id], rec.Reference)
		}
	}
	return needed, nil
}
