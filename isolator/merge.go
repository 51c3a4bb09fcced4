package isolator

import (
	"cmp"
	"fmt"
	"slices"

	"berth/container"
	"berth/launcher"
	"berth/launcher/plan"
)

// Merge puts the parts of a launch together. Lists are joined in order, namespaces and
// controllers once each; volumes from the outer to the inner ones. What only one isolator
// may say is an error of class ErrInvalid when two say it, and so are two volumes in one
// place, and a volume that hides what the container needs.
func Merge(infos []*LaunchInfo) (LaunchInfo, error) {
	var sum LaunchInfo
	for _, info := range infos {
		if info == nil {
			continue
		}
		sum.Namespaces = append(sum.Namespaces, info.Namespaces...)
		sum.Enter = append(sum.Enter, info.Enter...)
		sum.Controllers = append(sum.Controllers, info.Controllers...)
		sum.Mounts = append(sum.Mounts, info.Mounts...)
		sum.addNodes(info.Nodes)
		sum.Links = append(sum.Links, info.Links...)
		sum.Masked = append(sum.Masked, info.Masked...)
		sum.ReadOnly = append(sum.ReadOnly, info.ReadOnly...)
		sum.Volumes = append(sum.Volumes, info.Volumes...)
		sum.ForUser = append(sum.ForUser, info.ForUser...)
		sum.Owned = append(sum.Owned, info.Owned...)
		sum.Rlimits = append(sum.Rlimits, info.Rlimits...)
		sum.Env = append(sum.Env, info.Env...)
		sum.Secrets = append(sum.Secrets, info.Secrets...)
		sum.Groups = append(sum.Groups, info.Groups...)
		sum.Loopback = sum.Loopback || info.Loopback
		sum.CgroupNamespace = sum.CgroupNamespace || info.CgroupNamespace
		for _, err := range []error{
			once(&sum.Command, info.Command, "a command"),
			once(&sum.User, info.User, "a user"),
			once(&sum.WorkingDir, info.WorkingDir, "a working directory"),
			once(&sum.StopSignal, info.StopSignal, "a stop signal"),
			once(&sum.Hostname, info.Hostname, "a host name"),
			sum.Confinement.add(info.Confinement),
		} {
			if err != nil {
				return LaunchInfo{}, err
			}
		}
	}
	sum.Namespaces = set(sum.Namespaces)
	sum.Enter = set(sum.Enter)
	sum.Controllers = set(sum.Controllers)
	if err := sum.orderVolumes(); err != nil {
		return LaunchInfo{}, err
	}
	return sum, nil
}

// HasMounts reports whether the container needs a mount namespace of its own.
func (info *LaunchInfo) HasMounts() bool {
	return slices.Contains(info.Namespaces, launcher.Mount) ||
		len(info.Mounts)+len(info.Nodes)+len(info.Links)+len(info.Masked)+len(info.ReadOnly)+len(info.Volumes) > 0
}

// set sorts, and drops what is there twice.
func set[T cmp.Ordered](all []T) []T {
	slices.Sort(all)
	return slices.Compact(all)
}

// once takes over what part says, unless an earlier part said something.
func once[T comparable](sum *T, part T, what string) error {
	var none T
	if part == none {
		return nil
	}
	if *sum != none {
		return fmt.Errorf("%w: two isolators specify %s", container.ErrInvalid, what)
	}
	*sum = part
	return nil
}

// addNodes adds nodes; a device that several want at one place may be used as any of them
// says.
func (info *LaunchInfo) addNodes(nodes []plan.Node) {
	for _, n := range nodes {
		at := slices.IndexFunc(info.Nodes, func(had plan.Node) bool { return had.Path == n.Path && had.Major == n.Major && had.Minor == n.Minor })
		if at < 0 {
			info.Nodes = append(info.Nodes, n)
			continue
		}
		info.Nodes[at].Mode |= n.Mode
	}
}
