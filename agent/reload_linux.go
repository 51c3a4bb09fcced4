package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"berth/agent/operator"
)

// settings are what may change while the agent runs. They are replaced as a whole.
type settings struct {
	Changeable
	access operator.Access
	tls    *tls.Config // nil: without
	// replaced is closed when there are others.
	replaced chan struct{}
}

// read makes settings of options, with the files that these name. An error means that
// nothing of them is to be in force.
func (a *agent) read(o Options) (*settings, error) {
	if err := checkExcluded(a.engine, o.ImageGC.GetExcludedImages()); err != nil {
		return nil, err
	}
	access, err := o.HTTP.access()
	if err != nil {
		return nil, err
	}
	secure, err := a.HTTP.tls() // of the names that the agent began with
	if err != nil {
		return nil, err
	}
	return &settings{o.Changeable, access, secure, make(chan struct{})}, nil
}

func (a *agent) access() operator.Access { return a.settings.Load().access }

// changeable are the flags that a reload puts in force; it reads the files again that some of
// them name.
var changeable = []string{"image_gc_config", "completed_retention", "http_credentials", "acls", "logging_level"}

// reloadWhenAsked reads the options again at every hangup, until ctx ends.
func (a *agent) reloadWhenAsked(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.Hangups:
			if err := a.reload(); err != nil {
				a.Log.Error("reload: nothing has changed", slog.Any("error", err))
			}
		}
	}
}

func (a *agent) reload() error {
	o, err := a.Reload()
	if err != nil {
		return err
	}
	if a.HTTP.Address != "" && o.HTTP.Credentials == "" && a.HTTP.ClientCA == "" {
		return errors.New("--http_credentials: without it nobody could show who they are at --http_address")
	}
	next, err := a.read(o)
	if err != nil {
		return err
	}
	before := a.settings.Load()
	changed := changedFlags(before.Flags, next.Flags)
	for _, name := range changed {
		if !slices.Contains(changeable, name) {
			a.Log.Warn(fmt.Sprintf("reload: --%s needs a restart", name))
			next.Flags[name] = before.Flags[name]
		}
	}
	a.settings.Store(next)
	a.server.SetLevel(next.LoggingLevel)
	close(before.replaced)
	a.Log.Info("reloaded", slog.Any("changed", slices.DeleteFunc(changed, func(name string) bool { return !slices.Contains(changeable, name) })))
	return nil
}

// changedFlags are the names of those whose values differ.
func changedFlags(before, after map[string]string) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if before[name] != after[name] {
			names = append(names, name)
		}
	}
	return names
}

// collectImages removes images when the settings say so, until ctx ends.
func (a *agent) collectImages(ctx context.Context) {
	for ctx.Err() == nil {
		now := a.settings.Load()
		until, cancel := context.WithCancel(ctx)
		go func() { // ends with until
			select {
			case <-now.replaced:
				cancel()
			case <-until.Done():
			}
		}()
		if now.ImageGC != nil {
			a.newImageGC(now).Run(until)
		}
		<-until.Done()
		cancel()
	}
}

func (a *agent) newImageGC(s *settings) *ImageGC {
	return &ImageGC{
		Config: s.ImageGC, Log: a.Log,
		Used:  func() (float64, error) { return used(a.engine.Layers.Dir()) },
		Prune: (*images)(a).prune,
	}
}
