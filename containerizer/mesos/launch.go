//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"sync"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/internal/atomicfile"
	"berth/internal/filelock"
	"berth/internal/inroot"
	"berth/isolator"
	"berth/launcher"
	"berth/launcher/plan"
	"berth/state"
)

// launch is one container on its way, and what is known of it afterwards. The undo
// steps use nothing but its id, so that any process can take them.
type launch struct {
	*Containerizer
	id      container.ID
	records state.Container
	log     *slog.Logger

	req       containerizer.Request
	container *isolator.Container
	info      isolator.LaunchInfo
	process   launcher.Process
	watch     *watch

	// left is what the last undo could not remove.
	left error

	// own guards keeper: from the moment that it is nil, the id may be another's.
	own    sync.Mutex
	keeper *filelock.Lock
}

func (c *Containerizer) newLaunch(id container.ID) *launch {
	return &launch{Containerizer: c, id: id, records: c.Layout.Container(id), log: c.Log.With(slog.String("container", id.String()))}
}

// admit makes the record of the container and takes its keeper's lock, before anyone
// can judge it.
func (l *launch) admit(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("launch %s: %w", l.id, err)
		}
	}()
	lock, err := l.lockRuntime(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := os.MkdirAll(l.Layout.RuntimeContainers(), 0o700); err != nil {
		return err
	}
	switch err := os.Mkdir(l.records.Dir, 0o700); {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: choose another --name, or end that container", container.ErrExists)
	case err != nil:
		return err
	}
	if l.keeper, err = filelock.Try(l.records.Keeper(), filelock.Exclusive); err != nil {
		return errors.Join(err, os.RemoveAll(l.records.Dir))
	}
	if err := l.signKeeper(l.req.Keeper); err != nil {
		return err
	}
	return l.checkpoint(admitted)
}

