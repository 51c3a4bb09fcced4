package engine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"berth/container"
	"berth/internal/cgroup"
	"berth/launcher"
	"berth/launcher/linux"
	"berth/launcher/posix"
	"berth/state"
)

// launchers start containers by one launcher, and know those that processes with another
// --launcher have started: each has records of its own.
type launchers struct {
	launcher.Launcher
	linux *linux.Launcher // nil without root
	posix *posix.Launcher
}

// checkLauncher refuses a --launcher that there is not.
func (c Config) checkLauncher() error {
	switch name := c.launcherName(); {
	case name != linuxLauncher && name != posixLauncher:
		return fmt.Errorf("--launcher: %q: %w: known are %s and %s", name, container.ErrInvalid, linuxLauncher, posixLauncher)
	case name == linuxLauncher && os.Geteuid() != 0:
		return fmt.Errorf("--launcher=linux: %w: it makes mounts and namespaces and needs root; this is user %d", container.ErrFailedPrecondition, os.Geteuid())
	}
	return nil
}

func (c Config) openLaunchers(layout state.Layout, cgroups *cgroup.Host, dir string) (*launchers, error) {
	trees, err := posix.New(posix.Options{Layout: layout, Dir: dir})
	if err != nil {
		return nil, err
	}
	l := &launchers{Launcher: trees, posix: trees}
	if os.Geteuid() != 0 {
		return l, nil
	}
	l.linux, err = linux.New(linux.Options{Layout: layout, Cgroups: cgroups, CgroupsRoot: c.CgroupsRoot, Dir: dir})
	if c.launcherName() == linuxLauncher {
		l.Launcher = l.linux
	}
	return l, err
}

func (l *launchers) each() []launcher.Launcher {
	if l.linux == nil {
		return []launcher.Launcher{l.posix}
	}
	return []launcher.Launcher{l.linux, l.posix}
}

// Attach implements launcher.Launcher.
func (l *launchers) Attach(ctx context.Context, id container.ID) (p launcher.Process, err error) {
	for _, one := range l.each() {
		if p, err = one.Attach(ctx, id); !errors.Is(err, container.ErrNotFound) {
			return p, err
		}
	}
	return nil, err
}

// Destroy implements launcher.Launcher.
func (l *launchers) Destroy(ctx context.Context, id container.ID) error {
	var errs []error
	for _, one := range l.each() {
		errs = append(errs, one.Destroy(ctx, id))
	}
	return errors.Join(errs...)
}

// close removes what containers have in common, if there is none.
func (l *launchers) close() {
	if l.linux != nil {
		l.linux.Close()
	}
}

// Processes implements launcher.Lister.
func (l *launchers) Processes(id container.ID) ([]int, error) {
	found, err := l.posix.Processes(id)
	if l.linux != nil && errors.Is(err, container.ErrNotFound) {
		return l.linux.Processes(id)
	}
	return found, err
}
