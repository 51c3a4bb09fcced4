package cgroup

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"berth/container"
)

// Version is the version of the cgroup interface that serves a controller.
type Version int

// The versions. Their files have different names and formats.
const (
	V1 Version = 1
	V2 Version = 2
)

// String returns "v1" or "v2".
func (v Version) String() string { return fmt.Sprintf("v%d", int(v)) }

// Host is the set of cgroup hierarchies that a host has mounted. It does not change.
type Host struct {
	hierarchies []hierarchy
}

type hierarchy struct {
	version     Version
	mount       string   // the mount point
	controllers []string // as the kernel spells them in this version
}

// inEveryV2Cgroup holds the v1 controllers whose work every v2 cgroup does: they are
// neither listed in cgroup.controllers nor enabled. cpu.stat has the times of
// cpuacct, devices are judged by an attached BPF program.
var inEveryV2Cgroup = []string{"cpuacct", "devices", "freezer", "perf_event"}

// v2Name returns the name that v2 has for the controller of a v1 name.
func v2Name(controller string) string {
	if controller == "blkio" {
		return "io"
	}
	return controller
}

// Detect returns what this host has mounted. A host without any hierarchy is a
// Host that supports no group; a kernel without cgroups is an error of class
// container.ErrNotSupported.
func Detect() (*Host, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("detect cgroups: %w: the kernel is built without CONFIG_CGROUPS: %w", container.ErrNotSupported, err)
	}
	if err != nil {
		return nil, fmt.Errorf("detect cgroups: %w", err)
	}
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("detect cgroups: %w", err)
	}
	defer mounts.Close()
	host, err := parseHost(mounts, string(own), visible, availableControllers)
	if err != nil {
		return nil, fmt.Errorf("detect cgroups: %w", err)
	}
	return host, nil
}

// visible reports whether a path walk to the mount point ends in that mount, and
// not in another one that was mounted over it later.
func visible(m *mountinfo.Info) bool {
	var st unix.Stat_t
	return unix.Stat(m.Mountpoint, &st) == nil && st.Dev == unix.Mkdev(uint32(m.Major), uint32(m.Minor))
}

func availableControllers(mount string) (string, error) {
	return Dir{path: mount, version: V2}.Read("cgroup.controllers")
}

// parseHost builds a Host from the texts of /proc/self/mountinfo and
// /proc/self/cgroup. What else it must know of a mount it asks for.
func parseHost(
	mounts io.Reader, own string,
	visible func(*mountinfo.Info) bool,
	available func(mount string) (string, error),
) (*Host, error) {
	known := parseControllers(own)
	infos, err := parseMounts(mounts, known, visible)
	if err != nil {
		return nil, err
	}
	host := &Host{}
	slices.SortStableFunc(infos, func(a, b *mountinfo.Info) int { return cmp.Compare(rank(a), rank(b)) })
	for _, info := range infos {
		h := hierarchy{version: V1, mount: info.Mountpoint, controllers: controllersOf(info, known)}
		if info.FSType == v2Type {
			list, err := available(h.mount)
			if err != nil {
				return nil, err
			}
			h.version, h.controllers = V2, strings.Fields(list)
		}
		if len(h.controllers) == 0 && h.version == V1 || host.has(h) {
			continue
		}
		host.hierarchies = append(host.hierarchies, h)
	}
	return host, nil
}

// v2Type is the file system type of the v2 tree.
const v2Type = "cgroup2"

// controllersOf returns the known controllers of a v1 mount. Its options also hold rw,
// xattr, release_agent=... and the like.
func controllersOf(m *mountinfo.Info, known map[string]bool) []string {
	return slices.DeleteFunc(strings.Split(m.VFSOptions, ","), func(option string) bool { return !known[option] })
}

// rank orders mounts by preference. A hierarchy may be mounted several times, also
// with a part of it as the root: the whole is preferred. v1 comes before v2, because
// a controller that v2 always has is v1's as long as a v1 hierarchy holds it.
func rank(m *mountinfo.Info) int {
	rank := 0
	if m.FSType == v2Type {
		rank += 2
	}
	if !whole(m) {
		rank++
	}
	return rank
}

