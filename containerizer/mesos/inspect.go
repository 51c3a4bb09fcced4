//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/internal/processes"
	"berth/launcher"
)

var _ containerizer.Inspector = (*Containerizer)(nil)

// Inspect implements containerizer.Inspector.
func (c *Containerizer) Inspect(ctx context.Context, id container.ID) (containerizer.Inspection, error) {
	e, err := c.find(id)
	if err != nil {
		return containerizer.Inspection{}, err
	}
	l := e.launch
	if !closed(e.launched) {
		return containerizer.Inspection{State: l.currentState(), Config: l.currentConfig()}, nil
	}
	found := containerizer.Inspection{State: l.currentState(), Config: l.currentConfig(), Launched: l.made.Launched}
	if closed(e.done) {
		found.State, found.Ended, found.Termination = container.Ended, e.ended, &e.termination
		return found, nil
	}
	if l.process != nil {
		found.Pid = l.process.Pid()
	}
	if found.State == container.Running {
		l.updating.Lock()
		found.IDs = l.container.IDs
		l.updating.Unlock()
		found.Given, err = l.given(ctx)
	}
	return found, err
}

// currentConfig is the request with the limits that are in force. That of a container that had
// ended when it was taken up again is in its record.
func (l *launch) currentConfig() *v1.ContainerConfig {
	l.updating.Lock()
	defer l.updating.Unlock()
	switch {
	case l.req.Config != nil: // until it runs
		return v1.WithoutSecrets(l.req.Config)
	case l.container != nil:
		return l.container.Config
	}
	config := &v1.ContainerConfig{}
	if err := readRecord(l.records.Config(), func(data []byte) error { return v1.Unmarshal(data, config) }); err != nil {
		return &v1.ContainerConfig{} // torn, or of a berth that did not keep it
	}
	return config
}

// Processes implements containerizer.Inspector.
func (c *Containerizer) Processes(ctx context.Context, id container.ID) ([]containerizer.Process, error) {
	if _, err := c.running(ctx, id); err != nil {
		return nil, err
	}
	lister, ok := c.Launcher.(launcher.Lister)
	if !ok {
		return nil, fmt.Errorf("processes of %s: %w: this launcher cannot tell", id, container.ErrNotSupported)
	}
	pids, err := lister.Processes(id)
	if err != nil {
		return nil, err
	}
	slices.Sort(pids)
	var all []containerizer.Process
	for _, pid := range pids {
		d, err := processes.Describe(pid)
		if errors.Is(err, container.ErrNotFound) { // it has ended
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("processes of %s: %w", id, err)
		}
		all = append(all, containerizer.Process(d))
	}
	return all, nil
}

// tell tells whoever wants to know what has happened.
func (c *Containerizer) tell(event containerizer.Event) {
	if c.Observe != nil {
		c.Observe(event)
	}
}
