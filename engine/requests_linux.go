package engine

import (
	"fmt"
	"math"
	"slices"
	"strings"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/resources"
	"berth/isolator"
)

// wish is something that a request can say, and who could carry it out. Volumes are not
// here: whether one is mounted is seen in the plan (isolator.CheckMounted).
type wish struct {
	name  string
	asked func(c *isolator.Container) bool
	// by are the isolators of berth's own of which one is needed.
	by []string
}

// wishes has everything that is refused when nobody would carry it out. What is only
// requested among the resources (cpus, mem, disk) is not here: clients of Mesos always say
// it, and it promises the container something only where somebody counts. A limit is a
// promise to everybody else; that it has a name which somebody knows is for checkRequest.
var wishes = []wish{
	// A container on a network of its own is known there by its name: network/cni sees to it.
	{"hostname", func(c *isolator.Container) bool {
		return c.Config.GetContainerInfo().GetHostname() != "" && !isolator.OwnNetwork(c.Config)
	}, []string{"namespaces/uts"}},
	{"network_infos", func(c *isolator.Container) bool { return isolator.OwnNetwork(c.Config) }, []string{"network/cni"}},
	{"capabilities", func(c *isolator.Container) bool {
		linux, security := linuxInfo(c), c.Config.GetSecurity()
		return linux.GetCapabilityInfo() != nil || linux.GetEffectiveCapabilities() != nil || linux.GetBoundingCapabilities() != nil ||
			len(security.GetAddCapabilities())+len(security.GetDropCapabilities()) > 0
	}, []string{"linux/capabilities"}},
	{"no_new_privileges", func(c *isolator.Container) bool { return c.Config.GetSecurity().GetNoNewPrivileges() }, []string{"linux/capabilities", "linux/nnp"}},
	{"a seccomp profile", func(c *isolator.Container) bool {
		info := linuxInfo(c).GetSeccomp()
		return c.Config.GetSecurity().GetSeccompProfile() != "" || info != nil && (info.GetProfileName() != "" || !info.GetUnconfined())
	}, []string{"linux/seccomp"}},
	{"apparmor_profile", func(c *isolator.Container) bool { return c.Config.GetSecurity().GetApparmorProfile() != "" }, []string{"linux/label"}},
	{"selinux_label", func(c *isolator.Container) bool { return c.Config.GetSecurity().GetSelinuxLabel() != "" }, []string{"linux/label"}},
	{"share_pid_namespace", func(c *isolator.Container) bool {
		linux := linuxInfo(c)
		return linux != nil && linux.SharePidNamespace != nil && !linux.GetSharePidNamespace() && !c.IsDebug()
	}, []string{"namespaces/pid"}},
	{"ipc_mode", func(c *isolator.Container) bool {
		mode := linuxInfo(c).GetIpcMode()
		// Who looks into a container shares everything with it.
		return mode == v1.LinuxInfo_PRIVATE || mode == v1.LinuxInfo_SHARE_PARENT && !c.IsDebug()
	}, []string{"namespaces/ipc"}},
	{"shm_size", func(c *isolator.Container) bool { return linuxInfo(c).GetShmSize() > 0 }, []string{"namespaces/ipc"}},
	{"user_namespace", func(c *isolator.Container) bool { return linuxInfo(c).GetUserNamespace() != nil }, []string{"namespaces/user"}},
	{"rlimit_info", func(c *isolator.Container) bool {
		return len(c.Config.GetContainerInfo().GetRlimitInfo().GetRlimits()) > 0
	}, []string{"posix/rlimits"}},
	{"cgroups.devices", func(c *isolator.Container) bool { return len(cgroupsOf(c).GetDevices()) > 0 }, []string{"cgroups/devices"}},
	{"cgroups.cpuset_cpus", func(c *isolator.Container) bool { return cgroupsOf(c).GetCpusetCpus() != "" }, []string{"cgroups/cpuset"}},
	{"cgroups.cpuset_mems", func(c *isolator.Container) bool { return cgroupsOf(c).GetCpusetMems() != "" }, []string{"cgroups/cpuset"}},
	{"cgroups.blkio", func(c *isolator.Container) bool { return cgroupsOf(c).GetBlkio() != nil }, []string{"cgroups/blkio"}},
	{"cgroups.net_prio", func(c *isolator.Container) bool { return len(cgroupsOf(c).GetNetPrio()) > 0 }, []string{"cgroups/net_prio"}},
	{"limit of cpus", limitOf("cpus"), []string{"cgroups/cpu"}},
	{"limit of mem", limitOf("mem"), []string{"cgroups/mem"}},
	{"limit of pids", limitOf("pids"), []string{"cgroups/pids"}},
	{"limit of disk", limitOf("disk"), []string{"disk/du", "disk/xfs"}},
	{"limit of huge pages", func(c *isolator.Container) bool { return len(limitsOf(c, isHugePages)) > 0 }, []string{"cgroups/hugetlb"}},
	{"gpus", func(c *isolator.Container) bool { gpus, _ := resources.Requested(c.Config, "gpus"); return gpus > 0 }, nil},
}

