package provisioner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/disk"
	"berth/layer"
)

// Repaired is what a Repair has done.
type Repaired struct {
	Fetched  []image.Digest `json:"fetched"`  // layers, mended
	Made     []image.Digest `json:"made"`     // layers, mended of what the store has
	Removed  []image.Digest `json:"removed"`  // broken layers that nobody needs
	Images   []string       `json:"images"`   // whose record was made again
	Remained []LayerReport  `json:"remained"` // layers that could not be mended
}

// Repair checks, and mends what is broken: it makes each broken layer again, of its tar where
// the store has that, else it fetches that layer and nothing else, also while containers run. They keep the files that they have; what is
// started later has the mended ones. An image whose record cannot be read is looked up
// again under its name.
//
// The error joins what could not be mended; the rest is. After a nil error Check finds
// nothing that was broken before.
func (p *Provisioner) Repair(ctx context.Context) (*Repaired, error) {
	r := &repair{Provisioner: p, done: Repaired{
		Fetched: []image.Digest{}, Made: []image.Digest{}, Removed: []image.Digest{}, Images: []string{}, Remained: []LayerReport{}}}
	report, inv, err := p.check(ctx)
	if report == nil || ctx.Err() != nil {
		return &r.done, err
	}
	errs := []error{err, r.remakeRecords(ctx, inv)}
	if len(r.done.Images) > 0 { // of whose layers nobody knew that they are needed
		if report, _, err = p.check(ctx); report == nil {
			return &r.done, errors.Join(append(errs, err)...)
		}
		errs[0] = err
	}
	errs = append(errs, r.mend(ctx, report.Layers))
	if err := errors.Join(errs...); err != nil {
		return &r.done, fmt.Errorf("repair the store: %w", err)
	}
	return &r.done, nil
}

// repair is a Repair under way.
type repair struct {
	*Provisioner
	done Repaired
}

// remakeRecords pulls the images whose records cannot be read. Their layers are there,
// as far as they are.
func (r *repair) remakeRecords(ctx context.Context, inv *inventory) error {
	var errs []error
	for _, u := range inv.unreadable {
		if err := r.remakeRecord(ctx, u); err != nil {
			errs = append(errs, fmt.Errorf("%w; to do without the image, remove the file (%w)", u.RecordError, err))
			continue
		}
		r.done.Images = append(r.done.Images, u.Reference)
	}
	for _, u := range inv.unreadableUses {
		errs = append(errs, fmt.Errorf("%w; destroy the container with `berth destroy %s`", u.err, u.container))
	}
	return errors.Join(errs...)
}

func (r *repair) remakeRecord(ctx context.Context, u unreadableImage) error {
	switch {
	case errors.Is(u, container.ErrNotSupported):
		return errors.New("it is of a newer berth")
	case u.Reference == "":
		return errors.New("the name of its image is not known")
	}
	if err := disk.At("repair: a record is made again"); err != nil {
		return err
	}
	found, err := r.Stores[u.in].Get(ctx, imageOf(u), r.Form())
	if err != nil {
		return err
	}
	return found.Release()
}

// imageOf returns how to ask for the image of a record.
func imageOf(u unreadableImage) *v1.Image {
	img := &v1.Image{Type: u.in.Enum(), Cached: proto.Bool(false)}
	if u.Platform != "" {
		img.Platform = proto.String(u.Platform)
	}
	switch u.in {
	case v1.Image_DOCKER:
		img.Docker = &v1.Image_Docker{Name: proto.String(u.Reference)}
	case v1.Image_OCI:
		img.Oci = &v1.Image_Oci{Name: proto.String(u.Reference)}
	case v1.Image_APPC:
		img.Appc = &v1.Image_Appc{Name: proto.String(u.Reference)}
	}
	return img
}

