package isolator

import (
	"path"
	"slices"
	"strings"
	"syscall"

	v1 "berth/api/v1"
	"berth/internal/device"
	"berth/launcher/plan"
)

// inEvery are the places below /dev at which every container with a root filesystem has
// something, which filesystem/linux makes.
var inEvery = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty",
	"/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/ptmx"}

// DeviceNodes are the nodes of those devices that are named by a path below /dev and that
// not every container with a root filesystem has. They are for all users of the container,
// as far as the access goes: what restricts is the cgroup. ErrInvalid: there is none.
func DeviceNodes(asked []*v1.DeviceAccess) (all []plan.Node, err error) {
	for _, a := range asked {
		name := a.GetDevice().GetPath()
		if !strings.HasPrefix(name, "/dev/") || path.Clean(name) != name {
			continue
		}
		d, err := device.Stat(name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(inEvery, name) {
			continue
		}
		all = append(all, plan.Node{Path: name, Mode: modeOf(d.Kind, device.AccessOf(a.GetAccess())), Major: d.Major, Minor: d.Minor})
	}
	return all, nil
}

func modeOf(kind device.Kind, access device.Access) uint32 {
	mode := uint32(syscall.S_IFCHR | 0o600)
	if kind == device.Block {
		mode = syscall.S_IFBLK | 0o600
	}
	if access&device.Read != 0 {
		mode |= 0o044
	}
	if access&device.Write != 0 {
		mode |= 0o022
	}
	return mode
}
