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
	"path/filepath"
	"sync"
	"sync/atomic"

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
	"berth/provisioner"
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
	parent    *launch // that runs; nil for a root container
	container *isolator.Container
	info      isolator.LaunchInfo
	command   plan.Command // of the forked process
	made      made
	process   launcher.Process
	watch     *watch

	// written says that somebody is attached to the input.
	written atomic.Bool

	// updating guards container once that runs, and reported.
	updating sync.Mutex
	// reported is what isolators have given the container; nil: nobody has asked them yet.
	reported *v1.ContainerStatus

	// left is what the last undo could not remove.
	left error
	// ended says that somebody is to learn how the container ended, and where its
	// termination stays until then.
	ended bool

	// own guards these. From the moment that the container is not owned, the id may be
	// another's. A nested one has no keeper of its own.
	own    sync.Mutex
	owned  bool
	keeper *filelock.Lock
	state  container.State
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
	if lock.format != recordFormat {
		if err := l.writeFormat(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(l.records.Dir), 0o700); err != nil {
		return err
	}
	switch err := os.Mkdir(l.records.Dir, 0o700); {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: choose another --name, or end that container", container.ErrExists)
	case err != nil:
		return err
	}
	if l.parent == nil {
		if l.keeper, err = filelock.Try(l.records.Keeper(), filelock.Exclusive); err != nil {
			return errors.Join(err, os.RemoveAll(l.records.Dir))
		}
	} else {
		l.req.Keeper = l.parent.req.Keeper
	}
	l.owned = true
	if l.parent == nil {
		if err := l.signKeeper(l.req.Keeper); err != nil {
			return err
		}
	}
	return l.checkpoint(admitted)
}

