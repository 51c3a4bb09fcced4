package isolator

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	v1 "berth/api/v1"
	"berth/container"
	"berth/launcher/plan"
)

// CheckVolumes refuses volumes that mean nothing, whoever mounts them: with no source or
// with several, without a mode, with a path that climbs. The error is of class
// ErrInvalid and names the volume.
func CheckVolumes(config *v1.ContainerConfig) error {
	volumes := config.GetContainerInfo().GetVolumes()
	if len(volumes) > 0 && config.GetContainerClass() == v1.ContainerClass_DEBUG {
		return fmt.Errorf("%w: a DEBUG container sees what the container sees that it is in, and has no volumes", container.ErrInvalid)
	}
	for _, v := range volumes {
		if why := wrongWith(v); why != "" {
			return fmt.Errorf("volume at %q: %w: %s", v.GetContainerPath(), container.ErrInvalid, why)
		}
	}
	return nil
}

func wrongWith(v *v1.Volume) string {
	sources := 0
	for _, given := range []bool{v.HostPath != nil, v.Image != nil, v.Source != nil} {
		if given {
			sources++
		}
	}
	switch {
	case sources != 1:
		return "one of host_path, image and source is to be set, and no other"
	case v.Mode == nil:
		return "its mode is RW or RO, and there is no default"
	case v.ImagePath != nil && v.Image == nil:
		return "image_path is a path in its image, and it has none"
	case path.Clean(v.GetContainerPath()) == "." || path.Clean(v.GetContainerPath()) == "/":
		return "container_path is the place of the volume, not that of everything else"
	}
	for name, value := range map[string]*string{"container_path": v.ContainerPath, "host_path": v.HostPath, "image_path": v.ImagePath} {
		if value == nil {
			continue
		}
		if why := wrongWithPath(*value); why != "" {
			return name + " " + why
		}
	}
	return ""
}

func wrongWithPath(p string) string {
	switch {
	case p == "":
		return "is empty"
	case strings.Contains(p, "\x00"):
		return "contains a NUL"
	case slices.Contains(strings.Split(p, "/"), ".."):
		return "contains \"..\": say where it leads"
	}
	return ""
}

// VolumeMount begins the mount of a volume: Target, and what its mode says. A relative
// container_path lies in the sandbox. An absolute one lies in the root filesystem;
// without one it must exist, as the host's file system is not the container's to add to.
// The error is of class ErrInvalid.
func VolumeMount(config *v1.ContainerConfig, sandboxDirectory string, v *v1.Volume) (plan.Mount, error) {
	m := plan.Mount{Target: path.Clean(v.GetContainerPath())}
	if v.GetMode() == v1.Volume_RO {
		m.Flags = plan.ReadOnly
	}
	onHost := config.GetRootfs() == ""
	switch {
	case onHost && hides(m.Target, config.GetDirectory()):
		return m, fmt.Errorf("volume at %s: %w: it would hide the sandbox, which is %s", m.Target, container.ErrInvalid, config.GetDirectory())
	case path.IsAbs(m.Target) && onHost:
		if _, err := os.Stat(m.Target); err != nil {
			return m, fmt.Errorf("volume at %s: %w: the container shares the host's file system, where this must exist: make it, give a relative container_path, or run an image: %w",
				m.Target, container.ErrInvalid, err)
		}
	case path.IsAbs(m.Target):
	case onHost:
		m.Target = path.Join(config.GetDirectory(), m.Target)
	default:
		m.Target = path.Join(sandboxDirectory, m.Target)
	}
	return m, nil
}

// CheckMounted refuses a request one of whose volumes no isolator has mounted, with an
// error of class ErrNotSupported.
func CheckMounted(config *v1.ContainerConfig, sandboxDirectory string, mounted []plan.Mount) error {
	for _, v := range config.GetContainerInfo().GetVolumes() {
		m, err := VolumeMount(config, sandboxDirectory, v)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(mounted, func(other plan.Mount) bool { return other.Target == m.Target }) {
			return fmt.Errorf("volume at %s: %w: no isolator of --isolation mounts %s", m.Target, container.ErrNotSupported, sourceName(v))
		}
	}
	return nil
}

func sourceName(v *v1.Volume) string {
	switch {
	case v.Image != nil:
		return "images"
	case v.Source != nil:
		return "volumes of type " + v.GetSource().GetType().String()
	}
	return "paths of the host"
}

// orderVolumes sorts the volumes so that outer ones come before those in them, and
// refuses two in one place, and those that hide what the container needs.
func (info *LaunchInfo) orderVolumes() error {
	slices.SortFunc(info.Volumes, func(a, b plan.Mount) int { return strings.Compare(a.Target, b.Target) })
	needed := slices.Concat(info.Masked, info.ReadOnly)
	for _, m := range info.Mounts {
		needed = append(needed, m.Target)
	}
	for _, n := range info.Nodes {
		needed = append(needed, n.Path)
	}
	for _, l := range info.Links {
		needed = append(needed, l.Path)
	}
	for i, v := range info.Volumes {
		if i > 0 && info.Volumes[i-1].Target == v.Target {
			return fmt.Errorf("volume at %s: %w: there is another one in the same place", v.Target, container.ErrInvalid)
		}
		for _, p := range needed {
			if hides(v.Target, p) {
				return fmt.Errorf("volume at %s: %w: it would hide %s, which the container needs", v.Target, container.ErrInvalid, p)
			}
		}
	}
	return nil
}

// hides reports whether a path lies below a mount.
func hides(target, p string) bool { return strings.HasPrefix(p, target+"/") }
