package provisioner_test

import (
	"context"
	"path/filepath"

	v1 "berth/api/v1"
	"berth/layer"
	"berth/provisioner"
	"berth/provisioner/backend"
	"berth/provisioner/backend/bind"
	"berth/provisioner/backend/copy"
	"berth/provisioner/backend/overlay"
	"berth/provisioner/store"
	"berth/provisioner/store/docker"
	"berth/registry"
	"berth/state"
)

// process is what one berth process has of a work directory.
type process struct {
	*provisioner.Provisioner
	images store.Store
}

// newProcess opens the work directory dir as a new process does.
func newProcess(t reporter, dir, backendName string) *process {
	t.Helper()
	layout, err := state.NewLayout(filepath.Join(dir, "work"), filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := layer.Open(layout.Store(), layer.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	client := registry.NewClient(registry.Options{Keychain: &registry.DockerConfig{}})
	images, err := docker.New(docker.Options{Dir: layout.DockerStore(), Layers: layers, Registry: client})
	if err != nil {
		t.Fatal(err)
	}
	p, err := provisioner.New(provisioner.Options{
		Paths: layout.Provisioner(), Layers: layers, Backend: backendName,
		Stores:   map[v1.Image_Type]store.Store{v1.Image_DOCKER: images},
		Backends: map[string]backend.Backend{"overlay": overlay.New(), "copy": copy.New(), "bind": bind.New(nil)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &process{p, images}
}

// stop ends the process in order.
func (p *process) stop(t reporter) {
	t.Helper()
	if err := p.Layers.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// pull gets an image and lets it go.
func (p *process) pull(ctx context.Context, img *v1.Image) error {
	found, err := p.images.Get(ctx, img, layer.Tree)
	if err != nil {
		return err
	}
	return found.Release()
}
