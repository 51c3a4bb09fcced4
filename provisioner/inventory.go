package provisioner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store"
)

// inventory is what stands on the layers: recorded images, and root filesystems of
// containers. It is made anew of what is on disk each time: nothing else is believed.
type inventory struct {
	images     []storedImage
	uses       []Use
	unreadable []unreadableImage
	// unreadableUses are records of containers.
	unreadableUses []unreadableUse
}

type storedImage struct {
	store.Record
	in v1.Image_Type // of the store
}

type unreadableImage struct {
	*store.RecordError
	in v1.Image_Type
}

type unreadableUse struct {
	container container.ID
	path      string
	err       error
}

// takeInventory reads every record. Whoever decides by it which layers go has been told
// before what the leases hold: a process writes its record and then releases its lease.
func (p *Provisioner) takeInventory(ctx context.Context) (*inventory, error) {
	inv := &inventory{}
	for _, in := range slices.Sorted(maps.Keys(p.Stores)) {
		recorded, err := p.Stores[in].List(ctx)
		for _, rec := range recorded {
			inv.images = append(inv.images, storedImage{rec, in})
		}
		unreadable, err := store.Unreadable(err)
		if err != nil {
			return nil, err
		}
		for _, u := range unreadable {
			inv.unreadable = append(inv.unreadable, unreadableImage{u, in})
		}
	}
	err := p.eachRecord(func(id container.ID, rec layersRecord, err error) {
		inv.uses = append(inv.uses, p.usesIn(id, rec)...)
		if err != nil {
			inv.unreadableUses = append(inv.unreadableUses, unreadableUse{id, p.Paths.Layers(id), err})
		}
	})
	return inv, err
}

// complete returns why it is not known what every image and container needs, so that
// nothing may be removed.
func (inv *inventory) complete() error {
	var errs []error
	for _, u := range inv.unreadable {
		errs = append(errs, fmt.Errorf("%w; nobody knows which layers it needs, so nothing is removed: mend it with `berth repair`", u.RecordError))
	}
	for _, u := range inv.unreadableUses {
		errs = append(errs, fmt.Errorf("%w; nobody knows which layers it needs, so nothing is removed: destroy the container with `berth destroy %s`", u.err, u.container))
	}
	return errors.Join(errs...)
}

// decision keeps what the images and containers need.
func (inv *inventory) decision(p *Provisioner) layer.Decision {
	d := layer.Decision{Keep: make(map[image.Digest]bool), InUse: make(map[image.Digest]bool), Settle: p.syncStores}
	for _, img := range inv.images {
		addAll(d.Keep, img.Layers)
	}
	for _, use := range inv.uses {
		addAll(d.Keep, use.Layers)
		addAll(d.InUse, use.Layers)
	}
	return d
}

func addAll(set map[image.Digest]bool, ids []image.Digest) {
	for _, id := range ids {
		set[id] = true
	}
}

// syncStores makes durable which images are forgotten, also by a process that was
// killed before it was able to: whose records came back after a power cut would lack
// layers.
func (p *Provisioner) syncStores() error {
	var errs []error
	for _, s := range p.Stores {
		errs = append(errs, s.Sync())
	}
	return errors.Join(errs...)
}

// user returns a container with a root filesystem of the image as it is recorded. The
// layers of one whose name now stands for another image are the container's own matter.
func (inv *inventory) user(rec store.Record) (container.ID, bool) {
	at := slices.IndexFunc(inv.uses, func(u Use) bool { return u.Image == rec.Reference && u.Platform == rec.Platform })
	if at < 0 {
		return container.ID{}, false
	}
	return inv.uses[at].Container, true
}

// forget forgets an image.
func (p *Provisioner) forget(ctx context.Context, img storedImage) error {
	return p.Stores[img.in].Forget(ctx, []store.Record{img.Record})
}

// Sweep removes the layers that no recorded image and no container uses.
func (p *Provisioner) Sweep(ctx context.Context) (layer.Swept, error) {
	return p.Layers.Sweep(ctx, func(map[image.Digest]bool) (layer.Decision, error) {
		inv, err := p.takeInventory(ctx)
		if err == nil {
			err = inv.complete()
		}
		if err != nil {
			return layer.Decision{}, err
		}
		return inv.decision(p), nil
	})
}
