package appc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"berth/container"
	"berth/image"
	"berth/image/appc"
	"berth/internal/disk"
	"berth/provisioner/store/fetch"
)

const (
	// maxDepth bounds dependencies of dependencies, maxVisits how often any image is
	// depended on: a few images that all depend on each other twice are a million visits.
	maxDepth  = 32
	maxVisits = 512
	// maxManifests bounds the manifests of all images together, which are kept in memory.
	maxManifests = 4 * appc.MaxManifestSize
)

// resolver finds an image and all that it depends on.
type resolver struct {
	*source
	// found are the images by what they were asked for by. A request is answered once, so
	// that an image does not change while it is looked at.
	found  map[string]*found
	order  []*found // as they were found
	pieces []piece  // base first
	layers []fetch.Layer
	visits int
	// manifests is the size of all of them.
	manifests int
}

// found is an image that is here.
type found struct {
	*bundle
	*contents
	parsed *appc.Manifest
	index  int // in the order
	// layers has its layer for other whitelists than none.
	layers map[string]fetch.Layer
}

func newResolver(s *source) *resolver { return &resolver{source: s, found: make(map[string]*found)} }

// top is the image that was asked for.
func (r *resolver) top() *found { return r.order[r.pieces[len(r.pieces)-1].Image] }

func (r *resolver) notes() *notes {
	n := &notes{Pieces: r.pieces, Top: r.top().index, keyring: r.keyring}
	for _, f := range r.order {
		n.manifests = append(n.manifests, f.parsed)
		n.Images = append(n.Images, imageNotes{
			ID: f.id, At: f.at, Size: f.size, Digest: f.digest, Signer: f.signer, Manifest: string(f.manifest),
		})
	}
	return n
}

// visit finds an image, its dependencies first; size is what its file is said to have. path
// are the images that depend on it, the one that was asked for first.
func (r *resolver) visit(ctx context.Context, request appc.Request, size int64, path []*found) error {
	if r.visits++; len(path) > maxDepth || r.visits > maxVisits {
		return fmt.Errorf("%w: dependencies are more than %d deep, or more than %d", container.ErrInvalid, maxDepth, maxVisits)
	}
	f, err := r.find(ctx, request, size)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(path, func(above *found) bool { return above.id == f.id }) {
		return fmt.Errorf("%w: the image depends on itself", container.ErrInvalid)
	}
	path = append(slices.Clone(path), f)
	for _, d := range f.parsed.Dependencies {
		request, err := d.Request()
		if err == nil {
			err = r.visit(ctx, request, d.Size, path)
		}
		if err != nil {
			return fmt.Errorf("dependency %s: %w", d.Name, err)
		}
	}
	p, l, err := r.piece(ctx, f, path)
	if err != nil {
		return err
	}
	r.place(p, l)
	return nil
}

// place puts a layer on the others. Of one that is there already only the upper place has an
// effect: what the lower one adds, this adds again.
func (r *resolver) place(p piece, l fetch.Layer) {
	r.pieces = append(slices.DeleteFunc(r.pieces, func(lower piece) bool { return lower.DiffID == p.DiffID }), p)
	r.layers = append(slices.DeleteFunc(r.layers, func(lower fetch.Layer) bool { return lower.DiffID == l.DiffID }), l)
}

// find returns the image of a request.
func (r *resolver) find(ctx context.Context, request appc.Request, size int64) (*found, error) {
	f, known := r.found[request.String()]
	if !known {
		var err error
		if f, err = r.discovered(ctx, request, size); err != nil {
			return nil, err
		}
		r.found[request.String()] = f
	}
	if size > 0 && f.size != size {
		return nil, wrongSize(f.at.Image, f.size, size, true)
	}
	return f, request.Accept(f.parsed, f.id, r.system)
}

// discovered fetches the image of a request from the first place that has it.
func (r *resolver) discovered(ctx context.Context, request appc.Request, size int64) (*found, error) {
	places, err := r.discover(ctx, request, r.system)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, at := range places {
		b, err := r.fetch(ctx, at, size, r.tmp)
		if err == nil {
			return r.examine(ctx, b)
		}
		errs = append(errs, err)
		if !errors.Is(err, container.ErrNotFound) && !errors.Is(err, container.ErrUnavailable) {
			break // what is wrong there is not put right elsewhere
		}
	}
	return nil, errors.Join(errs...)
}

// examine reads a bundle, which is closed with the source.
func (r *resolver) examine(ctx context.Context, b *bundle) (*found, error) {
	f := &found{bundle: b, index: len(r.order), layers: make(map[string]fetch.Layer)}
	r.order = append(r.order, f)
	var err error
	if f.contents, err = r.read(ctx, b, nil, io.Discard); err == nil {
		f.parsed, err = appc.ParseManifest(f.manifest)
	}
	if err == nil {
		err = r.charge(f.manifest)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: layer of the image: %w", b.at.Image, err)
	}
	return f, disk.At("pull: image is fetched")
}

// charge refuses manifests that cannot be recorded.
func (r *resolver) charge(manifest []byte) error {
	if r.manifests += len(manifest); r.manifests > maxManifests {
		return fmt.Errorf("%w: the manifests of the images have more than %d bytes together", container.ErrInvalid, maxManifests)
	}
	if !utf8.Valid(manifest) {
		return fmt.Errorf("%w: the manifest is not UTF-8", container.ErrInvalid)
	}
	return nil
}

// piece is the layer of the last image in path.
func (r *resolver) piece(ctx context.Context, f *found, path []*found) (p piece, l fetch.Layer, err error) {
	p.Image = f.index
	var kept whitelist
	for _, above := range path {
		if list := above.parsed.PathWhitelist; len(list) > 0 && !slices.Contains(p.Whitelist, above.index) {
			p.Whitelist = append(p.Whitelist, above.index)
			kept = kept.with(list)
		}
	}
	slices.Sort(p.Whitelist)
	l, err = r.layer(ctx, f, fmt.Sprint(p.Whitelist), kept)
	p.DiffID = l.DiffID
	return p, l, err
}

// layer is what is kept of an image; key tells it from what else is.
func (r *resolver) layer(ctx context.Context, f *found, key string, kept whitelist) (fetch.Layer, error) {
	if kept == nil {
		return f.contents.layer(), nil
	}
	if l, known := f.layers[key]; known {
		return l, nil
	}
	left, err := r.read(ctx, f.bundle, kept, io.Discard)
	if err != nil {
		return fetch.Layer{}, fmt.Errorf("%s: layer of the image: %w", f.at.Image, err)
	}
	f.layers[key] = left.layer()
	return f.layers[key], nil
}

// layer is named by its own digest, as nobody can ask for less than the whole image.
func (c *contents) layer() fetch.Layer {
	return fetch.Layer{DiffID: c.diffID, Descriptor: image.Descriptor{Digest: c.diffID, Size: c.layerSize}}
}
