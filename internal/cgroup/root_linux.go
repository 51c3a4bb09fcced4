package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"berth/container"
)

// CheckRoot tells whether groups with these controllers could be made below a path, as far
// as that can be told without making any. ErrNotSupported: a controller is not mounted, or
// is read-only; ErrFailedPrecondition: processes of others are in the cgroup itself;
// ErrInvalid: no path.
func (h *Host) CheckRoot(path string, controllers []string) error {
	if len(h.hierarchies) == 0 {
		if err := checkPath(path); err != nil {
			return err
		}
		return fmt.Errorf("%w: no cgroup hierarchy is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup", container.ErrNotSupported)
	}
	g, err := h.Group(path, controllers)
	if err != nil {
		return err
	}
	var readOnly []string
	for _, b := range g.branches {
		if errors.Is(unix.Access(b.mount, unix.W_OK), unix.EROFS) {
			readOnly = append(readOnly, b.mount)
		}
	}
	if len(readOnly) > 0 {
		return fmt.Errorf("%w: mounted read-only: %s: mount -o remount,rw, or give this container its own cgroups", container.ErrNotSupported, strings.Join(readOnly, ", "))
	}
	return g.checkStrangers()
}

// checkStrangers looks for processes in the directory itself, where berth has none.
func (g *Group) checkStrangers() error {
	for _, b := range g.branches {
		text, err := readAt(unix.AT_FDCWD, filepath.Join(b.dir, "cgroup.procs"))
		if ignoreGone(err) != nil {
			return fmt.Errorf("read %s: %w", filepath.Join(b.dir, "cgroup.procs"), err)
		}
		if pids := strings.Fields(text); len(pids) > 0 {
			program, _ := os.ReadFile("/proc/" + pids[0] + "/comm")
			return fmt.Errorf("%w: %s is used by others, %d processes, as %s (%q): choose a cgroup of berth's own",
				container.ErrFailedPrecondition, b.dir, len(pids), pids[0], strings.TrimSpace(string(program)))
		}
	}
	return nil
}
