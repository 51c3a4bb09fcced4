package mount

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// Shared reports whether mounts below path reach the other mounts of its group, and on
// which mount path lies.
func Shared(path string) (at string, shared bool, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		return "", false, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false, err
	}
	id := strconv.FormatUint(st.Mnt_id, 10)
	for line := range strings.Lines(string(table)) {
		// ID, parent, device, root, mount point, options, optional fields, "-" (proc(5)).
		fields := strings.Fields(line)
		if len(fields) < 7 || fields[0] != id {
			continue
		}
		optional := fields[6:max(6, slices.Index(fields, "-"))]
		return unescape.Replace(fields[4]), slices.ContainsFunc(optional, func(f string) bool { return strings.HasPrefix(f, "shared:") }), nil
	}
	return "", false, fmt.Errorf("the mount of %s is not in the mount table", path)
}

// unescape reads what the mount table has for blanks and the like.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// MakePrivate cuts the mount and those below it off from their origin.
func (d *Detached) MakePrivate() error {
	err := disk.MountSetattr(d.fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE})
	if err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}

// MakeSlave has the mount and those below it follow their origin, and their origin not
// them.
func (d *Detached) MakeSlave() error {
	err := disk.MountSetattr(d.fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_SLAVE})
	if err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}
