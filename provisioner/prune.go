package provisioner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/layer"
	"berth/provisioner/store"
)

// PruneOptions say what a Prune spares, and whether it only tells.
type PruneOptions struct {
	// Excluded images stay, for every platform; one that is not recorded is no error.
	Excluded []*v1.Image
	// DryRun changes nothing.
	DryRun bool
}

// Pruned is what a Prune has removed, or would.
type Pruned struct {
	Images []store.Record `json:"images"`
	Layers []image.Digest `json:"layers"`
	// Partials are blobs of which a part was kept, of downloads that were interrupted.
	Partials []image.Digest `json:"partials"`
	// Bytes is what the file system of the layers has gained.
	Bytes int64 `json:"bytes"`
}

// Nothing reports whether nothing was removed.
func (p Pruned) Nothing() bool { return len(p.Images)+len(p.Layers)+len(p.Partials) == 0 }

// Prune forgets every image that is not excluded, that no container uses and that
// nobody is just getting, and removes the layers that are then nobody's, and what is kept
// of interrupted downloads.
//
// Nobody waits for it but for the moment in which it decides. A nil error proves that
// the space is free. After an error, or a kill, another Prune takes up what is left;
// what is returned beside the error is gone.
// ErrInvalid: an excluded image has no valid name; ErrNotSupported: it is of a type
// without a store. While the record of an image or of a container cannot be read, no image
// and no layer is pruned.
func (p *Provisioner) Prune(ctx context.Context, o PruneOptions) (Pruned, error) {
	pruned, err := p.prune(ctx, o)
	if err != nil {
		return pruned, fmt.Errorf("prune images: %w", err)
	}
	if !o.DryRun {
		p.count.prunes.Add(1)
	}
	return pruned, nil
}

func (p *Provisioner) prune(ctx context.Context, o PruneOptions) (Pruned, error) {
	pruned := Pruned{Images: []store.Record{}, Layers: []image.Digest{}, Partials: []image.Digest{}}
	excluded, err := p.excluded(o.Excluded)
	if err != nil {
		return pruned, err
	}
	// First: on a full disk there is room then for what a sweep writes.
	if err := p.pruneDownloads(o.DryRun, &pruned); err != nil {
		return pruned, err
	}
	sweep := p.Layers.Sweepable
	if !o.DryRun {
		sweep = p.Layers.Sweep
		// What an earlier one was killed over.
		if err := p.Layers.Recover(ctx); err != nil {
			return pruned, err
		}
	}
	swept, err := sweep(ctx, func(leased map[image.Digest]bool) (layer.Decision, error) {
		inv, err := p.takeInventory(ctx)
		if err == nil {
			err = inv.complete()
		}
		if err != nil {
			return layer.Decision{}, err
		}
		for _, img := range inv.takePrunable(excluded, leased) {
			if !o.DryRun {
				if err := p.forget(ctx, img); err != nil {
					return layer.Decision{}, err
				}
			}
			pruned.Images = append(pruned.Images, img.Record)
		}
		return inv.decision(p), disk.At("prune: records are forgotten")
	})
	pruned.Layers, pruned.Bytes = append(pruned.Layers, swept.Layers...), pruned.Bytes+swept.Bytes
	if !o.DryRun {
		p.count.prunedBytes.Add(swept.Bytes)
	}
	return pruned, err
}

