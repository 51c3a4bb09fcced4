package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer/mesos"
	"berth/fetcher"
	"berth/internal/cgroup"
	"berth/internal/metrics"
	"berth/layer"
	"berth/provisioner"
	"berth/provisioner/store"
	"berth/provisioner/store/fetch"
	"berth/state"
)

// Images is the part of an engine that needs no launcher: the stores and their layers.
type Images struct {
	Layout      state.Layout
	Layers      *layer.Store
	Stores      map[v1.Image_Type]store.Store
	Provisioner *provisioner.Provisioner

	metrics *metrics.Set
	slots   *fetch.Slots // of the downloads of all stores
	asked   string       // backend

	choice sync.Mutex
	chosen bool // the Provisioner has a backend that works
}

// Engine is a containerizer and what it is made of.
type Engine struct {
	*Images
	*mesos.Containerizer

	launchers   *launchers
	defaultInfo *v1.ContainerInfo // of containers that bring none
	imagesRun   bool              // as root file systems
	counted     []string
}

// OpenImages opens the stores and the provisioner, for whoever looks after them: it needs
// no backend that works, as one does who provisions (Open). The caller owes a Close.
// ErrInvalid: the configuration.
func OpenImages(ctx context.Context, c Config) (*Images, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: berth gives files the owners that images say, makes mounts and namespaces, and needs root; this is user %d", container.ErrFailedPrecondition, os.Geteuid())
	}
	return openImages(c)
}

func openImages(c Config) (images *Images, err error) {
	defer func() {
		if os.Geteuid() != 0 && errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: name directories of your own; whoever runs images needs root", err)
		}
	}()
	layout, err := state.NewLayout(c.WorkDir, c.RuntimeDir)
	if err != nil {
		return nil, fmt.Errorf("open --work_dir and --runtime_dir: %w", err)
	}
	layers, err := layer.Open(cmp.Or(c.DockerStoreDir, layout.Store()), layer.DefaultLimits)
	if err != nil {
		return nil, err
	}
	images = &Images{Layout: layout, Layers: layers, metrics: metrics.New(), slots: fetch.NewSlots()}
	if err := images.open(c); err != nil {
		return nil, errors.Join(err, images.Close())
	}
	return images, nil
}

func (i *Images) open(c Config) (err error) {
	i.asked = c.ImageProvisionerBackend
	if i.Stores, err = openStores(c, i); err != nil {
		return err
	}
	if err := knownBackend(c.ImageProvisionerBackend); err != nil {
		return err
	}
	i.Provisioner, err = provisioner.New(provisioner.Options{
		Paths: i.Layout.Provisioner(), Layers: i.Layers, Stores: i.Stores,
		Backends: i.madeBackends(), Backend: cmp.Or(c.ImageProvisionerBackend, defaultBackends()[0]),
		Log: c.log(), Metrics: i.metrics,
	})
	return err
}

func openStores(c Config, i *Images) (map[v1.Image_Type]store.Store, error) {
	stores := make(map[v1.Image_Type]store.Store)
	for _, name := range c.ImageProviders {
		at := slices.IndexFunc(providers, func(p provider) bool { return strings.EqualFold(p.name, name) })
		if at < 0 {
			return nil, fmt.Errorf("--image_providers: %q: %w: known are %s", name, container.ErrInvalid, strings.Join(providerNames(), ", "))
		}
		s, err := providers[at].open(c, i)
		if err != nil {
			return nil, err
		}
		stores[providers[at].of] = s
	}
	return stores, nil
}

func providerNames() (names []string) {
	for _, p := range providers {
		names = append(names, p.name)
	}
	return names
}

// Close ends the use of the stores. Without it they count as not closed in order: should
// the machine go down, every layer is verified before its next use.
func (i *Images) Close() error { return i.Layers.Close() }

// Metrics returns the value of each metric, under the names that Mesos has for them.
func (i *Images) Metrics() map[string]float64 { return i.metrics.Snapshot() }

// Counts reports whether a metric is one that only grows.
func (i *Images) Counts(metric string) bool { return i.metrics.Counts(metric) }