func linuxInfo(c *isolator.Container) *v1.LinuxInfo {
	return c.Config.GetContainerInfo().GetLinuxInfo()
}

func cgroupsOf(c *isolator.Container) *v1.CgroupSettings {
	return c.Config.GetContainerInfo().GetCgroups()
}

// limitOf is for a limit of a name; an infinite one limits nothing.
func limitOf(name string) func(*isolator.Container) bool {
	return func(c *isolator.Container) bool { _, limited := resources.Limit(c.Config, name); return limited }
}

func isHugePages(name string) bool { return strings.HasPrefix(name, "hugetlb.") }

// isLimit reports whether a limit of that name is one that some isolator knows.
func isLimit(name string) bool {
	return isHugePages(name) || slices.Contains([]string{"cpus", "mem", "pids", "disk"}, name)
}

// limitsOf returns the names of a kind of which there are limits.
func limitsOf(c *isolator.Container, isOfKind func(name string) bool) (names []string) {
	for name, value := range c.Config.GetLimits() {
		if isOfKind(name) && !math.IsInf(value.GetValue(), 1) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// checkRequest refuses resources that are none (ErrInvalid), and a request of which a part
// would be left out in silence, as none of the isolators that take part does it, or none
// does for such a container (ErrNotSupported). Isolators that are not berth's own may know
// anything: where there is one, that is not refused.
func checkRequest(chosen []NamedIsolator) func(*isolator.Container) error {
	own := func(name string) bool {
		return slices.ContainsFunc(isolators, func(i tableEntry) bool { return i.name == name })
	}
	if slices.ContainsFunc(chosen, func(i NamedIsolator) bool { return !own(i.Name) }) {
		return func(c *isolator.Container) error { return resources.Check(c.Config) }
	}
	return func(c *isolator.Container) error {
		if err := resources.Check(c.Config); err != nil {
			return err
		}
		if names := limitsOf(c, func(name string) bool { return !isLimit(name) }); len(names) > 0 {
			return fmt.Errorf("limit of %q: %w: no isolator does that", names, container.ErrNotSupported)
		}
		for _, w := range wishes {
			if !w.asked(c) {
				continue
			}
			if why := w.unfulfilled(c, chosen); why != "" {
				return fmt.Errorf("%s: %w: %s", w.name, container.ErrNotSupported, why)
			}
		}
		return nil
	}
}

// unfulfilled says why nobody carries out a wish; "": somebody does.
func (w wish) unfulfilled(c *isolator.Container, chosen []NamedIsolator) string {
	var others []string
	for _, i := range chosen {
		switch {
		case !slices.Contains(w.by, i.Name):
		case isolator.Supports(i.Isolator, c):
			return ""
		default:
			others = append(others, i.Name)
		}
	}
	switch {
	case w.by == nil:
		return "no isolator does that"
	case others == nil:
		return "it needs --isolation=" + strings.Join(w.by, " or ")
	case c.IsDebug():
		return strings.Join(others, ", ") + " does it for containers of their own, not for who looks into one (DEBUG)"
	case c.SharesCgroups():
		return strings.Join(others, ", ") + " does it in cgroups of its own, and this container shares those of its parent: say share_cgroups: false"
	}
	return strings.Join(others, ", ") + " does it for root containers, and this one is nested"
}
