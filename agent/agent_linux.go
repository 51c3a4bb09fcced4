package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"berth/agent/operator"
	"berth/agent/page"
	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/engine"
	"berth/internal/filelock"
)

// Options are how an agent is set up.
type Options struct {
	Engine engine.Config
	HTTP   HTTP
	// Cleanup: the recovery destroys and removes every container of the agent.
	Cleanup bool
	Version string
	Log     *slog.Logger
	// Level is that of Log; calls change it.
	Level *slog.LevelVar
	Changeable

	// Reload is asked for the options anew when something comes by Hangups. What can change
	// while the agent runs, Changeable, does; what else has changed is named in the log.
	Reload  func() (Options, error)
	Hangups <-chan os.Signal
}

// Changeable are the options that may change while the agent runs; what is in the files that
// HTTP names for access may, too.
type Changeable struct {
	ImageGC *v1.ImageGcConfig // as of ParseImageGC; nil: images are removed by hand only
	// CompletedRetention is how long the result and the sandbox of a root container are kept
	// that nobody removes.
	CompletedRetention time.Duration
	// LoggingLevel is that which Level has when no call has set another one.
	LoggingLevel slog.Level
	// Flags are those in force, by their names.
	Flags map[string]string
}

// agent is one that runs.
type agent struct {
	Options
	engine   *engine.Engine
	server   *operator.Server
	events   operator.Events
	removals sync.WaitGroup // of containers that are to go by themselves
	settings atomic.Pointer[settings]
}

// Run is the life of an agent. It ends with ctx, and then returns nil if all that it had
// opened could be closed; containers run on. ErrFailedPrecondition: another agent has the
// directories. ErrInvalid: the options.
func Run(ctx context.Context, o Options) (err error) {
	a := &agent{Options: o}
	a.Engine.Log, a.Engine.Agent, a.Engine.Observe = o.Log, true, a.observe
	if a.engine, err = engine.Open(ctx, a.Engine); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.engine.Close()) }()
	defer a.removals.Wait()
	for _, path := range a.engine.Layout.AgentLocks() {
		lock, err := lockAgent(path)
		if err != nil {
			return err
		}
		defer lock.Unlock()
	}
	first, err := a.read(o)
	if err != nil {
		return err
	}
	a.settings.Store(first)
	a.server = operator.New(a.answers())
	a.server.SetLevel(o.LoggingLevel)
	for _, pattern := range page.Patterns {
		a.server.Handle(pattern, page.Handler())
	}
	servers, err := a.listen()
	if err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	return a.live(ctx, servers)
}

// lockAgent locks a file and writes the process id into it.
func lockAgent(path string) (*filelock.Lock, error) {
	lock, err := filelock.Try(path, filelock.Exclusive)
	pid, _ := os.ReadFile(path) // says who, if there is one
	if errors.Is(err, filelock.ErrHeld) && isDead(pid) {
		// By a child that its dead parent has just cloned, until it executes its program.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		lock, err = filelock.Acquire(ctx, path, filelock.Exclusive)
	}
	if errors.Is(err, filelock.ErrHeld) || errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("start the agent: %w: %s is locked by the agent with the process id %s: end that one, or choose another --work_dir and --runtime_dir",
			container.ErrFailedPrecondition, path, strings.TrimSpace(string(pid)))
	}
	if err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	err = lock.File().Truncate(0)
	if err == nil {
		_, err = fmt.Fprintln(lock.File(), os.Getpid())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the agent: %w", err), lock.Unlock())
	}
	return lock, nil
}

// patience is how long a clone may take to execute: where a hundred processes want a processor
// that is seconds.
const patience = 30 * time.Second

// isDead reports whether a process that a lock names is not there any more.
func isDead(pid []byte) bool {
	number, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	return err == nil && number > 0 && syscall.Kill(number, 0) == syscall.ESRCH
}

// checkExcluded finds out at the start what would else let every image GC fail.
func checkExcluded(e *engine.Engine, excluded []*v1.Image) error {
	for _, img := range excluded {
		s, ok := e.Stores[img.GetType()]
		if !ok {
			return fmt.Errorf("--image_gc_config: excluded_images: type %s: %w: it is not among --image_providers", img.GetType(), container.ErrNotSupported)
		}
		if _, err := s.Reference(img); err != nil {
			return fmt.Errorf("--image_gc_config: excluded_images: %w", err)
		}
	}
	return nil
}

// server is a listener and who answers there.
type server struct {
	*http.Server
	listener net.Listener
}

// listenTCP returns nil without an address.
func (a *agent) listenTCP() (net.Listener, error) {
	return a.HTTP.listenTCP(func() *tls.Config { return a.settings.Load().tls })
}

// listen opens the agent's socket, and what the options say beside it.
func (a *agent) listen() (servers []server, err error) {
	tcp, err := a.listenTCP()
	if err != nil {
		return nil, err
	}
	if tcp != nil {
		servers = append(servers, server{newHTTPServer(operator.ByPassword(a.access, a.server), a.Log), tcp})
	}
	unix, err := listenUnix(a.engine.Layout.AgentSocket())
	if err != nil {
		for _, s := range servers {
			err = errors.Join(err, s.listener.Close())
		}
		return nil, err
	}
	return append(servers, server{newHTTPServer(operator.BySocket(a.server), a.Log), unix}), nil
}

// live answers, recovers, and does the agent's work until ctx ends.
func (a *agent) live(ctx context.Context, servers []server) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var tasks sync.WaitGroup
	failed := make(chan error, len(servers))
	for _, s := range servers {
		tasks.Go(func() {
			if err := s.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve %s: %w", s.listener.Addr(), err)
			}
		})
	}
	err := a.recover(ctx)
	if err == nil {
		err = a.answer(ctx, &tasks, failed)
	}
	a.Log.Info("the agent ends; its containers run on")
	a.server.End()
	stop()
	for _, s := range servers {
		err = errors.Join(err, s.Close())
	}
	tasks.Wait()
	return err
}

// answer answers, and does what is to be done beside that, until ctx ends or something has failed.
func (a *agent) answer(ctx context.Context, tasks *sync.WaitGroup, failed <-chan error) error {
	a.server.Ready()
	tasks.Go(func() { a.collectImages(ctx) })
	tasks.Go(func() { a.retain(ctx) })
	tasks.Go(func() { a.server.Measure(ctx) })
	tasks.Go(func() { a.reloadWhenAsked(ctx) })
	a.Log.Info("the agent is ready", slog.Int("pid", os.Getpid()), slog.String("work_dir", a.engine.Layout.Work), slog.Bool("image_gc", a.ImageGC != nil))
	a.notifyReady(ctx, tasks)
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// recover takes up again what runs, and removes what is left of others. What it cannot
// remove is left to the next one. An error means that this agent is the wrong one: it knows
// nothing of what runs, and could launch nothing.
func (a *agent) recover(ctx context.Context) error {
	err := a.engine.Recover(ctx)
	if errors.Is(err, containerizer.ErrNewer) {
		return fmt.Errorf("start the agent: %w", err)
	}
	if err != nil {
		a.Log.Warn("recover", slog.Any("error", err))
	}
	if !a.Cleanup {
		return nil
	}
	for _, id := range a.engine.Containers() {
		if _, nested := id.Parent(); nested {
			continue // it goes with its root
		}
		_, err := a.engine.Destroy(ctx, id)
		if err = errors.Join(err, a.engine.Remove(ctx, id)); err != nil {
			a.Log.Warn("clean up", slog.String("container", id.String()), slog.Any("error", err))
		}
	}
	return nil
}