// pruneDownloads removes what is kept of interrupted downloads.
func (p *Provisioner) pruneDownloads(dryRun bool, pruned *Pruned) error {
	for _, in := range slices.Sorted(maps.Keys(p.Stores)) {
		s, ok := p.Stores[in].(store.Resumer)
		if !ok {
			continue
		}
		abandoned, err := s.Abandoned(dryRun)
		for _, partial := range abandoned {
			pruned.Partials = append(pruned.Partials, partial.Blob)
			pruned.Bytes += partial.Bytes
			if !dryRun {
				p.count.prunedBytes.Add(partial.Bytes)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type imageName struct {
	in        v1.Image_Type
	reference string
}

// excluded returns under which names images are recorded.
func (p *Provisioner) excluded(images []*v1.Image) (map[imageName]bool, error) {
	names := make(map[imageName]bool)
	for _, img := range images {
		s, err := p.storeOf(img)
		if err != nil {
			return nil, fmt.Errorf("excluded image: %w", err)
		}
		reference, err := s.Reference(img)
		if err != nil {
			return nil, fmt.Errorf("excluded image: %w", err)
		}
		names[imageName{img.GetType(), reference}] = true
	}
	return names, nil
}

// takePrunable takes the images out that go. One whose layers are all held by somebody
// stays: that one has just got it, and is about to use it.
func (inv *inventory) takePrunable(excluded map[imageName]bool, leased map[image.Digest]bool) (goes []storedImage) {
	free := func(id image.Digest) bool { return !leased[id] }
	inv.images = slices.DeleteFunc(inv.images, func(img storedImage) bool {
		_, used := inv.user(img.Record)
		held := len(img.Layers) > 0 && !slices.ContainsFunc(img.Layers, free)
		if used || held || excluded[imageName{img.in, img.Reference}] {
			return false
		}
		goes = append(goes, img)
		return true
	})
	return goes
}

// Remove forgets the images recorded under a name, for every platform, and removes the
// layers that are then nobody's. What is returned beside an error is gone.
//
// ErrNotFound: there is no such image; ErrFailedPrecondition: a container uses it.
func (p *Provisioner) Remove(ctx context.Context, img *v1.Image) (layer.Swept, error) {
	s, err := p.storeOf(img)
	if err != nil {
		return layer.Swept{}, fmt.Errorf("remove image: %w", err)
	}
	reference, err := s.Reference(img)
	if err != nil {
		return layer.Swept{}, fmt.Errorf("remove image: %w", err)
	}
	removed := false
	swept, err := p.Layers.Sweep(ctx, func(map[image.Digest]bool) (layer.Decision, error) {
		inv, err := p.takeInventory(ctx)
		if err != nil {
			return layer.Decision{}, err
		}
		if !removed { // by an earlier call
			err = p.removeFrom(ctx, inv, imageName{img.GetType(), reference})
		} else {
			err = inv.complete()
		}
		if err != nil {
			return layer.Decision{}, err
		}
		removed = true
		return inv.decision(p), nil
	})
	if err != nil {
		err = fmt.Errorf("remove image %s: %w", reference, err)
	}
	return swept, err
}

// removeFrom forgets the images of a name, also those whose records cannot be read.
func (p *Provisioner) removeFrom(ctx context.Context, inv *inventory, name imageName) error {
	goes := inv.take(name)
	if err := inv.complete(); err != nil {
		return err
	}
	if len(goes) == 0 {
		return fmt.Errorf("%w in the store", container.ErrNotFound)
	}
	for _, img := range goes {
		if user, used := inv.user(img.Record); used {
			return fmt.Errorf("%w: the container %s uses it; destroy that first", container.ErrFailedPrecondition, user)
		}
	}
	for _, img := range goes {
		if err := p.forget(ctx, img); err != nil {
			return err
		}
	}
	return nil
}

// take takes the images of a name out.
func (inv *inventory) take(name imageName) (taken []storedImage) {
	inv.images = slices.DeleteFunc(inv.images, func(img storedImage) bool {
		found := imageName{img.in, img.Reference} == name
		if found {
			taken = append(taken, img)
		}
		return found
	})
	inv.unreadable = slices.DeleteFunc(inv.unreadable, func(u unreadableImage) bool {
		// One of a newer berth is not ours to remove.
		found := imageName{u.in, u.Reference} == name && !errors.Is(u, container.ErrNotSupported)
		if found {
			taken = append(taken, storedImage{store.Record{Reference: u.Reference, Platform: u.Platform}, u.in})
		}
		return found
	})
	return taken
}

// ImageUsage is what an image costs.
type ImageUsage struct {
	store.Record
	Size   int64 `json:"size"`   // of the uncompressed layers
	Unique int64 `json:"unique"` // bytes on disk that go with this image alone
	Shared int64 `json:"shared"` // bytes on disk that other images or containers have too
}

// Usage returns the recorded images of all stores and what they cost, ordered by
// reference. Layers that are missing cost nothing: Check tells of them. Beside an error
// because records cannot be read, it returns the other images, as if there were no more.
func (p *Provisioner) Usage(ctx context.Context) ([]ImageUsage, error) {
	inv, err := p.takeInventory(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	users := make(map[image.Digest]int)
	for _, img := range inv.images {
		for _, id := range img.Layers {
			users[id]++
		}
	}
	for _, use := range inv.uses {
		for _, id := range use.Layers {
			users[id]++
		}
	}
	usages := make([]ImageUsage, len(inv.images))
	for i, img := range inv.images {
		usages[i] = p.usage(img.Record, users)
	}
	slices.SortFunc(usages, func(a, b ImageUsage) int {
		return cmp.Or(cmp.Compare(a.Reference, b.Reference), cmp.Compare(a.Platform, b.Platform))
	})
	return usages, inv.complete()
}

func (p *Provisioner) usage(rec store.Record, users map[image.Digest]int) ImageUsage {
	u := ImageUsage{Record: rec}
	for _, id := range rec.Layers {
		size, occupied := int64(0), int64(0)
		forms, _ := p.Layers.Forms(id) // what cannot be read counts nothing
		for _, form := range forms {
			if info, err := p.Layers.Info(id, form); err == nil {
				size, occupied = info.Size, occupied+info.Disk
			}
		}
		u.Size += size
		if users[id] == 1 {
			u.Unique += occupied
		} else {
			u.Shared += occupied
		}
	}
	return u
}