// Open opens a whole engine. Call Recover before anything else; the caller owes a Close.
// ErrInvalid: the configuration; ErrNotSupported: what was asked for does not work here.
func Open(ctx context.Context, c Config) (*Engine, error) {
	dir, err := c.launcherDir()
	if err != nil {
		return nil, fmt.Errorf("--launcher_dir: %w", err)
	}
	cgroups, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	c.Isolation = expandCgroups(c.Isolation, cgroups)
	defaultInfo, err := c.defaultContainerInfo()
	_, dnsErr := c.containerDNS()
	if err := errors.Join(err, dnsErr, c.checkContainerizers(), c.checkLauncher(), c.checkIsolation(), c.checkPrefixes(), c.checkPorts(), c.checkDisk()); err != nil {
		return nil, err
	}
	// Without root no image is run, but the posix launcher runs the host's commands.
	images, err := openImages(c)
	if err != nil {
		return nil, err
	}
	containerizer, launchers, err := openContainerizer(ctx, c, cgroups, dir, images)
	if err != nil {
		return nil, errors.Join(err, images.Close())
	}
	return &Engine{Images: images, Containerizer: containerizer, launchers: launchers, defaultInfo: defaultInfo, imagesRun: c.isolates("filesystem/linux"), counted: c.counted()}, nil
}

func openContainerizer(ctx context.Context, c Config, cgroups *cgroup.Host, launcherDir string, images *Images) (*mesos.Containerizer, *launchers, error) {
	if os.Geteuid() == 0 {
		if err := images.chooseBackend(ctx); err != nil {
			return nil, nil, err
		}
	}
	settings, err := c.cgroups()
	if err != nil {
		return nil, nil, err
	}
	if err := c.checkQuotas(images.Layout); err != nil {
		return nil, nil, err
	}
	if c.launcherName() == linuxLauncher {
		if err := c.checkCgroupsRoot(cgroups); err != nil {
			return nil, nil, err
		}
	}
	l, err := c.openLaunchers(images.Layout, cgroups, launcherDir)
	if err != nil {
		return nil, nil, err
	}
	security, err := newSecurity(c)
	if err != nil {
		return nil, nil, err
	}
	ranges, err := c.ranges()
	if err != nil {
		return nil, nil, err
	}
	p := parts{config: c, launcher: l.linux, processes: l, cgroups: cgroups, images: images, settings: settings, security: security}
	chosen, err := makeIsolators(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	all := p.leftovers() // the first to prepare are the last to clean up
	for _, i := range chosen {
		all = append(all, i.Isolator)
	}
	return mesos.New(mesos.Options{
		Layout: images.Layout, Provisioner: images.Provisioner, Launcher: l, Isolators: all, Check: checkRequest(chosen),
		Fetcher: openFetcher(c, images), Ranges: ranges, SandboxDirectory: c.SandboxDirectory, Agent: c.Agent, Observe: c.Observe, Log: c.log(),
	}), l, nil
}

// Close ends the use of the engine: that of the stores, as Images.Close does, and of the launchers.
func (e *Engine) Close() error {
	e.launchers.close()
	return e.Images.Close()
}

func openFetcher(c Config, images *Images) *fetcher.Fetcher {
	return fetcher.New(fetcher.Options{
		CacheDir: cmp.Or(c.FetcherCacheDir, images.Layout.FetcherCache()), CacheSize: c.FetcherCacheSize,
		StallTimeout: c.FetcherStallTimeout, FrameworksHome: c.FrameworksHome, Metrics: images.metrics,
	})
}

// Provision makes a root filesystem of img for an operator to use; Destroy removes it.
func (e *Engine) Provision(ctx context.Context, id container.ID, img *v1.Image) (rootfs *provisioner.Rootfs, err error) {
	err = e.Containerizer.ProvisionOnly(ctx, id, func(ctx context.Context) error {
		rootfs, err = e.Images.Provisioner.Provision(ctx, id, img)
		return err
	})
	return rootfs, err
}
