package provisioner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"berth/container"
	"berth/image"
	"berth/layer"
)

// LayerReport is what Check found of one layer in one form.
type LayerReport struct {
	Layer      image.Digest    `json:"layer"`
	Form       layer.Form      `json:"form"`
	Images     []string        `json:"images,omitempty"`     // that have it
	Containers []string        `json:"containers,omitempty"` // that stand on it
	Problems   []layer.Problem `json:"problems,omitempty"`
}

// RecordReport is the record of an image or of a container that cannot be read.
type RecordReport struct {
	Path    string `json:"path"`
	Image   string `json:"image,omitempty"` // if it is one's, and that is known
	Problem string `json:"problem"`
}

// Report is what Check found.
type Report struct {
	Checked int            `json:"checked"` // layers, in each form that they have
	Layers  []LayerReport  `json:"broken"`  // that are broken, or missing though somebody needs them
	Records []RecordReport `json:"records,omitempty"`
	// Unknown are files that are nobody's. They are left alone and are no fault.
	Unknown []string `json:"unknown,omitempty"`
}

// Clean reports whether nothing is broken.
func (r *Report) Clean() bool { return len(r.Layers) == 0 && len(r.Records) == 0 }

// Check compares every layer in the store, and every layer that an image or a container
// needs, with its digest, and reads every record. It changes nothing and keeps nobody
// waiting; what it looks at stays for so long.
//
// Beside an error, which says what could not be looked at, it returns what it found of
// the rest.
func (p *Provisioner) Check(ctx context.Context) (*Report, error) {
	report, _, err := p.check(ctx)
	return report, err
}

// check is Check, and returns the inventory that it went by.
func (p *Provisioner) check(ctx context.Context) (*Report, *inventory, error) {
	inv, err := p.takeInventory(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("check the store: %w", err)
	}
	found, err := p.checkLayers(ctx, inv)
	report := &Report{Checked: len(found), Layers: []LayerReport{}, Records: inv.unreadableRecords()}
	for _, layer := range found {
		if len(layer.Problems) > 0 {
			report.Layers = append(report.Layers, layer)
		}
	}
	var unknownErr error
	report.Unknown, unknownErr = p.unknownEverywhere()
	if err := errors.Join(err, unknownErr, context.Cause(ctx)); err != nil {
		return report, inv, fmt.Errorf("check the store: %w", err)
	}
	return report, inv, nil
}

// checkLayers checks the layers in the store and those in the inventory, several at a
// time. It returns those that could be checked, ordered by digest.
func (p *Provisioner) checkLayers(ctx context.Context, inv *inventory) ([]LayerReport, error) {
	needed := inv.needed()
	there, err := p.Layers.List()
	if err != nil {
		return nil, err
	}
	ids := slices.AppendSeq(there, maps.Keys(needed))
	slices.Sort(ids)
	work, err := p.formsOf(slices.Compact(ids))
	if err != nil {
		return nil, err
	}
	reports, errs := make([]*LayerReport, len(work)), make([]error, len(work))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, one := range work {
		group.Go(func() error {
			if ctx.Err() == nil {
				reports[i], errs[i] = p.checkLayer(ctx, one)
			}
			return nil
		})
	}
	_ = group.Wait() // nobody returns any
	errs = append(errs, p.checkMissing(ctx, reports))
	var found []LayerReport
	for _, r := range reports {
		if r == nil {
			continue
		}
		if by := needed[r.Layer]; by != nil {
			r.Images, r.Containers = by.images, by.containers
		}
		found = append(found, *r)
	}
	return found, errors.Join(errs...)
}

// formOf is a layer in one form.
type formOf struct {
	id   image.Digest
	form layer.Form
}

