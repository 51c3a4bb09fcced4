//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/engine"
	"berth/internal/pty"
)

// runFlags are the flags of `berth run` that concern one container.
type runFlags struct {
	name, workdir, user, hostname, shell, pull, platform, containerInfo string
	entrypoint, userns                                                  string
	env, volumes, imageVolumes, uris, ulimits                           []string
	limited                                                             cgroupFlags
	capAdd, capDrop, securityOptions                                    []string
	cpus                                                                float64
	memory, disk                                                        string
	pidsLimit                                                           int
	readOnly, interactive, tty, remove, detach                          bool
	network, publish                                                    []string
}

func (r *runFlags) add(f *pflag.FlagSet) {
	f.StringVar(&r.name, "name", "", "id of the container (default: a random one)")
	f.StringArrayVarP(&r.env, "env", "e", nil, "environment variable NAME=VALUE, or NAME for that of berth")
	f.StringVarP(&r.workdir, "workdir", "w", "", "directory in which the command starts")
	f.StringVarP(&r.user, "user", "u", "", "USER[:GROUP], names or numbers, as the image knows them")
	f.Float64Var(&r.cpus, "cpus", 0, "limit of CPUs, as 0.5")
	f.StringVar(&r.memory, "memory", "", "limit of memory, as 64m or 2g")
	f.StringVar(&r.disk, "disk", "", "limit of what the container writes to its root file system and its sandbox, as 100m or 2g")
	f.IntVar(&r.pidsLimit, "pids_limit", 0, "limit of processes and threads")
	f.StringSliceVar(&r.network, "network", nil, "`NAME,...`: host (the default), none, bridge, or networks of --network_cni_config_dir")
	f.StringArrayVarP(&r.publish, "publish", "p", nil, "make a port of the container one of the host: `[HOSTIP:]HOSTPORT:PORT[/udp]`, FIRST-LAST for several")
	f.StringVar(&r.userns, "userns", usernsHost, "whose users those of the container are: host's, auto (ids that no other container has) or START:SIZE")
	f.StringVar(&r.hostname, "hostname", "", "host name (default: the id)")
	f.BoolVar(&r.readOnly, "read_only", false, "make the root filesystem read-only")
	f.StringVar(&r.entrypoint, "entrypoint", "", "replaces the image's entrypoint and command")
	f.StringVar(&r.shell, "shell", "", "execute `CMD` with sh -c")
	f.StringVar(&r.pull, "pull", pullMissing, "ask the registry always, when the image is missing, or never")
	f.StringVar(&r.platform, "platform", "", "OS/ARCHITECTURE[/VARIANT] of the image (default: the host's)")
	f.StringVar(&r.containerInfo, "container_info", "", "a ContainerInfo as JSON, or a file with one")
	f.StringArrayVarP(&r.volumes, "volume", "v", nil, "mount a path of the host: `SRC:DST[:ro]`, DST absolute")
	f.StringArrayVar(&r.imageVolumes, "image_volume", nil, "mount an image: `IMAGE:DST[:ro][:subpath=DIR]`, DST absolute, DIR in the image")
	r.limited.add(f)
	f.StringArrayVar(&r.ulimits, "ulimit", nil, "limit of setrlimit(2) for each process: `NAME=SOFT[:HARD]`, as nofile=1024 or core=0:unlimited")
	f.StringArrayVar(&r.uris, "uri", nil, "`URI` of a file to bring into the sandbox, or a whole CommandInfo.URI as JSON")
	f.StringSliceVar(&r.capAdd, "cap_add", nil, "`CAPABILITY,...` that the container has, too; or ALL")
	f.StringSliceVar(&r.capDrop, "cap_drop", nil, "`CAPABILITY,...` that the container has not; or ALL")
	f.StringArrayVar(&r.securityOptions, "security_opt", nil, "no-new-privileges: no program of the container gets more privileges than it; seccomp=`FILE|unconfined`: its filter of system calls")
	f.BoolVarP(&r.interactive, "interactive", "i", false, "give the command berth's standard input")
	f.BoolVarP(&r.tty, "tty", "t", false, "give the command a terminal; with -i it is berth's own")
	f.BoolVarP(&r.detach, "detach", "d", false, "leave the container to the agent, and print its id")
	f.BoolVar(&r.remove, "rm", true, "remove the container, its result and its output when it has ended; without an agent that always is so, with --detach it is not unless asked for")
}

