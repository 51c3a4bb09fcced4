// Package docker is the store of Docker images: from registries of the distribution
// protocol, OCI images included (registry.go), and from files as `docker save` writes them
// (archive.go), which may be all that there is (archivedir.go). Package fetch is what
// happens with them.
package docker

import (
	"fmt"

	v1 "berth/api/v1"
	"berth/container"
	"berth/image"
	"berth/internal/metrics"
	"berth/layer"
	"berth/provisioner/store"
	"berth/provisioner/store/fetch"
	"berth/registry"
)

// Options are what a store is made of.
type Options struct {
	// Dir is where the records lie, on the file system of Layers.
	Dir      string
	Layers   *layer.Store
	Registry *registry.Client
	// Archives is a directory of files as `docker save` writes them, that stands for all
	// registries; "" is none. The image is in NAME.tar, see inArchives.
	Archives string
	// Slots are those of fetch.Options.
	Slots *fetch.Slots
	// Progress and Metrics may be nil.
	Progress store.Progress
	Metrics  *metrics.Set
}

// Store implements store.Store.
type Store struct {
	*fetch.Store
	layers *layer.Store
}

// New returns the store, and makes its directory when missing.
func New(o Options) (*Store, error) {
	s, err := fetch.New(kind{o.Registry, o.Archives}, fetch.Options{Dir: o.Dir, Layers: o.Layers, Slots: o.Slots, Progress: o.Progress, Metrics: o.Metrics})
	if err != nil {
		return nil, err
	}
	return &Store{s, o.Layers}, nil
}

// kind implements fetch.Kind.
type kind struct {
	registry *registry.Client
	archives string
}

func (kind) Name() string { return "docker" }

func (kind) Parse(img *v1.Image) (image.Reference, *v1.Secret, error) {
	if img.GetType() != v1.Image_DOCKER {
		return image.Reference{}, nil, fmt.Errorf("image of type %s: %w for the docker store", img.GetType(), container.ErrInvalid)
	}
	reference, err := image.ParseReference(img.GetDocker().GetName())
	if err != nil {
		return image.Reference{}, nil, err
	}
	switch reference.Transport {
	case image.Docker:
	case image.DockerArchive:
		reference, err = fetch.Absolute(reference)
	default:
		err = fmt.Errorf("image %s: %w: the docker store has no images of the transport %s",
			reference, container.ErrNotSupported, reference.Transport)
	}
	return reference, img.GetDocker().GetConfig(), err
}

func (kd kind) Source(r fetch.Request) (fetch.Source, error) {
	want, err := r.Want()
	if err != nil {
		return nil, err
	}
	if r.Reference.Transport == image.DockerArchive {
		return openArchive(r.Reference, want, r.Tmp)
	}
	if kd.archives != "" {
		file, err := inArchives(kd.archives, r.Reference.Name)
		if err != nil {
			return nil, err
		}
		return openArchive(file, want, r.Tmp)
	}
	client, err := withSecret(kd.registry, r.Secret)
	if err != nil {
		return nil, err
	}
	return &registrySource{client: client, partials: r.Partials, name: r.Reference.Name, want: want}, nil
}
