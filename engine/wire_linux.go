package engine

import (
	"cmp"
	"path/filepath"

	v1 "berth/api/v1"
	"berth/internal/cgroup"
	"berth/isolator"
	appcruntime "berth/isolator/appc/runtime"
	"berth/isolator/cgroups/blkio"
	"berth/isolator/cgroups/cpu"
	"berth/isolator/cgroups/cpuset"
	"berth/isolator/cgroups/devices"
	"berth/isolator/cgroups/hugetlb"
	"berth/isolator/cgroups/mem"
	"berth/isolator/cgroups/netprio"
	"berth/isolator/cgroups/pids"
	"berth/isolator/disk/du"
	"berth/isolator/disk/xfs"
	"berth/isolator/environmentsecret"
	filesystem "berth/isolator/filesystem/linux"
	"berth/isolator/filesystem/posix"
	"berth/isolator/filesystem/shared"
	linuxdevices "berth/isolator/linux/devices"
	"berth/isolator/linux/label"
	"berth/isolator/linux/nnp"
	cgroupns "berth/isolator/namespaces/cgroup"
	"berth/isolator/namespaces/ipc"
	"berth/isolator/namespaces/pid"
	"berth/isolator/namespaces/user"
	"berth/isolator/namespaces/uts"
	"berth/isolator/network/cni"
	"berth/isolator/network/ports"
	posixcpu "berth/isolator/posix/cpu"
	posixmem "berth/isolator/posix/mem"
	"berth/isolator/posix/rlimits"
	"berth/isolator/runtime"
	"berth/isolator/volume/hostpath"
	"berth/isolator/volume/image"
	"berth/isolator/volume/sandboxpath"
	"berth/isolator/volume/secret"
	launcher "berth/launcher/linux"
	"berth/provisioner/backend"
	"berth/provisioner/backend/aufs"
	"berth/provisioner/backend/bind"
	"berth/provisioner/backend/copy"
	"berth/provisioner/backend/erofs"
	"berth/provisioner/backend/overlay"
	"berth/provisioner/store"
	"berth/provisioner/store/appc"
	"berth/provisioner/store/docker"
	"berth/provisioner/store/fetch"
	"berth/provisioner/store/oci"
	"berth/registry"
)

// backends has every backend; the order is that in which a default is looked for.
var backends = []struct {
	name      string
	make      func(*Images) backend.Backend
	byDefault bool // may be chosen without being asked for
}{
	{"erofs", func(i *Images) backend.Backend { return erofs.New(i.Layout.Mounts()) }, true},
	{"overlay", func(*Images) backend.Backend { return overlay.New() }, true},
	{"aufs", func(*Images) backend.Backend { return aufs.New() }, true},
	{"copy", func(*Images) backend.Backend { return copy.New() }, true},
	{"bind", func(i *Images) backend.Backend { return bind.New(i.metrics) }, false},
}

// provider is a kind of images.
type provider struct {
	name string // in --image_providers
	of   v1.Image_Type
	open func(c Config, i *Images) (store.Store, error)
}

// providers has every kind of images. All share the layers, and unless --appc_store_dir
// says so, their records lie on one file system with these.
var providers = []provider{
	{"appc", v1.Image_APPC, func(c Config, i *Images) (store.Store, error) {
		return appc.New(appc.Options{
			Options: fetch.Options{
				Dir: cmp.Or(c.AppcStoreDir, c.besideLayers("appc"), i.Layout.AppcStore()), Layers: i.Layers, Slots: i.slots,
				Progress: c.Progress, Metrics: i.metrics,
			},
			Web: registry.NewClient(c.Registry), Prefix: c.AppcSimpleDiscoveryURIPrefix,
			Keyring: c.AppcKeyring, PassphraseFile: c.AppcPassphraseFile,
		})
	}},
	{"docker", v1.Image_DOCKER, func(c Config, i *Images) (store.Store, error) {
		talk, archives, err := c.dockerSources()
		if err != nil {
			return nil, err
		}
		return docker.New(docker.Options{
			Dir: cmp.Or(c.DockerStoreDir, i.Layout.DockerStore()), Layers: i.Layers, Slots: i.slots,
			Registry: registry.NewClient(talk), Archives: archives, Progress: c.Progress, Metrics: i.metrics,
		})
	}},
	{"oci", v1.Image_OCI, func(c Config, i *Images) (store.Store, error) {
		dir := cmp.Or(c.besideLayers("oci"), i.Layout.OCIStore())
		return oci.New(fetch.Options{Dir: dir, Layers: i.Layers, Slots: i.slots, Progress: c.Progress, Metrics: i.metrics})
	}},
}