func runCommand() *cobra.Command {
	var flags runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] [IMAGE] [flags] [[--] ARG...]",
		Short: "Run a container in the foreground and exit with its status",
		Long: `Run a container in the foreground and exit with its status: that of the command,
128+n for signal n, 125 when berth fails, 126 when the command cannot be executed,
127 when it does not exist, 137 when the container exceeded a limit.

The agent runs it, if one answers in --runtime_dir and no flag says otherwise than its own;
else this process does. With -d the agent has to.

` + imageForms + `

Without IMAGE the command runs on the host's file system. ARG... replaces the image's
command and is appended to its entrypoint.`,
		DisableFlagParsing: true, // flags are read before and after IMAGE, not in ARG...
	}
	config := configured(cmd, storeFlags, launchFlags)
	completeImages(cmd, config)
	flags.add(cmd.Flags())
	cmd.Flags().BoolP("help", "h", false, "help for run")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		image, rest, err := splitRunArgs(cmd.Flags(), args)
		if err != nil {
			return hint(cmd, err)
		}
		if help, _ := cmd.Flags().GetBool("help"); help {
			return cmd.Help()
		}
		if err := fromEnvironment(cmd.Flags()); err != nil {
			return err
		}
		request, err := flags.request(cmd.Flags(), image, rest)
		if err != nil {
			return err
		}
		return run(cmd.Context(), cmd.Flags(), config, &flags, request)
	}
	return cmd
}

// splitRunArgs reads flags before and after IMAGE, up to "--" or the first other word.
func splitRunArgs(f *pflag.FlagSet, args []string) (image string, rest []string, err error) {
	f.SetInterspersed(false)
	if err := f.Parse(args); err != nil {
		return "", nil, err
	}
	if f.NArg() == 0 || f.ArgsLenAtDash() == 0 {
		return "", f.Args(), nil
	}
	image = f.Arg(0)
	// Parse leaves the flags of the first part as they are.
	if err := f.Parse(f.Args()[1:]); err != nil {
		return "", nil, err
	}
	return image, f.Args(), nil
}

// request turns the flags into the messages of the API.
func (r *runFlags) request(f *pflag.FlagSet, image string, args []string) (*v1.ContainerConfig, error) {
	info, err := r.info(image)
	if err != nil {
		return nil, err
	}
	uris, err := r.commandURIs()
	if err != nil {
		return nil, err
	}
	security, err := r.security()
	if err != nil {
		return nil, err
	}
	config := &v1.ContainerConfig{
		ContainerInfo:  info,
		Security:       security,
		CommandInfo:    &v1.CommandInfo{Environment: r.environment(), Uris: uris},
		ImageArguments: args,
		ReadOnlyRootfs: proto.Bool(r.readOnly),
	}
	if f.Changed("shell") {
		if len(args) > 0 {
			return nil, fmt.Errorf("--shell: %w: it is the whole command, and there are arguments", container.ErrInvalid)
		}
		config.CommandInfo.Shell, config.CommandInfo.Value = proto.Bool(true), proto.String(r.shell)
	}
	if f.Changed("entrypoint") {
		config.Entrypoint = proto.String(r.entrypoint)
	}
	if r.user != "" {
		config.User = proto.String(r.user)
	}
	if r.workdir != "" {
		config.WorkingDirectory = proto.String(r.workdir)
	}
	return config, r.limits(f, config)
}

// info is what the flags say of the container; nil when they say nothing, so that
// --default_container_info counts.
func (r *runFlags) info(image string) (info *v1.ContainerInfo, err error) {
	info = &v1.ContainerInfo{}
	if r.containerInfo != "" {
		if info, err = engine.ReadContainerInfo(r.containerInfo); err != nil {
			return nil, fmt.Errorf("--container_info: %w", err)
		}
	}
	if image != "" {
		img, err := engine.ParseImage(image, r.platform)
		if err != nil {
			return nil, err
		}
		info.Mesos = &v1.ContainerInfo_MesosInfo{Image: img}
	}
	for _, value := range r.volumes {
		volume, err := hostVolume(value)
		if err != nil {
			return nil, err
		}
		info.Volumes = append(info.Volumes, volume)
	}
	for _, value := range r.imageVolumes {
		volume, err := imageVolume(value)
		if err != nil {
			return nil, err
		}
		info.Volumes = append(info.Volumes, volume)
	}
	if err := r.limited.into(info); err != nil {
		return nil, err
	}
	r.confine(info)
	for _, value := range r.ulimits {
		limit, err := ulimit(value)
		if err != nil {
			return nil, err
		}
		if info.RlimitInfo == nil {
			info.RlimitInfo = &v1.RLimitInfo{}
		}
		info.RlimitInfo.Rlimits = append(info.RlimitInfo.Rlimits, limit)
	}
	if r.tty && info.TtyInfo == nil {
		info.TtyInfo = &v1.TTYInfo{}
	}
	if r.hostname != "" {
		info.Hostname = proto.String(r.hostname)
	}
	if err := r.networks(info); err != nil {
		return nil, err
	}
	if err := r.userNamespace(info); err != nil {
		return nil, err
	}
	if image == "" && r.containerInfo == "" && proto.Size(info) == 0 {
		return nil, nil
	}
	info.Type = v1.ContainerInfo_MESOS.Enum()
	return info, nil
}

