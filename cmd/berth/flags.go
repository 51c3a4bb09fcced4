//go:build linux

package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth/container"
	"berth/engine"
)

// agentFlag is a flag that several sub-commands take.
type agentFlag func(*pflag.FlagSet, *engine.Config)

// Flags of the stores and the provisioner.
func storeFlags(f *pflag.FlagSet, c *engine.Config) {
	f.StringVar(&c.WorkDir, "work_dir", c.WorkDir, "directory of images and root filesystems")
	f.StringVar(&c.RuntimeDir, "runtime_dir", c.RuntimeDir, "directory of the records of running containers")
	f.StringVar(&c.DockerStoreDir, "docker_store_dir", c.DockerStoreDir, "directory of docker images, and of the layers of all images (default: in --work_dir)")
	f.StringVar(&c.DockerRegistry, "docker_registry", c.DockerRegistry, "`URL` of what stands for Docker Hub, or /DIR or file:///DIR with archives NAME.tar")
	f.StringVar(&c.DockerConfig, "docker_config", c.DockerConfig, "credentials for registries: `JSON` as in ~/.docker/config.json, or /PATH or file:///PATH of a file with it (default: the user's)")
	f.StringSliceVar(&c.Registry.Insecure, "insecure_registries", nil, "`HOST[:PORT],...` whose certificates are not checked and that may be spoken to by plain http")
	f.StringSliceVar(&c.Registry.CertDirs, "certs_dirs", c.Registry.CertDirs, "directories with HOST[:PORT]/ca.crt, client.cert and client.key")
	f.StringVar(&c.Registry.HostsDir, "hosts_dir", c.Registry.HostsDir, "directory of containerd's HOST/hosts.toml, for mirrors")
	f.StringVar(&c.Registry.RegistriesConf, "registries_conf", c.Registry.RegistriesConf, "file registries.conf of podman and skopeo, for mirrors")
	f.StringVar(&c.AppcStoreDir, "appc_store_dir", c.AppcStoreDir, "directory of the records of Appc images (default: in --work_dir)")
	f.StringVar(&c.AppcSimpleDiscoveryURIPrefix, "appc_simple_discovery_uri_prefix", c.AppcSimpleDiscoveryURIPrefix,
		"what stands before NAME-VERSION-OS-ARCH.aci in the place of an Appc image: http://..., https://..., /..., file:///...; empty: meta discovery")
	f.StringVar(&c.AppcKeyring, "appc_keyring", c.AppcKeyring, "file with OpenPGP keys, one of which has to have signed each Appc image (default: signatures are not looked for)")
	f.StringVar(&c.AppcPassphraseFile, "appc_passphrase_file", c.AppcPassphraseFile, "file whose first line decrypts encrypted Appc images")
	f.StringSliceVar(&c.ImageProviders, "image_providers", c.ImageProviders, "kinds of images: appc, docker, oci")
	f.StringVar(&c.ImageProvisionerBackend, "image_provisioner_backend", c.ImageProvisionerBackend, "erofs, overlay, aufs, copy or bind (default: the first that works of erofs, overlay, aufs and copy)")
}

