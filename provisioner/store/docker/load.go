package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"berth/container"
	"berth/image"
	"berth/layer"
	"berth/provisioner/store"
	"berth/provisioner/store/fetch"
	"berth/provisioner/store/layout"
)

// Load records the images of an archive under the names that they have in it, like a pull
// from the registry. It reads what `docker save` and `podman save` write, in both formats.
// An image with several names is recorded under each. A name with a digest has to be proven
// by the documents in the archive.
//
// The layers are put into the store in the form. What is returned beside an error is
// recorded. ErrInvalid: the archive, or an image in it
// that has no name; others as of Get.
func (s *Store) Load(ctx context.Context, path string, form layer.Form) ([]store.Record, error) {
	records, err := s.loadFrom(ctx, form, func(tmp func() (string, error)) (*fetch.Archive, error) {
		file, err := fetch.OpenArchive(path, tmp)
		if err != nil {
			return nil, err
		}
		if err := file.Index(ctx); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		return file, nil
	})
	if err != nil {
		err = fmt.Errorf("load %s: %w", path, err)
	}
	return records, err
}

// LoadStream is Load for an archive that comes as a stream, which is read to its end and
// needs space on the store's file system meanwhile.
func (s *Store) LoadStream(ctx context.Context, from io.Reader, form layer.Form) ([]store.Record, error) {
	records, err := s.loadFrom(ctx, form, func(tmp func() (string, error)) (*fetch.Archive, error) {
		return fetch.ReadArchive(ctx, from, tmp)
	})
	if err != nil {
		err = fmt.Errorf("load: %w", err)
	}
	return records, err
}

func (s *Store) loadFrom(ctx context.Context, form layer.Form, open func(tmp func() (string, error)) (*fetch.Archive, error)) (records []store.Record, err error) {
	lease, err := s.layers.Lease(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	file, err := open(lease.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	list := imagesOfArchive
	if file.Has(image.LayoutFile) && file.Has(image.LayoutIndexFile) {
		list = imagesOfLayout
	}
	images, err := list(file.Members)
	if err != nil {
		return nil, err
	}
	return s.load(ctx, images, form)
}

func (s *Store) load(ctx context.Context, images []loadable, form layer.Form) (records []store.Record, err error) {
	if len(images) == 0 {
		return nil, fmt.Errorf("%w: it has no image", container.ErrInvalid)
	}
	for _, img := range images {
		if img.name.IsZero() {
			err = errors.Join(err, fmt.Errorf("%w: an image in it has no name to be recorded under; use it as oci-archive:FILE[:REF] or docker-archive:FILE", container.ErrInvalid))
			continue
		}
		k := fetch.Key{Reference: image.Reference{Transport: image.Docker, Name: img.name}}
		if !image.HostPlatform().Accepts(img.platform) {
			k.Platform = img.platform.Normalize().String()
		}
		rec, failed := s.Import(ctx, k, form, img.source)
		if failed != nil {
			return records, errors.Join(err, failed)
		}
		records = append(records, rec)
	}
	return records, err
}

// loadable is an image to be loaded.
type loadable struct {
	name     image.Name // zero: it has none
	platform image.Platform
	source   fetch.Source
}

// openSource is a source whose archive somebody else has opened. What it resolves is not
// recorded as coming from there.
type openSource struct {
	resolve func(ctx context.Context) (*fetch.Resolved, error)
	open    func(l fetch.Layer) (io.ReadCloser, error)
}

func (o openSource) Resolve(ctx context.Context) (*fetch.Resolved, error) { return o.resolve(ctx) }

func (o openSource) Recall(context.Context, fetch.Recorded) error { return nil }

func (o openSource) Open(_ context.Context, l fetch.Layer) (io.ReadCloser, error) { return o.open(l) }

func (o openSource) Close() error { return nil }

// imagesOfLayout returns the images of an OCI layout.
func imagesOfLayout(members *fetch.Members) (images []loadable, err error) {
	l := layout.InArchive(members)
	index, _, err := l.Index()
	if err != nil {
		return nil, err
	}
	for _, entry := range index.Manifests {
		name, _ := layout.NameOf(entry)
		want := image.HostPlatform()
		if entry.Platform != nil {
			want = *entry.Platform
		}
		images = append(images, loadable{name, want, openSource{
			resolve: func(ctx context.Context) (*fetch.Resolved, error) { return l.Find(ctx, entry, name, want) },
			open:    func(wanted fetch.Layer) (io.ReadCloser, error) { return l.Blob(wanted.Descriptor) },
		}})
	}
	return images, nil
}

// imagesOfArchive returns the images of an archive that is none, under each of their names.
func imagesOfArchive(members *fetch.Members) (images []loadable, err error) {
	names, err := namesInArchive(members)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		a := &archive{reference: image.Reference{Transport: image.DockerArchive, Name: n.name}, want: n.platform, members: members}
		images = append(images, loadable{n.name, n.platform, openSource{
			resolve: a.find,
			open:    func(l fetch.Layer) (io.ReadCloser, error) { return io.NopCloser(a.members.Open(a.at[l.DiffID])), nil },
		}})
	}
	return images, nil
}

type archivedName struct {
	name     image.Name
	platform image.Platform
}

// namesInArchive returns the names of all images; an image without one has the zero name.
func namesInArchive(members *fetch.Members) (names []archivedName, err error) {
	if !members.Has("manifest.json") {
		var repositories map[string]map[string]string
		if err := members.Decode("repositories", &repositories); err != nil {
			return nil, err
		}
		for _, tag := range slices.Sorted(maps.Keys(topLayers(repositories))) {
			names = append(names, archivedName{parseTag(tag), image.HostPlatform()})
		}
		return names, nil
	}
	var images []savedImage
	if err := members.Decode("manifest.json", &images); err != nil {
		return nil, err
	}
	for _, img := range images {
		body, err := members.Read(img.Config)
		if err != nil {
			return nil, err
		}
		config, err := image.ParseConfig(body)
		if err != nil {
			return nil, err
		}
		platform := config.Platform
		if platform.OS == "" || platform.Architecture == "" {
			platform = image.HostPlatform()
		}
		if len(img.RepoTags) == 0 {
			names = append(names, archivedName{platform: platform})
		}
		for _, tag := range img.RepoTags {
			names = append(names, archivedName{parseTag(tag), platform})
		}
	}
	return names, nil
}

// parseTag returns the zero name for what is none.
func parseTag(tag string) image.Name {
	name, _ := image.ParseName(tag)
	return name
}
