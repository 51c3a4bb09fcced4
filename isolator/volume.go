package isolator

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

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
	_, err := PersistentVolumes(config)
	return err
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
	}
	if why := wrongWithSource(v.Source); why != "" {
		return why
	}
	if why := wrongWithPlace(v); why != "" {
		return why
	}
	for name, value := range map[string]*string{"host_path": v.HostPath, "image_path": v.ImagePath} {
		if value == nil {
			continue
		}
		if why := named(name, wrongWithPath(*value)); why != "" {
			return why
		}
	}
	return ""
}

// wrongWithPlace is about where a volume appears.
func wrongWithPlace(v *v1.Volume) string {
	if why := named("container_path", wrongWithPath(v.GetContainerPath())); why != "" {
		return why
	}
	if at := path.Clean(v.GetContainerPath()); at == "." || at == "/" {
		return "container_path is the place of the volume, not that of everything else"
	}
	return ""
}

// wrongWithSource is about a source, which has one member, that of its type.
func wrongWithSource(s *v1.Volume_Source) string {
	if s == nil {
		return ""
	}
	members := map[v1.Volume_Source_Type]bool{
		v1.Volume_Source_DOCKER_VOLUME: s.DockerVolume != nil,
		v1.Volume_Source_SANDBOX_PATH:  s.SandboxPath != nil,
		v1.Volume_Source_SECRET:        s.Secret != nil,
		v1.Volume_Source_HOST_PATH:     s.HostPath != nil,
		v1.Volume_Source_CSI_VOLUME:    s.CsiVolume != nil,
	}
	for kind, given := range members {
		if given != (kind == s.GetType()) {
			return fmt.Sprintf("its source is of type %s, and %s is the member that it has to have and no other", s.GetType(), strings.ToLower(s.GetType().String()))
		}
	}
	switch s.GetType() {
	case v1.Volume_Source_UNKNOWN:
		return "its source has no type"
	case v1.Volume_Source_HOST_PATH:
		if !path.IsAbs(s.GetHostPath().GetPath()) {
			return "the path of a source of type HOST_PATH is absolute; one of type SANDBOX_PATH is in the sandbox"
		}
		return named("path", wrongWithPath(s.GetHostPath().GetPath()))
	case v1.Volume_Source_SANDBOX_PATH:
		if path.IsAbs(s.GetSandboxPath().GetPath()) {
			return "the path of a source of type SANDBOX_PATH is relative to the sandbox"
		}
		return named("path", wrongWithPath(s.GetSandboxPath().GetPath()))
	}
	return ""
}

func named(name, why string) string {
	if why == "" {
		return ""
	}
	return name + " " + why
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
	volumes := slices.Clone(config.GetContainerInfo().GetVolumes())
	persistent, err := PersistentVolumes(config)
	if err != nil {
		return err
	}
	for _, p := range persistent {
		volumes = append(volumes, p.Volume)
	}
	for _, v := range volumes {
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
	case v.HostPath == nil && v.Source == nil:
		return "persistent volumes"
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

// HostPath returns what a volume shows of the host, by either of the two ways to say so:
// an absolute path, or a relative one, which is a directory of the sandbox. false: it is
// another kind of volume.
func HostPath(v *v1.Volume) (string, bool) {
	if v.HostPath != nil {
		return path.Clean(v.GetHostPath()), true
	}
	if v.GetSource().GetType() == v1.Volume_Source_HOST_PATH {
		return path.Clean(v.GetSource().GetHostPath().GetPath()), true
	}
	return "", false
}

// Attributes are those that a directory is made with.
type Attributes struct {
	Mode     fs.FileMode
	UID, GID int
}

// MakeInSandbox makes a directory of a sandbox, and with 0755 those that it lies in.
// What is there stays as it is. Links in the sandbox lead nowhere out of it.
func MakeInSandbox(sandbox, name string, a Attributes) (err error) {
	root, err := os.OpenRoot(sandbox)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if _, err := root.Stat(name); err == nil {
		return nil
	}
	if err := root.MkdirAll(name, 0o755); err != nil {
		return err
	}
	// By its descriptor: whoever writes to the sandbox could have put a file there.
	dir, err := root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	// The owner first: chown clears bits of the mode.
	return errors.Join(dir.Chown(a.UID, a.GID), dir.Chmod(a.Mode))
}

// EachVolume calls make for each volume of the request that is a kind of its own, with its
// mount as VolumeMount begins it, and puts together what make returns. Without any it
// returns nil: the isolator says nothing. An error of make is of the volume at its place.
func EachVolume(config *v1.ContainerConfig, sandboxDirectory string, isOfKind func(*v1.Volume) bool, make func(*LaunchInfo, *plan.Mount, *v1.Volume) error) (*LaunchInfo, error) {
	if err := CheckVolumes(config); err != nil {
		return nil, err
	}
	var info *LaunchInfo
	for _, v := range config.GetContainerInfo().GetVolumes() {
		if !isOfKind(v) {
			continue
		}
		if info == nil {
			info = &LaunchInfo{}
		}
		m, err := VolumeMount(config, sandboxDirectory, v)
		if err != nil {
			return nil, err
		}
		if err := make(info, &m, v); err != nil {
			return nil, fmt.Errorf("volume at %s: %w", m.Target, err)
		}
		info.Volumes = append(info.Volumes, m)
	}
	return info, nil
}
