// Package docker is the store of Docker images: from registries of the distribution
// protocol, OCI images included (registry.go), and from files as `docker save` writes them
// (archive.go). Package fetch is what happens with them.
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
	s, err := fetch.New(kind{o.Registry}, fetch.Options{Dir: o.Dir, Layers: o.Layers, Progress: o.Progress, Metrics: o.Metrics})
	if err != nil {
		return nil, err
	}
	return &Store{s, o.Layers}, nil
}

// kind implements fetch.Kind.
type kind struct {
	registry *registry.Client
}

func (kind) Name() string { return "docker" }

func (kind) Parse(img *v1.Image) (image.Reference, error) {
	if img.GetType() != v1.Image_DOCKER {
		return image.Reference{}, fmt.Errorf("image of type %s: %w for the docker store", img.GetType(), container.ErrInvalid)
	}
	reference, err := image.ParseReference(img.GetDocker().GetName())
	if err != nil {
		return image.Reference{}, err
	}
	if img.GetDocker().GetConfig() != nil {
		return image.Reference{}, fmt.Errorf("image %s: credentials in the request: %w; give them to the docker configuration of the user that runs berth",
			reference, container.ErrNotSupported)
	}
	switch reference.Transport {
	case image.Docker:
		return reference, nil
	case image.DockerArchive:
		return fetch.Absolute(reference)
	}
	return image.Reference{}, fmt.Errorf("image %s: %w: the docker store has no images of the transport %s",
		reference, container.ErrNotSupported, reference.Transport)
}

func (kd kind) Source(k fetch.Key, tmp func() (string, error)) (fetch.Source, error) {
	want, err := k.Want()
	if err != nil {
		return nil, err
	}
	if k.Reference.Transport == image.DockerArchive {
		return openArchive(k.Reference, want, tmp)
	}
	return &registrySource{client: kd.registry, name: k.Reference.Name, want: want}, nil
}