// commandURIs are those of --uri.
func (r *runFlags) commandURIs() (uris []*v1.CommandInfo_URI, err error) {
	for _, value := range r.uris {
		uri := &v1.CommandInfo_URI{Value: proto.String(value)}
		if strings.HasPrefix(strings.TrimSpace(value), "{") {
			if err := v1.Unmarshal([]byte(value), uri); err != nil {
				return nil, fmt.Errorf("--uri: %w", err)
			}
		}
		uris = append(uris, uri)
	}
	return uris, nil
}

func (r *runFlags) environment() *v1.Environment {
	env := &v1.Environment{}
	for _, entry := range r.env {
		name, value, ok := strings.Cut(entry, "=")
		if !ok {
			if value, ok = os.LookupEnv(name); !ok {
				continue
			}
		}
		env.Variables = append(env.Variables, &v1.Environment_Variable{Name: proto.String(name), Value: proto.String(value)})
	}
	return env
}

// limits sets what is limited, and requests as much as is allowed.
func (r *runFlags) limits(f *pflag.FlagSet, config *v1.ContainerConfig) error {
	// Said, not left out: an agent refuses who says nothing of what it counts.
	config.Limits = map[string]*v1.Value_Scalar{"cpus": {Value: proto.Float64(math.Inf(1))}, "mem": {Value: proto.Float64(math.Inf(1))}}
	limit := func(name string, value float64) {
		scalar := &v1.Value_Scalar{Value: proto.Float64(value)}
		config.Limits[name] = scalar
		config.Resources = append(config.Resources, &v1.Resource{Name: proto.String(name), Type: v1.Value_SCALAR.Enum(), Scalar: scalar})
	}
	if f.Changed("cpus") {
		if !(r.cpus > 0) || math.IsInf(r.cpus, 0) {
			return fmt.Errorf("--cpus %v: %w: it is a positive number", r.cpus, container.ErrInvalid)
		}
		limit("cpus", r.cpus)
	}
	if f.Changed("memory") {
		bytes, err := parseBytes(r.memory)
		if err != nil {
			return fmt.Errorf("--memory: %w", err)
		}
		limit("mem", bytes/(1<<20))
	}
	if f.Changed("disk") {
		bytes, err := parseBytes(r.disk)
		if err != nil {
			return fmt.Errorf("--disk: %w", err)
		}
		limit("disk", bytes/(1<<20))
	}
	if f.Changed("pids_limit") {
		limit("pids", float64(r.pidsLimit))
	}
	return r.limited.hugePages(config.Limits)
}

// run runs the container by the agent that answers, else in this process.
func run(ctx context.Context, f *pflag.FlagSet, config *engine.Config, flags *runFlags, request *v1.ContainerConfig) error {
	name := flags.name
	if name == "" {
		name = strings.ToLower(rand.Text()[:12])
	}
	id, err := container.ParseID(name)
	if err != nil {
		return fmt.Errorf("--name: %w", err)
	}
	agent, err := agentFor(ctx, f, config)
	if agent != nil {
		defer agent.Close()
	}
	switch {
	case flags.detach && err != nil:
		return fmt.Errorf("--detach: %w", err)
	case flags.detach:
		return runDetached(ctx, agent, config, f, flags, id, request)
	case agent != nil && err == nil:
		return runByAgent(ctx, agent, config, flags, id, request)
	default: // whatever is wrong with the agent does not matter
		return runHere(ctx, config, flags, id, request)
	}
}