// forget removes the record: the last trace of the container.
func (l *launch) forget(ctx context.Context) (err error) {
	l.own.Lock()
	defer l.own.Unlock()
	if !l.owned {
		return nil // never admitted: what is there is another's
	}
	if l.ended {
		return l.settle()
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
	if !l.owned {
		return nil
	}
	return l.unlockKeeper()
}

func (l *launch) unlockKeeper() error {
	l.mu.Lock()
	delete(l.ids, l.id)
	l.mu.Unlock()
	keeper := l.keeper
	l.keeper, l.owned = nil, false
	if keeper == nil {
		return nil
	}
	return keeper.Unlock()
}

// end kills the container, unless that is gone.
func (l *launch) end(ctx context.Context) error {
	l.own.Lock()
	defer l.own.Unlock()
	if !l.owned {
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
	if err := l.inherit(config); err != nil {
		return fmt.Errorf("launch %s: %w", l.id, err)
	}
	if err := l.Check(l.container); err != nil {
		return fmt.Errorf("launch %s: %w", l.id, err)
	}
	if l.Fetcher == nil && len(config.GetCommandInfo().GetUris()) > 0 {
		return fmt.Errorf("launch %s: %w: the command has URIs, and nobody is there to fetch them", l.id, container.ErrNotSupported)
	}
	if err := l.takeIDs(ctx); err != nil {
		return fmt.Errorf("launch %s: user namespace: %w", l.id, err)
	}
	if img := config.GetContainerInfo().GetMesos().GetImage(); img != nil {
		made, err := l.Provisioner.ProvisionAll(ctx, l.id, []provisioner.Wanted{{Image: img}}, l.container.IDs)
		if err != nil {
			return err
		}
		config.Rootfs = proto.String(made[0].Path)
		config.EphemeralVolumes = made[0].Ephemeral
		l.container.Image = made[0].Config
	}
	if err := l.makeSandbox(config); err != nil {
		return fmt.Errorf("launch %s: make the sandbox: %w", l.id, err)
	}
	return l.recordConfig()
}

func (l *launch) recordConfig() error {
	data, err := v1.Marshal(v1.WithoutSecrets(l.container.Config))
	if err == nil {
		err = atomicfile.Write(l.records.Config(), append(data, '\n'), 0o600, false)
	}
	if err != nil {
		return fmt.Errorf("container %s: record the request: %w", l.id, err)
	}
	return nil
}

// makeSandbox marks, before it exists, that the sandbox is to go with the container. One
// that exists without the mark is somebody's, and not to be marked. That of a nested
// container goes with that of its root.
func (l *launch) makeSandbox(config *v1.ContainerConfig) error {
	sandbox := l.Layout.Sandbox(l.id)
	config.Directory = proto.String(sandbox)
	if l.parent != nil {
		if err := os.MkdirAll(filepath.Dir(sandbox), 0o700); err != nil {
			return err
		}
		return os.Mkdir(sandbox, 0o750)
	}
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
	if _, nested := l.id.Parent(); !nested {
		return l.removeSandbox(l.id)
	}
	if l.ended {
		return nil
	}
	return l.removeNestedSandbox()
}

// prepare asks every isolator, in order, and puts their parts together.
func (l *launch) prepare(ctx context.Context) error {
	var infos []*isolator.LaunchInfo
	if l.container.IsDebug() {
		infos = append(infos, &isolator.LaunchInfo{Enter: l.entered()})
	}
	for _, i := range l.supporting(l.container) {
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
	if err := l.checkIDs(); err != nil {
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
	l.command = p.Command
	spec := launcher.Spec{
		Plan:        p,
		Namespaces:  l.info.Namespaces,
		IDs:         l.container.IDs,
		Controllers: l.info.Controllers,
		Enter:       l.info.Enter,
		Stdio:       l.req.Stdio,
		Terminal:    l.req.Terminal,
		Status:      l.records.Status(),
	}
	err = l.openStreams(p, &spec)
	defer l.closeStreams(spec)
	if err != nil {
		return fmt.Errorf("launch %s: open its streams: %w", l.id, err)
	}
	if l.parent != nil {
		spec.Parent, spec.SharesCgroups = l.parent.id, l.container.SharesCgroups()
	}
	l.process, err = l.Launcher.Fork(ctx, l.id, spec)
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
	for _, dir := range l.info.Owned {
		if err := os.Lchown(dir, uid, gid); err != nil {
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

// isolate starts to watch the waiting process, so that nothing is missed, and lets all
// isolators act on it at a time. What else is to be done before it is released is done here,
// while it starts.
func (l *launch) isolate(ctx context.Context) error {
	if err := l.recordMade(l.command); err != nil {
		return fmt.Errorf("launch %s: %w", l.id, err)
	}
	// Not earlier: users are those of the root filesystem.
	if err := l.giveSandbox(int(l.command.UID), int(l.command.GID)); err != nil {
		return fmt.Errorf("launch %s: give the sandbox to the user: %w", l.id, err)
	}
	isolators := l.supporting(l.container)
	l.watch = startWatch(isolators, l.id)
	errs := make([]error, len(isolators))
	var all sync.WaitGroup
	for n, i := range isolators {
		if enforcer, ok := i.(isolator.Enforcer); ok {
			all.Go(func() { errs[n] = enforcer.Isolate(ctx, l.container, l.process.Pid()) })
		}
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("launch %s: %w", l.id, err)
	}
	return nil
}

// fetch brings into the sandbox what the command wants there.
func (l *launch) fetch(ctx context.Context) error {
	if len(l.container.Config.GetCommandInfo().GetUris()) == 0 {
		return nil
	}
	if err := l.Fetcher.Fetch(ctx, l.container.Config, l.container.Config.GetDirectory(), l.made.UID, l.made.GID, l.container.IDs); err != nil {
		return fmt.Errorf("launch %s: %w", l.id, err)
	}
	return nil
}

// release lets the init process go.
func (l *launch) release(ctx context.Context) error {
	if err := l.process.Release(ctx); err != nil {
		return fmt.Errorf("launch %s: %w", l.id, err)
	}
	return nil
}

// keep lets the sandbox of a container stay whose keeper comes back for it, and what only its
// launch needed go: secrets for one, and the memory of a thousand containers that idle.
func (l *launch) keep(context.Context) error {
	l.updating.Lock()
	l.container.Image, l.container.Config = nil, v1.WithoutSecrets(l.container.Config)
	l.req.Config, l.info, l.command = nil, isolator.LaunchInfo{}, plan.Command{}
	l.updating.Unlock()
	if l.parent != nil || l.req.Keeper != containerizer.Agent {
		return nil
	}
	if err := os.Remove(l.Layout.Foreground(l.id)); err != nil {
		return fmt.Errorf("launch %s: keep the sandbox: %w", l.id, err)
	}
	return nil
}

// plan turns what is wanted into what berth-init does.
func (l *launch) plan() (plan.Plan, error) {
	if l.container.IsDebug() {
		return l.debugPlan()
	}
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
	user, err := inroot.LookupUser(root, firstOf(asked, l.info.User, ownUser()))
	if err != nil {
		return plan.Plan{}, err
	}
	if asked == "" {
		user.Groups = append(user.Groups, l.info.Groups...)
	}
	if err := l.hasUser(user); err != nil {
		return plan.Plan{}, err
	}
	env, err := environment(config, l.info.Env, user.Home)
	if err == nil {
		env, err = withSecrets(env, config, l.info.Secrets)
	}
	if err != nil {
		return plan.Plan{}, err
	}
	terminal, err := l.terminal()
	if err != nil {
		return plan.Plan{}, err
	}
	logs, err := l.logs()
	if err != nil {
		return plan.Plan{}, err
	}
	return plan.Plan{
		Rootfs:         config.GetRootfs(),
		ReadOnlyRootfs: config.GetReadOnlyRootfs(),
		HostMounts:     config.GetRootfs() == "" && !l.info.HasMounts() && terminal == nil,
		Mounts:         l.info.Mounts,
		Nodes:          l.info.Nodes,
		Links:          l.info.Links,
		Masked:         l.info.Masked,
		ReadOnly:       l.info.ReadOnly,
		Volumes:        l.info.Volumes,
		Terminal:       terminal,
		Logs:           logs,
		Input:          l.req.Input,
		Hostname:       l.info.Hostname,
		Loopback:       l.info.Loopback,

		CgroupNamespace: l.info.CgroupNamespace,
		Command: plan.Command{
			Path:   command.Path,
			Args:   command.Args,
			Env:    env,
			Dir:    path.Join("/", firstOf(config.GetWorkingDirectory(), l.info.WorkingDir, sandbox)),
			UID:    user.UID,
			GID:    user.GID,
			Groups: user.Groups,

			Rlimits:     l.info.Rlimits,
			Confinement: l.info.Confinement.Of(user.UID),
		},
	}, nil
}

// ownUser is who a command runs as that names nobody: root, or who else berth runs as.
func ownUser() string {
	if os.Geteuid() == 0 {
		return ""
	}
	return fmt.Sprintf("%d:%d", os.Geteuid(), os.Getegid())
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