// Flags of a launch.
func launchFlags(f *pflag.FlagSet, c *engine.Config) {
	f.StringSliceVar(&c.Containerizers, "containerizers", c.Containerizers, "mesos, which is the only one")
	f.StringSliceVar(&c.Isolation, "isolation", c.Isolation, "isolators")
	f.StringVar(&c.IsolatorDir, "isolator_dir", c.IsolatorDir, "directory of the executables of the isolators external/NAME")
	f.Var(&launcherFlag{f, c}, "launcher", "linux, with namespaces and cgroups, or posix, without (default: linux for root)")
	f.StringVar(&c.UsernsRange, "userns_range", "", "`START:SIZE`: ids of the host for the containers of --userns auto (default: those of berth, or containers, in /etc/subuid and /etc/subgid)")
	f.StringVar(&c.LauncherDir, "launcher_dir", c.LauncherDir, "directory of berth-init (default: that of berth)")
	f.StringVar(&c.CgroupsRoot, "cgroups_root", c.CgroupsRoot, "cgroup that the containers' cgroups are made in")
	f.BoolVar(&c.CgroupsLimitSwap, "cgroups_limit_swap", false, "a limit of memory is one of memory and swap together")
	f.StringVar(&c.AllowedDevices, "allowed_devices", "", "DeviceWhitelist of what containers may beyond the standard devices, as `JSON` or a file with it")
	f.StringVar(&c.NetClsPrimaryHandle, "cgroups_net_cls_primary_handle", "", "`0xAAAA` of the tags 0xAAAABBBB that containers' packets have (default: they have none)")
	f.StringVar(&c.NetClsSecondaryHandles, "cgroups_net_cls_secondary_handles", "", "`0xLOW,0xHIGH`, the range of 0xBBBB (default: 0x1,0xffff)")
	f.StringSliceVar(&c.PerfEvents, "perf_events", nil, "`EVENT,...` that cgroups/perf_event counts, as perf names them (default: the usual ones that the host has)")
	f.DurationVar(&c.PerfInterval, "perf_interval", c.PerfInterval, "how often events are counted")
	f.DurationVar(&c.PerfDuration, "perf_duration", c.PerfDuration, "for how long events are counted each time")
	f.StringVar(&c.DefaultContainerInfo, "default_container_info", "", "ContainerInfo of containers that bring none, as `JSON` or a file with it")
	f.StringSliceVar(&c.HostPathVolumePrefixes, "host_path_volume_prefixes", nil, "`DIR,...` of the host of which there may be volumes (default: all of the host)")
	f.StringVar(&c.SandboxDirectory, "sandbox_directory", c.SandboxDirectory, "where a container with an image finds its sandbox")
	f.DurationVar(&c.ContainerDiskWatchInterval, "container_disk_watch_interval", c.ContainerDiskWatchInterval, "time between two measurements of a container's disk")
	f.BoolVar(&c.EnforceContainerDiskQuota, "enforce_container_disk_quota", false, "end containers that have more on disk than they requested, not only those that exceed a limit")
	f.StringVar(&c.NetworkCNIConfigDir, "network_cni_config_dir", c.NetworkCNIConfigDir, "directory of the configurations of networks")
	f.StringVar(&c.NetworkCNIPluginsDir, "network_cni_plugins_dir", c.NetworkCNIPluginsDir, "`DIR[:DIR...]` of the plugins of networks")
	f.BoolVar(&c.NetworkCNIRootDirPersist, "network_cni_root_dir_persist", c.NetworkCNIRootDirPersist, "record in --work_dir which addresses containers have, so that they are given back after a reboot")
	f.StringVar(&c.DefaultContainerDNS, "default_container_dns", "", "ContainerDNSInfo with the servers of containers on networks whose plugins know none, as `JSON` or a file with it (default: the host's)")
	f.DurationVar(&c.ContainerPortsWatchInterval, "container_ports_watch_interval", c.ContainerPortsWatchInterval, "time between two looks at the ports at which a container listens")
	f.BoolVar(&c.EnforceContainerPorts, "enforce_container_ports", false, "end containers that listen at ports of the host that they were not given")
	f.BoolVar(&c.CheckAgentPortRangeOnly, "check_agent_port_range_only", false, "look only at ports from 31000 to 32000, which an agent gives to containers")
	f.StringVar(&c.ContainerPortsIsolatedRange, "container_ports_isolated_range", "", "look only at these ports, as `[31000-32000]`")
	f.BoolVar(&c.NetworkCNIMetrics, "network_cni_metrics", c.NetworkCNIMetrics, "measure the traffic of containers with networks of their own")
	f.StringVar(&c.EffectiveCapabilities, "effective_capabilities", "", "CapabilityInfo of containers that ask for none, as `JSON` or a file with it (default: what most programs need)")
	f.StringVar(&c.BoundingCapabilities, "bounding_capabilities", "", "CapabilityInfo with all that any container can have, as `JSON` or a file with it (default: all of berth's own)")
	f.BoolVar(&c.DisallowSharingAgentPIDNamespace, "disallow_sharing_agent_pid_namespace", false, "refuse root containers that want to see the processes of the host")
	f.BoolVar(&c.DisallowSharingAgentIPCNamespace, "disallow_sharing_agent_ipc_namespace", false, "refuse root containers that want the shared memory of the host")
	f.Var((*byteSize)(&c.DefaultContainerShmSize), "default_container_shm_size", "`BYTES` of each /dev/shm of a container's own that asks for no size, as 64MB; 0: half of the memory")
	f.StringVar(&c.SecretsDir, "secrets_dir", "", "directory of secrets by name: files that root alone may read")
	f.StringVar(&c.SeccompConfigDir, "seccomp_config_dir", "", "directory of profiles of system calls, as Docker has them")
	f.StringVar(&c.SeccompProfileName, "seccomp_profile_name", "", "that of them which containers get that choose none (default: one of berth's own)")
	f.StringVar(&c.XFSProjectRange, "xfs_project_range", c.XFSProjectRange, "projects for the quotas of disk/xfs, as `[FIRST-LAST]`")
	f.BoolVar(&c.XFSKillContainers, "xfs_kill_containers", false, "end containers that exceed the limit of disk/xfs, rather than let their writes fail")
	f.Var((*byteSize)(&c.XFSQuotaHeadroom), "xfs_quota_headroom", "`BYTES` beyond the limit that a container can have until it is ended")
	f.StringVar(&c.FetcherCacheDir, "fetcher_cache_dir", c.FetcherCacheDir, "directory of downloads that are cached (default: in --work_dir)")
	f.Var((*byteSize)(&c.FetcherCacheSize), "fetcher_cache_size", "`BYTES` that cached downloads may have, as 500MB or 2GB; 0: none are")
	f.DurationVar(&c.FetcherStallTimeout, "fetcher_stall_timeout", c.FetcherStallTimeout, "how long a download may bring next to nothing")
	f.StringVar(&c.FrameworksHome, "frameworks_home", c.FrameworksHome, "directory of the relative paths among URIs (default: they are refused)")
}