func whole(m *mountinfo.Info) bool { return m.Root == "/" }

// parseMounts returns the visible cgroup mounts of a mountinfo text, up to where the
// whole of all that is known has been found: the mounts of a host's containers, which
// may be thousands, come after those that it booted with.
func parseMounts(text io.Reader, known map[string]bool, visible func(*mountinfo.Info) bool) ([]*mountinfo.Info, error) {
	missing := maps.Clone(known)
	return mountinfo.GetMountsFromReader(&cgroupLines{in: bufio.NewReaderSize(text, longestLine)}, func(m *mountinfo.Info) (skip, stop bool) {
		if !visible(m) {
			return true, false
		}
		if whole(m) && m.FSType == v2Type {
			delete(missing, v2Tree)
		} else if whole(m) {
			for _, controller := range controllersOf(m, known) {
				delete(missing, controller)
			}
		}
		return false, len(missing) == 0
	})
}

// cgroupLines reads the cgroup mounts of a mountinfo text, a line at a time.
type cgroupLines struct {
	in   *bufio.Reader
	line []byte // what was not read of it
}

// longestLine is more than a cgroup mount's line can be. That of an overlay of many layers
// is longer, and than the 64 KiB that the library reads, too.
const longestLine = 32 << 10

// Read implements io.Reader.
func (c *cgroupLines) Read(p []byte) (int, error) {
	for continued := false; len(c.line) == 0; {
		line, err := c.in.ReadSlice('\n')
		ends := err == nil
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return 0, err
		}
		if ends && !continued && (bytes.Contains(line, []byte(" - cgroup ")) || bytes.Contains(line, []byte(" - cgroup2 "))) {
			c.line = line
		}
		continued = !ends
	}
	n := copy(p, c.line)
	c.line = c.line[n:]
	return n, nil
}

// v2Tree stands among controllers for the v2 tree.
const v2Tree = ""

// parseControllers returns the controllers and the named hierarchies of a
// /proc/<pid>/cgroup text, whose lines are "number:controller,...:path". The list of the
// v2 tree is empty.
func parseControllers(text string) map[string]bool {
	known := map[string]bool{}
	for line := range strings.Lines(text) {
		fields := strings.SplitN(line, ":", 3)
		if len(fields) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			known[controller] = true
		}
	}
	return known
}

// has reports whether the host holds the hierarchy already, from another mount.
func (h *Host) has(other hierarchy) bool {
	return slices.ContainsFunc(h.hierarchies, func(known hierarchy) bool {
		return known.version == other.version &&
			(known.version == V2 || slices.Equal(known.controllers, other.controllers))
	})
}

// Version returns the version that serves the controller on this host, and false
// when none does.
func (h *Host) Version(controller string) (Version, bool) {
	if found := h.find(controller); found != nil {
		return found.version, true
	}
	return 0, false
}

// Only returns the host as it is without the hierarchies of the other version: a hybrid
// host can so stand for each kind.
func (h *Host) Only(version Version) *Host {
	return &Host{hierarchies: slices.DeleteFunc(slices.Clone(h.hierarchies), func(h hierarchy) bool { return h.version != version })}
}

// find returns the hierarchy that serves the controller, or nil.
func (h *Host) find(controller string) *hierarchy {
	for i := range h.hierarchies {
		if h.hierarchies[i].serves(controller) {
			return &h.hierarchies[i]
		}
	}
	return nil
}

// unified returns the v2 tree, or nil.
func (h *Host) unified() *hierarchy {
	for i := range h.hierarchies {
		if h.hierarchies[i].version == V2 {
			return &h.hierarchies[i]
		}
	}
	return nil
}

func (h *hierarchy) serves(controller string) bool {
	if h.version == V1 {
		return slices.Contains(h.controllers, controller)
	}
	return slices.Contains(inEveryV2Cgroup, controller) || slices.Contains(h.controllers, v2Name(controller))
}
