// Package posix is the launcher that needs nothing but processes, sessions and process
// groups: no root, no namespaces, no cgroups.
//
// A container is the tree of processes below its berth-init. On Linux that is a subreaper:
// what the command forks twice, or puts into a session of its own, comes to be its child
// when the parent dies, so nothing leaves the tree as long as berth-init lives. It ends
// with the command, and what that has left before it. If a command that may signal
// berth-init kills it, what is in sessions of its own by then escapes; what stayed in that
// of berth-init is ended. On other systems so is only what is in that session, and what
// the tree still has.
package posix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"berth/container"
	"berth/internal/processes"
	"berth/launcher"
	"berth/launcher/initproc"
	"berth/state"
)

// Options are what a Launcher is made of.
type Options struct {
	Layout state.Layout
	Dir    string // where berth-init is
}

// Launcher implements launcher.Launcher.
type Launcher struct {
	Options
	program string
}

var (
	_ launcher.Launcher = (*Launcher)(nil)
	_ launcher.Lister   = (*Launcher)(nil)
)

// New returns the launcher. ErrFailedPrecondition: there is no berth-init.
func New(o Options) (*Launcher, error) {
	program, err := initproc.Find(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("posix launcher: %w", err)
	}
	return &Launcher{Options: o, program: program}, nil
}

// Fork implements launcher.Launcher.
func (l *Launcher) Fork(ctx context.Context, id container.ID, spec launcher.Spec) (_ launcher.Process, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("fork container %s: %w", id, err)
		}
	}()
	if err := possible(spec); err != nil {
		return nil, err
	}
	spec.Plan.Tree = true
	channels, err := initproc.Open(spec)
	if err != nil {
		return nil, err
	}
	defer channels.Close()
	p, err := channels.Start(func(attr *os.ProcAttr) (*os.Process, error) {
		attr.Sys = &syscall.SysProcAttr{Setsid: true}
		return os.StartProcess(l.program, []string{initproc.Name}, attr)
	})
	if err != nil {
		return nil, err
	}
	// Until it is recorded, it waits; if this process dies before, it ends.
	if err := initproc.Record(l.record(id), p.Pid()); err != nil {
		return nil, errors.Join(err, p.Abandon(ctx))
	}
	return p, nil
}

// possible refuses what only the linux launcher can give.
func possible(spec launcher.Spec) error {
	what := ""
	switch {
	case len(spec.Namespaces)+len(spec.Enter) > 0:
		what = fmt.Sprintf("namespaces (%q)", append(spec.Namespaces, spec.Enter...))
	case len(spec.Controllers) > 0:
		what = fmt.Sprintf("cgroups (%q)", spec.Controllers)
	case !spec.Plan.HostMounts:
		what = "mounts of the container's own"
	case spec.Plan.Hostname != "" || spec.Plan.Loopback:
		what = "a host name or a network of the container's own"
	default:
		return nil
	}
	return fmt.Errorf("%w: the posix launcher has no %s: use --launcher=linux, or leave out of --isolation what needs it", container.ErrNotSupported, what)
}

func (l *Launcher) record(id container.ID) string { return l.Layout.Container(id).Tree() }

// Attach implements launcher.Launcher.
func (l *Launcher) Attach(_ context.Context, id container.ID) (launcher.Process, error) {
	p, err := initproc.Attach(l.record(id))
	if err != nil {
		return nil, fmt.Errorf("the init process of container %s: %w", id, err)
	}
	return p, nil
}

// Destroy implements launcher.Launcher.
func (l *Launcher) Destroy(ctx context.Context, id container.ID) error {
	children, err := state.Children(l.Layout.Container(id).Dir, id)
	errs := []error{err}
	for _, child := range children {
		errs = append(errs, l.Destroy(ctx, child))
	}
	if err := l.kill(ctx, id); err != nil {
		errs = append(errs, fmt.Errorf("destroy container %s: %w", id, err))
	}
	return errors.Join(errs...)
}

// kill ends the processes of one container. The record goes last: as long as it is there,
// there may be some.
func (l *Launcher) kill(ctx context.Context, id container.ID) error {
	root, err := initproc.Recorded(l.record(id))
	if err == nil {
		err = processes.KillTree(ctx, root)
		// A command may have killed berth-init.
		if (err == nil || errors.Is(err, container.ErrNotFound)) && !l.endedInOrder(id) {
			err = processes.KillSession(ctx, root)
		}
	}
	if err != nil && !errors.Is(err, container.ErrNotFound) {
		return err
	}
	if err := os.Remove(l.record(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// endedInOrder reports whether berth-init has ended by itself, which it does when nothing
// else of its tree is left: then it has recorded a status.
func (l *Launcher) endedInOrder(id container.ID) bool {
	info, err := os.Stat(l.Layout.Container(id).Status())
	return err == nil && info.Size() > 0
}

// Processes implements launcher.Lister.
func (l *Launcher) Processes(id container.ID) (pids []int, err error) {
	root, err := initproc.Recorded(l.record(id))
	if err != nil {
		return nil, fmt.Errorf("the processes of container %s: %w", id, err)
	}
	tree, err := processes.Tree(root)
	if err != nil && !errors.Is(err, container.ErrNotFound) {
		return nil, err
	}
	for _, p := range tree {
		pids = append(pids, p.Pid)
	}
	children, err := state.Children(l.Layout.Container(id).Dir, id)
	for _, child := range children {
		nested, childErr := l.Processes(child)
		if childErr != nil && !errors.Is(childErr, container.ErrNotFound) {
			err = errors.Join(err, childErr)
		}
		pids = append(pids, nested...)
	}
	return pids, err
}
