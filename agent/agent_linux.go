package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	v1 "berth/api/v1"
	"berth/container"
	"berth/engine"
	"berth/internal/filelock"
	"berth/provisioner"
)

// Options are how an agent is set up.
type Options struct {
	Engine  engine.Config
	ImageGC *v1.ImageGcConfig // as of ParseImageGC; nil: images are removed by hand only
	Log     *slog.Logger
}

// Run is the life of an agent. It ends with ctx, and then returns nil if all that it had
// opened could be closed. ErrFailedPrecondition: another agent has the directories.
func Run(ctx context.Context, o Options) (err error) {
	o.Engine.Log = o.Log
	e, err := engine.Open(ctx, o.Engine)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	for _, path := range e.Layout.AgentLocks() {
		lock, err := lockAgent(path)
		if err != nil {
			return err
		}
		defer lock.Unlock()
	}
	if err := checkExcluded(e, o.ImageGC.GetExcludedImages()); err != nil {
		return err
	}
	if err := e.Recover(ctx); err != nil {
		o.Log.Warn("recover", slog.Any("error", err)) // what could not be removed is left to the next one
	}
	return serve(ctx, e, o)
}

// lockAgent locks a file and writes the process id into it.
func lockAgent(path string) (*filelock.Lock, error) {
	lock, err := filelock.Try(path, filelock.Exclusive)
	if errors.Is(err, filelock.ErrHeld) {
		pid, _ := os.ReadFile(path) // says who; that there is one is known
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

// serve does the agent's work until ctx ends.
func serve(ctx context.Context, e *engine.Engine, o Options) error {
	listener, err := listen(e.Layout.AgentSocket())
	if err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	server := newServer(e.Metrics)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	ctx, stop := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	if o.ImageGC != nil {
		gc := newImageGC(e, o)
		tasks.Go(func() { gc.Run(ctx) })
	}
	o.Log.Info("the agent is ready", slog.Int("pid", os.Getpid()), slog.String("work_dir", e.Layout.Work), slog.Bool("image_gc", o.ImageGC != nil))
	select {
	case <-ctx.Done():
		err = server.Close()
		<-served
	case err = <-served:
		err = fmt.Errorf("serve %s: %w", e.Layout.AgentSocket(), err)
	}
	o.Log.Info("the agent ends")
	stop()
	tasks.Wait()
	return err
}

func newImageGC(e *engine.Engine, o Options) *ImageGC {
	return &ImageGC{
		Config: o.ImageGC,
		Log:    o.Log,
		Used:   func() (float64, error) { return used(e.Layers.Dir()) },
		Prune: func(ctx context.Context, options provisioner.PruneOptions) (provisioner.Pruned, error) {
			// The containers of dead berth processes use no image.
			if err := e.Recover(ctx); err != nil {
				o.Log.Warn("recover", slog.Any("error", err))
			}
			return e.Images.Provisioner.Prune(ctx, options)
		},
	}
}