// forget removes the record: the last trace of the container.
func (l *launch) forget(ctx context.Context) (err error) {
	l.own.Lock()
	defer l.own.Unlock()
	if l.keeper == nil {
		return nil // never admitted: what is there is another's
	}
	lock, err := l.lockRuntime(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := os.RemoveAll(l.records.Dir); err != nil {
		return err
	}
	return l.unlockKeeper()
}

// disown leaves the record to whoever finds it.
func (l *launch) disown() error {
	l.own.Lock()
	defer l.own.Unlock()
	if l.keeper == nil {
		return nil
	}
	return l.unlockKeeper()
}

func (l *launch) unlockKeeper() error {
	keeper := l.keeper
	l.keeper = nil
	return keeper.Unlock()
}

// end kills the container, unless that is gone.
func (l *launch) end(ctx context.Context) error {
	l.own.Lock()
	defer l.own.Unlock()
	if l.keeper == nil {
		return nil
	}
	return l.Launcher.Destroy(ctx, l.id)
}

// provision makes the root filesystem and the sandbox, and records the request.
func (l *launch) provision(ctx context.Context) error {
	config := proto.CloneOf(l.req.Config)
	if err := isolator.CheckVolumes(config); err != nil {
		return fmt.Errorf("launch %s: %w", l.id, err)
	}
	l.container = &isolator.Container{ID: l.id, Config: config}
	if img := config.GetContainerInfo().GetMesos().GetImage(); img != nil {
		rootfs, err := l.Provisioner.Provision(ctx, l.id, img)
		if err != nil {
			return err
		}
		config.Rootfs = proto.String(rootfs.Path)
		config.EphemeralVolumes = rootfs.Ephemeral
		l.container.Image = rootfs.Config
	}
	if err := l.makeSandbox(config); err != nil {
		return fmt.Errorf("launch %s: make the sandbox: %w", l.id, err)
	}
	data, err := v1.Marshal(config)
	if err != nil {
		return fmt.Errorf("launch %s: record the request: %w", l.id, err)
	}
	if err := atomicfile.Write(l.records.Config(), append(data, '\n'), 0o600, false); err != nil {
		return fmt.Errorf("launch %s: record the request: %w", l.id, err)
	}
	return nil
}

// makeSandbox marks, before it exists, that the sandbox is to go with the container. One
// that exists without the mark is somebody's, and not to be marked.
func (l *launch) makeSandbox(config *v1.ContainerConfig) error {
	sandbox := l.Layout.Sandbox(l.id)
	config.Directory = proto.String(sandbox)
	if err := os.MkdirAll(l.Layout.Sandboxes(), 0o700); err != nil {
		return err
	}
	if err := l.removeSandbox(l.id); err != nil {
		return err
	}
	if _, err := os.Lstat(sandbox); err == nil {
		return fmt.Errorf("%w: %s: choose another --name, or remove it", container.ErrExists, sandbox)
	}
	if err := os.WriteFile(l.Layout.Foreground(l.id), nil, 0o600); err != nil {
		return err
	}
	return os.Mkdir(sandbox, 0o750)
}

// unmount removes the root filesystem and the sandbox.
func (l *launch) unmount(ctx context.Context) error {
	if _, err := l.Provisioner.Destroy(ctx, l.id); err != nil {
		return err
	}
	return l.removeSandbox(l.id)
}

// prepare asks every isolator, in order, and puts their parts together.
func (l *launch) prepare(ctx context.Context) error {
	var infos []*isolator.LaunchInfo
	for _, i := range l.Isolators {
		info, err := i.Prepare(ctx, l.container)
		if err != nil {
			return fmt.Errorf("launch %s: %w", l.id, err)
		}
		infos = append(infos, info)
	}
	var err error
	if l.info, err = isolator.Merge(infos); err != nil {
		return fmt.Errorf("launch %s: %w", l.id, err)
	}
	if err := isolator.CheckMounted(l.container.Config, l.SandboxDirectory, l.info.Volumes); err != nil {
		return fmt.Errorf("launch %s: %w", l.id, err)
	}
	return nil
}

// cleanup lets every isolator remove what it made, in reverse order and past failures.
func (l *launch) cleanup(ctx context.Context) error {
	var errs []error
	for i := len(l.Isolators) - 1; i >= 0; i-- {
		errs = append(errs, l.Isolators[i].Cleanup(ctx, l.id))
	}
	return errors.Join(errs...)
}

// fork starts the init process, which waits.
func (l *launch) fork(ctx context.Context) error {
	p, err := l.plan()
	if err != nil {
		return fmt.Errorf("launch %s: %w", l.id, err)
	}
	// Not earlier: users are those of the root filesystem.
	if err := l.giveSandbox(int(p.Command.UID), int(p.Command.GID)); err != nil {
		return fmt.Errorf("launch %s: give the sandbox to the user: %w", l.id, err)
	}
	stdio, opened, err := l.openStdio(p.Command)
	defer closeFiles(opened)
	if err != nil {
		return fmt.Errorf("launch %s: %w", l.id, err)
	}
	l.process, err = l.Launcher.Fork(ctx, l.id, launcher.Spec{
		Plan:        p,
		Namespaces:  l.info.Namespaces,
		Controllers: l.info.Controllers,
		Stdio:       stdio,
		Terminal:    l.req.Terminal,
		Status:      l.records.Status(),
	})
	return err
}

// giveSandbox makes a user the owner of the sandbox and of what was made in it for it.
func (l *launch) giveSandbox(uid, gid int) (err error) {
	sandbox, err := os.OpenRoot(l.container.Config.GetDirectory())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sandbox.Close()) }()
	for _, name := range append([]string{"."}, l.info.ForUser...) {
		if err := sandbox.Chown(name, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// kill ends every process of the container.
func (l *launch) kill(ctx context.Context) error {
	if err := l.Launcher.Destroy(ctx, l.id); err != nil {
		return err
	}
	l.watch.end()
	if l.process == nil { // forked by another process, or never
		return nil
	}
	return l.process.Wait(ctx)
}

// isolate lets the isolators act on the waiting process, then starts to watch it.
func (l *launch) isolate(ctx context.Context) error {
	for _, i := range l.Isolators {
		if enforcer, ok := i.(isolator.Enforcer); ok {
			if err := enforcer.Isolate(ctx, l.container, l.process.Pid()); err != nil {
				return fmt.Errorf("launch %s: %w", l.id, err)
			}
		}
	}
	l.watch = startWatch(l.Isolators, l.id)
	return nil
}

// release lets the init process go.
func (l *launch) release(ctx context.Context) error {
	if err := l.process.Release(ctx); err != nil {
		return fmt.Errorf("launch %s: %w", l.id, err)
	}
	return nil
}

// plan turns what is wanted into what berth-init does.
func (l *launch) plan() (plan.Plan, error) {
	config := l.container.Config
	command := l.info.Command
	if command == nil {
		var err error
		if command, err = isolator.ResolveCommand(config, nil, nil); err != nil {
			return plan.Plan{}, err
		}
	}
	root, sandbox := "/", config.GetDirectory()
	if config.GetRootfs() != "" {
		root, sandbox = config.GetRootfs(), l.SandboxDirectory
	}
	asked := firstOf(config.GetUser(), config.GetCommandInfo().GetUser())
	user, err := inroot.LookupUser(root, firstOf(asked, l.info.User))
	if err != nil {
		return plan.Plan{}, err
	}
	if asked == "" {
		user.Groups = append(user.Groups, l.info.Groups...)
	}
	env, err := environment(config, l.info.Env, user.Home)
	if err != nil {
		return plan.Plan{}, err
	}
	terminal, err := l.terminal()
	if err != nil {
		return plan.Plan{}, err
	}
	logs, err := l.logs(sandbox)
	if err != nil {
		return plan.Plan{}, err
	}
	return plan.Plan{
		Rootfs:         config.GetRootfs(),
		ReadOnlyRootfs: config.GetReadOnlyRootfs(),
		Mounts:         l.info.Mounts,
		Nodes:          l.info.Nodes,
		Links:          l.info.Links,
		Masked:         l.info.Masked,
		ReadOnly:       l.info.ReadOnly,
		Volumes:        l.info.Volumes,
		Terminal:       terminal,
		Logs:           logs,
		Hostname:       l.info.Hostname,
		Loopback:       l.info.Loopback,
		Command: plan.Command{
			Path:   command.Path,
			Args:   command.Args,
			Env:    env,
			Dir:    path.Join("/", firstOf(config.GetWorkingDirectory(), l.info.WorkingDir, sandbox)),
			UID:    user.UID,
			GID:    user.GID,
			Groups: user.Groups,
		},
	}, nil
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