// hint adds to the error of a flag that there is not which one was probably meant, and where
// all are.
func hint(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	switch {
	case !errors.As(err, &unknown):
		return err
	case !c.HasParent():
		return fmt.Errorf("%w: %w: it is of no command, for none is named: see `berth --help`", err, container.ErrInvalid)
	}
	return fmt.Errorf("%w%s: %w: see `%s --help`", err, didYouMean(c.Flags(), unknown.GetSpecifiedName()), container.ErrInvalid, c.CommandPath())
}

// launcherFlag has --isolation default to what goes with the launcher.
type launcherFlag struct {
	flags  *pflag.FlagSet
	config *engine.Config
}

func (l *launcherFlag) String() string {
	if l.config == nil { // pflag looks for what the zero value says
		return ""
	}
	return l.config.Launcher
}

func (l *launcherFlag) Type() string { return "NAME" }

func (l *launcherFlag) Set(name string) error {
	l.config.Launcher = name
	if !l.flags.Changed("isolation") {
		l.config.Isolation = engine.DefaultIsolation(name)
	}
	return nil
}

// byteSize is a flag for a number of bytes.
type byteSize int64

func (b *byteSize) String() string { return strconv.FormatInt(int64(*b), 10) + "B" }

func (b *byteSize) Type() string { return "bytes" }

func (b *byteSize) Set(text string) error {
	if text == "0" {
		*b = 0
		return nil
	}
	bytes, err := parseBytes(text)
	if err == nil && bytes > math.MaxInt64/2 {
		err = fmt.Errorf("%q: %w: no disk has as much", text, container.ErrInvalid)
	}
	*b = byteSize(bytes)
	return err
}

// configured gives a command a configuration that its flags, and for those that were not
// given the environment, fill in. A command that parses its flags itself has to call
// fromEnvironment.
func configured(cmd *cobra.Command, flags ...agentFlag) *engine.Config {
	config := engine.DefaultConfig()
	bothSpellings(cmd.Flags())
	for _, add := range flags {
		add(cmd.Flags(), &config)
	}
	if !cmd.DisableFlagParsing {
		cmd.PreRunE = func(cmd *cobra.Command, _ []string) error { return fromEnvironment(cmd.Flags()) }
	}
	return &config
}

// bothSpellings makes --work_dir and --work-dir the same flag.
func bothSpellings(f *pflag.FlagSet) {
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "-", "_"))
	})
}

// fromEnvironment sets the flags that were not given from BERTH_<NAME>.
func fromEnvironment(f *pflag.FlagSet) error {
	var err error
	f.VisitAll(func(flag *pflag.Flag) {
		name := "BERTH_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		value, ok := os.LookupEnv(name)
		if !ok || flag.Changed || err != nil {
			return
		}
		if setErr := f.Set(flag.Name, value); setErr != nil {
			err = fmt.Errorf("environment variable %s: %w: %w", name, container.ErrInvalid, setErr)
		}
	})
	return err
}

var binaryUnits = map[byte]float64{'k': 1 << 10, 'm': 1 << 20, 'g': 1 << 30, 't': 1 << 40}

// parseBytes reads a number of bytes: a number with an optional unit k, m, g or t,
// which may be followed by b or ib. Units are powers of 1024.
func parseBytes(s string) (float64, error) {
	number := strings.ToLower(strings.TrimSpace(s))
	number = strings.TrimSuffix(strings.TrimSuffix(number, "b"), "i")
	unit := 1.0
	if n := len(number); n > 0 {
		if u, ok := binaryUnits[number[n-1]]; ok {
			number, unit = number[:n-1], u
		}
	}
	value, err := strconv.ParseFloat(number, 64)
	if err != nil || !(value > 0) || math.IsInf(value, 0) {
		return 0, fmt.Errorf("number of bytes %q: %w: use a number with an optional unit, as 64m or 1.5g", s, container.ErrInvalid)
	}
	return value * unit, nil
}