// mend fetches the broken layers that images have and removes those that nobody needs.
func (r *repair) mend(ctx context.Context, broken []LayerReport) error {
	left := make(map[formOf]bool)
	for _, b := range broken {
		left[formOf{b.Layer, b.Form}] = true
	}
	var errs []error
	if len(left) > 0 {
		errs = append(errs, r.remake(ctx, left))
	}
	errs = append(errs, r.removeUnneeded(ctx, left))
	for _, b := range broken {
		if left[formOf{b.Layer, b.Form}] {
			r.done.Remained = append(r.done.Remained, b)
			errs = append(errs, stillBroken(b))
		}
	}
	return errors.Join(errs...)
}

func stillBroken(b LayerReport) error {
	if len(b.Images) == 0 && len(b.Containers) > 0 {
		return fmt.Errorf("layer %s is still broken: it is of no recorded image, so nobody knows where to fetch it, and the containers %s stand on it: destroy these",
			b.Layer, strings.Join(b.Containers, ", "))
	}
	return fmt.Errorf("layer %s is still broken", b.Layer)
}

// remake makes what it can, and takes that out of left.
func (r *repair) remake(ctx context.Context, left map[formOf]bool) (err error) {
	lease, err := r.Layers.Lease(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	m := making{repair: r, lease: lease}
	byForm := make(map[layer.Form][]image.Digest)
	for one := range left {
		byForm[one.form] = append(byForm[one.form], one.id)
	}
	var errs []error
	for _, form := range slices.Sorted(maps.Keys(byForm)) {
		slices.Sort(byForm[form])
		errs = append(errs, m.inForm(ctx, form, byForm[form]))
	}
	if err := disk.At("repair: layers are staged"); err != nil {
		return err
	}
	if err := lease.Commit(ctx); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, one := range slices.Concat(m.made, m.fetched) {
		delete(left, one)
	}
	r.done.Made, r.done.Fetched = digestsOf(m.made), digestsOf(m.fetched)
	r.count.repairedLayers.Add(int64(len(m.made) + len(m.fetched)))
	return errors.Join(append(errs, disk.At("repair: layers are mended"))...)
}

func digestsOf(all []formOf) []image.Digest {
	ids := []image.Digest{}
	for _, one := range all {
		ids = append(ids, one.id)
	}
	return ids
}

// making is the staging of layers that are broken.
type making struct {
	*repair
	lease         *layer.Lease
	made, fetched []formOf
}

// inForm stages those of the layers that it can.
func (m *making) inForm(ctx context.Context, form layer.Form, ids []image.Digest) error {
	if err := m.lease.Keep(ctx, ids...); err != nil {
		return err
	}
	m.lease.Supersede(form, ids...)
	wanted, err := m.lease.Convert(ctx, form, ids)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if !slices.Contains(wanted, id) {
			m.made = append(m.made, formOf{id, form})
		}
	}
	var errs []error
	for _, in := range slices.Sorted(maps.Keys(m.Stores)) {
		fetched, err := m.Stores[in].Refetch(ctx, form, wanted, m.lease)
		errs = append(errs, err)
		for _, id := range fetched {
			m.fetched = append(m.fetched, formOf{id, form})
		}
		wanted = slices.DeleteFunc(wanted, func(id image.Digest) bool { return slices.Contains(fetched, id) })
	}
	return errors.Join(errs...)
}

// removeUnneeded removes the copies of mended layers that nobody stands on, and those of
// left that nobody needs, which it takes out. Other layers stay.
func (r *repair) removeUnneeded(ctx context.Context, left map[formOf]bool) error {
	broken := make(map[image.Digest]bool)
	for one := range left {
		broken[one.id] = true
	}
	swept, err := r.Layers.Sweep(ctx, func(map[image.Digest]bool) (layer.Decision, error) {
		inv, err := r.takeInventory(ctx)
		if err == nil {
			err = inv.complete()
		}
		if err != nil {
			return layer.Decision{}, err
		}
		there, err := r.Layers.List()
		d := inv.decision(r.Provisioner)
		for _, id := range there {
			if !broken[id] {
				d.Keep[id] = true
			}
		}
		return d, err
	})
	for _, id := range swept.Layers {
		r.done.Removed = append(r.done.Removed, id)
		maps.DeleteFunc(left, func(one formOf, _ bool) bool { return one.id == id })
	}
	return err
}
