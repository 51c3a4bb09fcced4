// Package engine builds a working containerizer out of a configuration: the one place
// that knows every implementation. `berth run` uses it, and so does any program that
// embeds berth.
//
// wire.go has a table for each kind of part, from its name to its constructor.
package engine

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"berth/containerizer"
	"berth/isolator"
	"berth/layer"
	"berth/provisioner/store"
	"berth/registry"
	"berth/state"
)

// Config says how an engine is set up. Its fields are the flags of the same names.
type Config struct {
	WorkDir    string // what survives a reboot; made when missing
	RuntimeDir string // what does not

	Containerizers          []string // mesos is the only one there is
	Isolation               []string
	ImageProviders          []string
	ImageProvisionerBackend string // empty: the first that works of erofs, overlay, aufs and copy
	DockerStoreDir          string // empty: in WorkDir; else also the layers, which all stores share
	AppcStoreDir            string // of the records of Appc images; empty: in WorkDir
	// DockerRegistry is what stands for Docker Hub: http[s]://HOST[:PORT]; or where all docker
	// images are files as `docker save` writes them: /DIR or file:///DIR.
	DockerRegistry string
	// DockerConfig has the credentials for registries, as JSON, /PATH or file:///PATH; empty:
	// those of the user.
	DockerConfig string
	// Agent: Recover takes up again the containers whose keeper is the agent. One process at
	// a time may be it in these directories.
	Agent bool
	// Launcher is linux, which needs root, or posix; empty: linux for root on Linux, else
	// posix. Whichever it is, containers of the other one that are there are looked after.
	Launcher         string
	LauncherDir      string // where berth-init is; empty: beside this program
	CgroupsRoot      string
	SandboxDirectory string
	// UsernsRange is START:SIZE: the ids of the host of which containers with user namespaces
	// get theirs; empty: those that /etc/subuid and /etc/subgid give to berth, or containers.
	UsernsRange      string
	CgroupsLimitSwap bool // limits of memory are of memory and swap together
	// AllowedDevices is what containers may beyond the standard list: a DeviceWhitelist as
	// JSON, or the name or file:// URL of a file with it; empty: nothing.
	AllowedDevices string
	// The tags of packets of cgroups/net_cls: a primary handle as 0xAAAA (empty: none), and a
	// range of secondary ones as 0xLOW,0xHIGH (empty: all).
	NetClsPrimaryHandle    string
	NetClsSecondaryHandles string
	// What cgroups/perf_event counts (none: the usual events that the host has), how often,
	// and for how long each time.
	PerfEvents                 []string
	PerfInterval, PerfDuration time.Duration
	// DefaultContainerInfo is that of containers that bring none: JSON, or the name or file://
	// URL of a file with it; empty: they have none.
	DefaultContainerInfo string
	// HostPathVolumePrefixes are the directories of the host of which there may be volumes;
	// none: all of the host.
	HostPathVolumePrefixes []string

	// Disks of containers are measured each ContainerDiskWatchInterval. A container ends that
	// exceeds a limit of its disk, with EnforceContainerDiskQuota also what it requested.
	ContainerDiskWatchInterval time.Duration
	EnforceContainerDiskQuota  bool
	// Of disk/xfs: the projects that containers get, FIRST-LAST; and whether a container that
	// exceeds its limit ends, which can have XFSQuotaHeadroom bytes more until then.
	XFSProjectRange   string
	XFSKillContainers bool
	XFSQuotaHeadroom  int64

	// NetworkCNIConfigDir has the configurations of networks, NetworkCNIPluginsDir the
	// directories of plugins, with colons between them.
	NetworkCNIConfigDir  string
	NetworkCNIPluginsDir string
	// NetworkCNIRootDirPersist: which addresses containers were given is recorded in WorkDir,
	// so that they are given back after a reboot; else in RuntimeDir.
	NetworkCNIRootDirPersist bool
	NetworkCNIMetrics        bool // Usage tells of traffic
	// DefaultContainerDNS is a ContainerDNSInfo as JSON, or the name or file:// URL of a file
	// with it: the servers of containers on networks whose plugins know none; empty: the host's.
	DefaultContainerDNS string
	// ContainerPortsWatchInterval is the time between two looks at where containers listen.
	// With EnforceContainerPorts those end that listen where they may not. Only ports that are
	// given to containers count with CheckAgentPortRangeOnly, and only those of
	// ContainerPortsIsolatedRange, as "[31000-32000]", with that.
	ContainerPortsWatchInterval time.Duration
	EnforceContainerPorts       bool
	CheckAgentPortRangeOnly     bool
	ContainerPortsIsolatedRange string

	// EffectiveCapabilities are those of containers that ask for none, BoundingCapabilities the
	// most that any can have: a CapabilityInfo each, as JSON or a file with it; empty: a
	// choice with which most programs work, and all.
	EffectiveCapabilities, BoundingCapabilities string

	// Root containers may not ask for the namespaces of the host.
	DisallowSharingAgentPIDNamespace, DisallowSharingAgentIPCNamespace bool
	// DefaultContainerShmSize bounds each /dev/shm of a container's own that its request does
	// not bound, in bytes; 0: half of the memory does.
	DefaultContainerShmSize int64

	// SecretsDir has secrets by name, as files that root alone may read; empty: nobody knows any.
	SecretsDir string

	// SeccompConfigDir has profiles of system calls, which containers choose by name; one that
	// chooses none gets SeccompProfileName (empty: one of berth's own).
	SeccompConfigDir, SeccompProfileName string

	// What CommandInfo.URI names is kept for others in FetcherCacheDir (empty: in WorkDir), as
	// many bytes as FetcherCacheSize says (0: none). A download that brings next to nothing
	// for FetcherStallTimeout fails. Relative paths are below FrameworksHome (empty:
	// they are refused).
	FetcherCacheDir     string
	FetcherCacheSize    int64
	FetcherStallTimeout time.Duration
	FrameworksHome      string

	// See the options of the appc store.
	AppcSimpleDiscoveryURIPrefix string
	AppcKeyring                  string
	AppcPassphraseFile           string

	// Isolators are further ones than berth's own, for programs that embed it. Those that
	// Isolation names prepare a container after berth's own, in this order.
	Isolators []NamedIsolator
	// IsolatorDir has the executables of the isolators external/NAME, which come last, in
	// the order of Isolation.
	IsolatorDir string

	// Registry says how registries are talked to.
	Registry registry.Options
	// Progress is told how pulls go; nil: nobody is.
	Progress store.Progress
	// Observe is told what has happened to the containers of this process; see
	// mesos.Options.
	Observe func(containerizer.Event)
	// Log takes what happens that no caller is told; nil: nobody.
	Log *slog.Logger
}

