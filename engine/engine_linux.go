package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer/mesos"
	"berth/internal/atomicfile"
	"berth/internal/cgroup"
	"berth/isolator"
	launcher "berth/launcher/linux"
	"berth/layer"
	"berth/provisioner"
	"berth/provisioner/backend"
	"berth/provisioner/store"
	"berth/provisioner/store/docker"
	"berth/registry"
	"berth/state"
)

// Images is the part of an engine that needs no launcher: the stores and their layers.
type Images struct {
	Layout      state.Layout
	Layers      *layer.Store
	Stores      map[v1.Image_Type]store.Store
	Provisioner *provisioner.Provisioner
}

// Engine is a containerizer and what it is made of.
type Engine struct {
	*Images
	*mesos.Containerizer
}

// isolates reports whether an isolator is configured.
func (c Config) isolates(name string) bool { return slices.Contains(c.Isolation, name) }

// OpenImages opens the stores and the provisioner. ErrInvalid: the configuration;
// ErrNotSupported: a backend that was asked for does not work here.
func OpenImages(ctx context.Context, c Config) (*Images, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: berth gives files the owners that images say, makes mounts and namespaces, and needs root; this is user %d", container.ErrFailedPrecondition, os.Geteuid())
	}
	layout, err := state.NewLayout(c.WorkDir, c.RuntimeDir)
	if err != nil {
		return nil, fmt.Errorf("open --work_dir and --runtime_dir: %w", err)
	}
	images := &Images{Layout: layout, Stores: make(map[v1.Image_Type]store.Store)}
	dockerDir := layout.DockerStore()
	storeDir := layout.Store()
	if c.DockerStoreDir != "" {
		dockerDir, storeDir = c.DockerStoreDir, c.DockerStoreDir
	}
	if images.Layers, err = layer.Open(storeDir, layer.DefaultLimits); err != nil {
		return nil, err
	}
	for _, provider := range c.ImageProviders {
		if !strings.EqualFold(provider, "docker") {
			return nil, fmt.Errorf("--image_providers: %q: %w: known is docker", provider, container.ErrInvalid)
		}
		images.Stores[v1.Image_DOCKER], err = docker.New(docker.Options{
			Dir: dockerDir, Layers: images.Layers, Registry: registry.NewClient(c.Registry), Progress: c.Progress})
		if err != nil {
			return nil, err
		}
	}
	if err := images.openProvisioner(ctx, c); err != nil {
		return nil, err
	}
	return images, nil
}

func (i *Images) openProvisioner(ctx context.Context, c Config) (err error) {
	all := make(map[string]backend.Backend)
	for _, b := range backends {
		all[b.name] = b.make()
	}
	paths := i.Layout.Provisioner()
	if err := os.MkdirAll(paths.Containers(), 0o700); err != nil {
		return fmt.Errorf("open provisioner: %w", err)
	}
	chosen := c.ImageProvisionerBackend
	if chosen == "" {
		if chosen, err = i.defaultBackend(ctx); err != nil {
			return err
		}
	}
	if _, ok := all[chosen]; !ok {
		return fmt.Errorf("--image_provisioner_backend: %q: %w: known are %s", chosen, container.ErrInvalid, backendNames())
	}
	i.Provisioner, err = provisioner.New(provisioner.Options{
		Paths: paths, Layers: i.Layers, Stores: i.Stores, Backends: all, Backend: chosen})
	return err
}

// defaultBackend returns the first backend that works on the file system of the
// provisioner. What was found by trying holds until the next boot, for this file system.
func (i *Images) defaultBackend(ctx context.Context) (string, error) {
	root := i.Layout.Provisioner().Root()
	info, err := os.Stat(root)
	if err != nil {
		return "", fmt.Errorf("choose a backend: %w", err)
	}
	stamp := fmt.Sprintf("on device %#x\n", info.Sys().(*syscall.Stat_t).Dev)
	if data, err := os.ReadFile(i.Layout.Backend()); err == nil {
		if name, ok := strings.CutSuffix(string(data), " "+stamp); ok {
			return name, nil
		}
	}
	var reasons []error
	for _, b := range backends {
		if !b.byDefault {
			continue
		}
		if err := backend.Probe(ctx, b.make(), root); err != nil {
			reasons = append(reasons, fmt.Errorf("%s: %w", b.name, err))
			continue
		}
		return b.name, atomicfile.Write(i.Layout.Backend(), []byte(b.name+" "+stamp), 0o600, false)
	}
	return "", fmt.Errorf("choose a backend: none works: %w", errors.Join(reasons...))
}

func backendNames() string {
	var names []string
	for _, b := range backends {
		names = append(names, b.name)
	}
	return strings.Join(names, ", ")
}

// Open opens a whole engine. Call Recover before anything else.
func Open(ctx context.Context, c Config) (*Engine, error) {
	dir, err := c.launcherDir()
	if err != nil {
		return nil, fmt.Errorf("--launcher_dir: %w", err)
	}
	images, err := OpenImages(ctx, c)
	if err != nil {
		return nil, err
	}
	cgroups, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	l, err := launcher.New(launcher.Options{Layout: images.Layout, Cgroups: cgroups, CgroupsRoot: c.CgroupsRoot, Dir: dir})
	if err != nil {
		return nil, err
	}
	chosen, err := makeIsolators(parts{config: c, launcher: l, cgroups: cgroups})
	if err != nil {
		return nil, err
	}
	return &Engine{Images: images, Containerizer: mesos.New(mesos.Options{
		Layout: images.Layout, Provisioner: images.Provisioner, Launcher: l, Isolators: chosen,
		SandboxDirectory: c.SandboxDirectory, Log: c.log(),
	})}, nil
}

// makeIsolators makes the configured isolators, in the order of the table.
func makeIsolators(p parts) (chosen []isolator.Isolator, err error) {
	wanted := slices.Clone(p.config.Isolation)
	slices.Sort(wanted)
	for i, name := range wanted {
		if i > 0 && wanted[i-1] == name {
			return nil, fmt.Errorf("--isolation: %w: %q is there twice", container.ErrInvalid, name)
		}
	}
	for _, i := range isolators {
		at, ok := slices.BinarySearch(wanted, i.name)
		if !ok {
			continue
		}
		wanted = slices.Delete(wanted, at, at+1)
		if _, ok := p.cgroups.Version(i.controller); i.controller != "" && !ok {
			err = errors.Join(err, fmt.Errorf("--isolation: %s: the cgroup controller %q is not mounted: %w; mount it or leave the isolator out",
				i.name, i.controller, container.ErrNotSupported))
			continue
		}
		chosen = append(chosen, i.make(p))
	}
	if len(wanted) > 0 {
		err = errors.Join(err, fmt.Errorf("--isolation: %w: unknown isolator %q", container.ErrInvalid, wanted))
	}
	return chosen, err
}

// Provision makes a root filesystem of img for an operator to use; Destroy removes it.
func (e *Engine) Provision(ctx context.Context, id container.ID, img *v1.Image) (rootfs *provisioner.Rootfs, err error) {
	err = e.Containerizer.ProvisionOnly(ctx, id, func(ctx context.Context) error {
		rootfs, err = e.Images.Provisioner.Provision(ctx, id, img)
		return err
	})
	return rootfs, err
}