// runHere launches the container, waits for it and cleans up.
func runHere(ctx context.Context, config *engine.Config, flags *runFlags, id container.ID, request *v1.ContainerConfig) error {
	progress := fetching(config)
	var ready sync.WaitGroup
	ready.Go(func() { v1.Prepare(request) }) // which takes as long as to open an engine
	return withEngine(ctx, config, func(e *engine.Engine) error {
		ready.Wait()
		request, err := e.Complete(id, request)
		if err != nil {
			return err
		}
		for _, img := range imagesIn(request.GetContainerInfo()) {
			if err := applyPullPolicy(ctx, e.Images, img, flags.pull); err != nil {
				return err
			}
		}
		req := containerizer.Request{Config: request, Keeper: containerizer.Foreground}
		tty, err := connect(&req, flags.interactive)
		if err != nil {
			return err
		}
		signals := caught()
		err = launch(ctx, signals, func(ctx context.Context) error { return e.Launch(ctx, id, req) })
		progress.done()
		if err != nil {
			return err
		}
		if tty != nil {
			if err := tty.joinSent(); err != nil {
				_, left := e.Destroy(ctx, id)
				return errors.Join(err, left, tty.part())
			}
		}
		return await(ctx, e, id, tty, signals)
	})
}

// caught are the signals that are for the command.
func caught() chan os.Signal {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	return signals
}

// launch launches a container. A signal meanwhile undoes the launch.
func launch(ctx context.Context, signals chan os.Signal, start func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	launched := make(chan error, 1)
	go func() { launched <- start(ctx) }()
	select {
	case err := <-launched:
		return err
	case s := <-signals:
		cancel(fmt.Errorf("interrupted by %v", s))
		err := <-launched
		if err == nil { // it came too late for the launch, so it is for the command
			select {
			case signals <- s:
			default: // as many as fit are waiting already
			}
		}
		return err
	}
}

// keeper is who looks after a container in the foreground.
type keeper interface {
	Wait(context.Context, container.ID) (container.Termination, error)
	Kill(context.Context, container.ID, os.Signal) error
	Stop(context.Context, container.ID) error
	Destroy(context.Context, container.ID) (bool, error)
}

// await waits for the end of the container, and returns its exit status. tty may be nil.
func await(ctx context.Context, k keeper, id container.ID, tty *terminal, signals <-chan os.Signal) error {
	ended := make(chan struct{})
	defer close(ended)
	go forward(ctx, k, id, signals, ended)
	termination, err := k.Wait(ctx, id)
	if tty != nil { // before anything is said at the user's terminal
		err = errors.Join(err, tty.part())
	}
	if err != nil {
		return err
	}
	if termination.Message != "" {
		fmt.Fprintf(os.Stderr, "berth: container %s: %s\n", id, termination.Message)
	}
	if code := termination.ExitCode(); code != 0 {
		return exitStatus(code)
	}
	return nil
}

// grace is how long a container may take to end after a signal before it is killed.
const grace = 10 * time.Second

// forward sends berth's signals on to the container. When it has not ended some time
// after the first one, or at the second one, it is destroyed.
func forward(ctx context.Context, k keeper, id container.ID, signals <-chan os.Signal, ended <-chan struct{}) {
	var overdue <-chan time.Time
	for {
		select {
		case <-ended:
			return
		case s := <-signals:
			if overdue == nil {
				overdue = time.After(grace)
				_ = pass(ctx, k, id, s) // it may have just ended
				continue
			}
		case <-overdue:
		}
		if _, err := k.Destroy(ctx, id); err != nil {
			fmt.Fprintf(os.Stderr, "berth: %v\n", err)
		}
		return
	}
}

// pass sends one signal on. SIGTERM is what asks a program to end, in the container too,
// where the image may have another word for that.
func pass(ctx context.Context, k keeper, id container.ID, s os.Signal) error {
	if s == syscall.SIGTERM {
		return k.Stop(ctx, id)
	}
	return k.Kill(ctx, id, s)
}

// connect gives the request the standard streams of the command: a terminal, which is
// returned, if the request says so.
func connect(req *containerizer.Request, interactive bool) (tty *terminal, err error) {
	if info := req.Config.GetContainerInfo().GetTtyInfo(); info != nil {
		if tty, err = newTerminal(interactive, info); err != nil {
			return nil, err
		}
		tty.receiver, tty.sender, err = pty.Channel()
		req.Terminal = tty.sender
		return tty, err
	}
	req.Stdio, err = streams(interactive)
	return nil, err
}

// streams are the standard streams of the command: berth's own, but for the input,
// which is empty unless asked for.
func streams(interactive bool) ([3]*os.File, error) {
	if interactive {
		return [3]*os.File{os.Stdin, os.Stdout, os.Stderr}, nil
	}
	null, err := os.Open(os.DevNull)
	return [3]*os.File{null, os.Stdout, os.Stderr}, err
}