// formsOf returns the layers in the forms that they have; those that have none, in the one
// of the backend.
func (p *Provisioner) formsOf(ids []image.Digest) (all []formOf, err error) {
	for _, id := range ids {
		forms, err := p.Layers.Forms(id)
		if err != nil {
			return nil, err
		}
		if len(forms) == 0 {
			forms = []layer.Form{p.Form()}
		}
		for _, form := range forms {
			all = append(all, formOf{id, form})
		}
	}
	return all, nil
}

var missing = layer.Problem{What: "it is missing"}

func isMissing(r *LayerReport) bool {
	return r != nil && len(r.Problems) == 1 && r.Problems[0] == missing
}

// checkLayer checks one form of a layer, which no sweep removes meanwhile.
func (p *Provisioner) checkLayer(ctx context.Context, one formOf) (_ *LayerReport, err error) {
	lease, err := p.Layers.Lease(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	if err := lease.Keep(ctx, one.id); err != nil {
		return nil, err
	}
	problems, err := p.Layers.Check(ctx, one.id, one.form)
	if errors.Is(err, container.ErrNotFound) {
		problems, err = []layer.Problem{missing}, nil
	}
	if err != nil {
		return nil, err
	}
	return &LayerReport{Layer: one.id, Form: one.form, Problems: problems}, nil
}

// checkMissing looks again for the layers that were missing. Such a one may have been
// removed since the inventory, with all that needed it, which takes its report away, and
// it may be back by now.
func (p *Provisioner) checkMissing(ctx context.Context, reports []*LayerReport) (err error) {
	var ids []image.Digest
	for _, r := range reports {
		if isMissing(r) {
			ids = append(ids, r.Layer)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	// Before the inventory: what is named by a record then was there then, and stays.
	lease, err := p.Layers.Lease(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	if err := lease.Keep(ctx, ids...); err != nil {
		return err
	}
	inv, err := p.takeInventory(ctx)
	if err != nil {
		return err
	}
	still := inv.needed()
	var errs []error
	for i, r := range reports {
		if !isMissing(r) {
			continue
		}
		reports[i] = nil
		if still[r.Layer] != nil {
			reports[i], err = p.checkLayer(ctx, formOf{r.Layer, r.Form})
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// needs is what needs a layer.
type needs struct {
	images, containers []string
}

func (inv *inventory) needed() map[image.Digest]*needs {
	needed := make(map[image.Digest]*needs)
	of := func(id image.Digest) *needs {
		if needed[id] == nil {
			needed[id] = &needs{}
		}
		return needed[id]
	}
	for _, img := range inv.images {
		for _, id := range img.Layers {
			if n := of(id); !slices.Contains(n.images, img.Reference) {
				n.images = append(n.images, img.Reference)
			}
		}
	}
	for _, use := range inv.uses {
		for _, id := range use.Layers {
			if n := of(id); !slices.Contains(n.containers, use.Container.String()) {
				n.containers = append(n.containers, use.Container.String())
			}
		}
	}
	return needed
}

func (inv *inventory) unreadableRecords() (reports []RecordReport) {
	for _, u := range inv.unreadable {
		reports = append(reports, RecordReport{Path: u.Path, Image: u.Reference, Problem: u.Err.Error()})
	}
	for _, u := range inv.unreadableUses {
		reports = append(reports, RecordReport{Path: u.path, Problem: u.err.Error()})
	}
	return reports
}

// unknownEverywhere returns the files in the stores and in the provisioner's tree that are
// nobody's.
func (p *Provisioner) unknownEverywhere() ([]string, error) {
	paths, err := p.Layers.Unknown()
	for _, in := range slices.Sorted(maps.Keys(p.Stores)) {
		found, foundErr := p.Stores[in].Unknown()
		paths, err = append(paths, found...), errors.Join(err, foundErr)
	}
	var all []container.ID
	walkErr := p.eachContainer(container.ID{}, func(id container.ID) { all = append(all, id) })
	more, moreErr := p.unknown(all)
	return append(paths, more...), errors.Join(err, walkErr, moreErr)
}