// NamedIsolator is an isolator by a name for Isolation. That is GROUP/NAME, as those of
// berth's own are, none of which it may be; the group external is for executables.
type NamedIsolator struct {
	Name     string
	Isolator isolator.Isolator
}

// readAheadMemory leaves a decoder with a large window what it takes of the 64 MB that a pull has.
func readAheadMemory() int64 {
	if layer.HasLargeWindow() {
		return 4 << 20
	}
	return 16 << 20
}

// DefaultConfig returns what the flags default to.
func DefaultConfig() Config {
	return Config{
		WorkDir:        "/var/lib/berth",
		RuntimeDir:     "/run/berth",
		Isolation:      DefaultIsolation(""),
		Containerizers: []string{"mesos"},
		ImageProviders: []string{"appc", "docker", "oci"},
		DockerRegistry: "https://registry-1.docker.io",
		Registry: registry.Options{
			CertDirs:       []string{"/etc/containers/certs.d", "/etc/docker/certs.d"},
			HostsDir:       "/etc/containerd/certs.d",
			RegistriesConf: "/etc/containers/registries.conf",

			ReadAheadMemory: readAheadMemory,
		},
		CgroupsRoot:      "berth",
		SandboxDirectory: "/mnt/mesos/sandbox",

		PerfInterval:               time.Minute,
		PerfDuration:               10 * time.Second,
		ContainerDiskWatchInterval: 15 * time.Second,
		XFSProjectRange:            "[5000-10000]",
		XFSQuotaHeadroom:           10 << 20,

		NetworkCNIConfigDir:      "/etc/cni/net.d",
		NetworkCNIPluginsDir:     "/opt/cni/bin:/usr/lib/cni:/usr/libexec/cni",
		NetworkCNIRootDirPersist: true,
		NetworkCNIMetrics:        true,

		ContainerPortsWatchInterval: 30 * time.Second,

		FetcherCacheSize:    2 << 30,
		FetcherStallTimeout: time.Minute,

		AppcSimpleDiscoveryURIPrefix: "http://",

		IsolatorDir: "/usr/lib/berth/isolators",
	}
}

// DefaultIsolation is what --isolation defaults to with a launcher; see Config.Launcher.
func DefaultIsolation(launcher string) []string {
	if (Config{Launcher: launcher}).launcherName() == posixLauncher {
		return []string{"filesystem/posix", "posix/cpu", "posix/mem", "posix/rlimits"}
	}
	return []string{"filesystem/linux", "namespaces/pid", "namespaces/ipc", "namespaces/uts", "namespaces/user", "network/cni",
		"cgroups/cpu", "cgroups/mem", "cgroups/pids", "cgroups/devices", "disk/du", "posix/rlimits", "linux/capabilities", "linux/seccomp", "linux/label", "namespaces/cgroup"}
}

// The launchers.
const (
	linuxLauncher = "linux"
	posixLauncher = "posix"
)

func (c Config) launcherName() string {
	switch {
	case c.Launcher != "":
		return c.Launcher
	case runtime.GOOS == "linux" && os.Geteuid() == 0:
		return linuxLauncher
	}
	return posixLauncher
}

// AgentSocket is where the agent with the same RuntimeDir answers.
func (c Config) AgentSocket() string { return state.Layout{Runtime: c.RuntimeDir}.AgentSocket() }

func (c Config) launcherDir() (string, error) {
	if c.LauncherDir != "" {
		return filepath.Abs(c.LauncherDir)
	}
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Dir(program), nil
}

func (c Config) log() *slog.Logger {
	if c.Log != nil {
		return c.Log
	}
	return slog.New(slog.DiscardHandler)
}
