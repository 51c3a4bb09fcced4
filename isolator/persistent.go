package isolator

import (
	"fmt"
	"strings"

	v1 "berth/api/v1"
	"berth/container"
)

// PersistentVolume is a directory of the host that outlives the containers that use it.
type PersistentVolume struct {
	Role, ID string // which name it
	Shared   bool   // by several containers at a time
	Volume   *v1.Volume
	Amount   float64 // in MiB
	// Persistence is what the request says of it.
	Persistence *v1.Resource_DiskInfo_Persistence
}

// PersistentVolumes returns those of a request: resources "disk" with a persistence. The
// error is of class ErrInvalid, or ErrNotSupported for disks elsewhere than in the work
// directory.
func PersistentVolumes(config *v1.ContainerConfig) (volumes []PersistentVolume, err error) {
	for _, r := range config.GetResources() {
		if r.GetDisk().GetPersistence() == nil {
			continue
		}
		p := PersistentVolume{
			Role: roleOf(r), ID: r.GetDisk().GetPersistence().GetId(), Shared: r.Shared != nil, Volume: r.GetDisk().GetVolume(),
			Amount: r.GetScalar().GetValue(), Persistence: r.GetDisk().GetPersistence(),
		}
		if err := p.check(r); err != nil {
			return nil, fmt.Errorf("persistent volume %q of role %q: %w", p.ID, p.Role, err)
		}
		volumes = append(volumes, p)
	}
	return volumes, nil
}

// roleOf returns for whom a resource is reserved: the last reservation refines the others.
func roleOf(r *v1.Resource) string {
	if n := len(r.GetReservations()); n > 0 {
		return r.GetReservations()[n-1].GetRole()
	}
	return r.GetRole()
}

func (p PersistentVolume) check(r *v1.Resource) error {
	why := ""
	switch {
	case r.GetName() != "disk":
		why = fmt.Sprintf("the resource is %q; only \"disk\" can persist", r.GetName())
	case r.GetDisk().GetSource() != nil:
		return fmt.Errorf("%w: its disk is of type %s; persistent volumes are in --work_dir", container.ErrNotSupported, r.GetDisk().GetSource().GetType())
	case !isName(p.ID):
		why = "its id is to be the name of a directory"
	case p.Role == "*" || !isRole(p.Role):
		why = "it needs a role: the one that its disk is reserved for"
	case p.Volume == nil || p.Volume.Mode == nil:
		why = "it needs a volume, with container_path and mode"
	case p.Volume.HostPath != nil || p.Volume.Image != nil || p.Volume.Source != nil:
		why = "its volume has container_path and mode and nothing else"
	default:
		why = wrongWithPlace(p.Volume)
	}
	if why != "" {
		return fmt.Errorf("%w: %s", container.ErrInvalid, why)
	}
	return nil
}

func isName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 255 && !strings.ContainsAny(s, "/\x00")
}

// isRole reports whether each level of a role is a name, without the blanks that stand
// for slashes in the role's directory.
func isRole(role string) bool {
	for level := range strings.SplitSeq(role, "/") {
		if !isName(level) || strings.ContainsAny(level, " \t\n") {
			return false
		}
	}
	return len(role) <= 255
}