// besideLayers is the directory of a store whose layers --docker_store_dir has; "" when
// they are in --work_dir.
func (c Config) besideLayers(store string) string {
	if c.DockerStoreDir == "" {
		return ""
	}
	return filepath.Join(c.DockerStoreDir, store)
}

// parts are what isolators may be made of.
type parts struct {
	config    Config
	launcher  *launcher.Launcher
	processes *launchers
	cgroups   *cgroup.Host
	images    *Images
	settings  cgroupSettings
	security  security
}

// tableEntry is an isolator of berth's own.
type tableEntry struct {
	name string
	make func(p parts) isolator.Isolator
	// controller that the isolator needs, if it does
	controller string
}

// isolators has every isolator, in the order in which they prepare a container: the
// file system first, which the others mount into.
var isolators = []tableEntry{
	{"filesystem/linux", func(p parts) isolator.Isolator {
		return filesystem.New(filesystem.Options{
			SandboxDirectory: p.config.SandboxDirectory, Shm: !p.config.isolates("namespaces/ipc"), Volume: p.images.Layout.PersistentVolume,
		})
	}, ""},
	{"filesystem/shared", func(parts) isolator.Isolator { return shared.New() }, ""},
	{"filesystem/posix", func(parts) isolator.Isolator { return posix.New() }, ""},
	{"posix/cpu", func(p parts) isolator.Isolator { return posixcpu.New(p.processes) }, ""},
	{"posix/mem", func(p parts) isolator.Isolator { return posixmem.New(p.processes) }, ""},
	{"cgroups/cpu", func(p parts) isolator.Isolator { return cpu.New(p.launcher) }, "cpu"},
	{"cgroups/mem", func(p parts) isolator.Isolator { return mem.New(p.launcher, p.config.CgroupsLimitSwap, p.config.log()) }, "memory"},
	{"cgroups/pids", func(p parts) isolator.Isolator { return pids.New(p.launcher) }, "pids"},
	{"cgroups/devices", func(p parts) isolator.Isolator { return devices.New(p.launcher, p.cgroups, p.settings.devices) }, "devices"},
	{"cgroups/cpuset", func(p parts) isolator.Isolator { return cpuset.New(p.launcher) }, "cpuset"},
	{"cgroups/blkio", func(p parts) isolator.Isolator { return blkio.New(p.launcher) }, "blkio"},
	{"cgroups/hugetlb", func(p parts) isolator.Isolator { return hugetlb.New(p.launcher) }, "hugetlb"},
	{"cgroups/perf_event", func(p parts) isolator.Isolator { return p.perfEvent() }, "perf_event"},
	{"cgroups/net_cls", func(p parts) isolator.Isolator { return p.netCls() }, "net_cls"},
	{"cgroups/net_prio", func(p parts) isolator.Isolator { return netprio.New(p.launcher) }, "net_prio"},
	{"disk/du", func(p parts) isolator.Isolator { return du.New(p.diskUsage()) }, ""},
	{"disk/xfs", func(p parts) isolator.Isolator { return xfs.New(p.diskQuota()) }, ""},
	{"posix/rlimits", func(parts) isolator.Isolator { return rlimits.New() }, ""},
	{"docker/runtime", func(parts) isolator.Isolator { return runtime.New(v1.Image_DOCKER) }, ""},
	{"oci/runtime", func(parts) isolator.Isolator { return runtime.New(v1.Image_OCI) }, ""},
	{"appc/runtime", func(parts) isolator.Isolator { return appcruntime.New() }, ""},
	{"linux/devices", func(p parts) isolator.Isolator { return linuxdevices.New(p.settings.devices) }, ""},
	{"linux/capabilities", func(p parts) isolator.Isolator { return p.security.capabilities }, ""},
	{"linux/label", func(parts) isolator.Isolator { return label.New() }, ""},
	{"linux/nnp", func(parts) isolator.Isolator { return nnp.New() }, ""},
	{"linux/seccomp", func(p parts) isolator.Isolator { return p.security.seccomp }, ""},
	{"namespaces/cgroup", func(parts) isolator.Isolator { return cgroupns.New() }, ""},
	{"environment_secret", func(p parts) isolator.Isolator { return environmentsecret.New(p.config.secrets()) }, ""},
	{"namespaces/ipc", func(p parts) isolator.Isolator {
		return ipc.New(ipc.Options{Alone: p.config.DisallowSharingAgentIPCNamespace, ShmSize: p.config.DefaultContainerShmSize})
	}, ""},
	{"namespaces/pid", func(p parts) isolator.Isolator { return pid.New(p.config.DisallowSharingAgentPIDNamespace) }, ""},
	{"namespaces/uts", func(parts) isolator.Isolator { return uts.New() }, ""},
	{"namespaces/user", func(parts) isolator.Isolator { return user.New() }, ""},
	{"network/cni", func(p parts) isolator.Isolator { return cni.New(p.networks()) }, ""},
	{"network/ports", func(p parts) isolator.Isolator { return ports.New(p.ports()) }, ""},
	{"volume/sandbox_path", func(p parts) isolator.Isolator {
		return sandboxpath.New(sandboxpath.Options{SandboxDirectory: p.config.SandboxDirectory, Sandbox: p.images.Layout.Sandbox})
	}, ""},
	{"volume/host_path", func(p parts) isolator.Isolator {
		return hostpath.New(hostpath.Options{SandboxDirectory: p.config.SandboxDirectory, Prefixes: p.config.HostPathVolumePrefixes})
	}, ""},
	{"volume/secret", func(p parts) isolator.Isolator {
		return secret.New(secret.Options{SandboxDirectory: p.config.SandboxDirectory, Resolver: p.config.secrets()})
	}, ""},
	// Last: it may have much to fetch, and a request that another one refuses need not.
	{"volume/image", func(p parts) isolator.Isolator {
		return image.New(image.Options{SandboxDirectory: p.config.SandboxDirectory, Provision: p.images.provisionVolumes})
	}, ""},
}

// implied are the isolators that come with another one, as in Mesos.
var implied = map[string][]string{
	"filesystem/linux":  {"volume/sandbox_path", "volume/host_path", "volume/secret", "volume/image"},
	"filesystem/shared": {"volume/host_path"},
}

// onTrees are the isolators that need no namespaces, no cgroups and no mounts: those for the
// posix launcher. Those of images have nothing to do there, and do no harm.
var onTrees = []string{"filesystem/posix", "posix/cpu", "posix/mem", "posix/rlimits", "disk/du", "docker/runtime", "oci/runtime", "appc/runtime",
	"linux/nnp", "environment_secret"}

// needs are the isolators of which another one needs one.
var needs = map[string][]string{
	"volume/sandbox_path": {"filesystem/linux", "filesystem/shared"},
	"volume/host_path":    {"filesystem/linux", "filesystem/shared"},
	"volume/secret":       {"filesystem/linux", "filesystem/shared"},
	"volume/image":        {"filesystem/linux", "filesystem/shared"},
}
