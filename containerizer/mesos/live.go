//go:build linux

package mesos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/containerizer"
	"berth/internal/resources"
	"berth/isolator"
)

// Status implements containerizer.Containerizer.
func (c *Containerizer) Status(ctx context.Context, id container.ID) (containerizer.Status, error) {
	e, err := c.find(id)
	if err != nil {
		return containerizer.Status{}, err
	}
	if closed(e.done) {
		return containerizer.Status{}, fmt.Errorf("container %s: %w: it has ended", id, container.ErrNotFound)
	}
	status := containerizer.Status{State: e.launch.currentState()}
	if closed(e.launched) && e.launch.process != nil {
		status.Pid = e.launch.process.Pid()
	}
	if status.State == container.Running {
		status.Given, err = e.launch.given(ctx)
	}
	return status, err
}

// given asks isolators what they have given a container, if nobody has done so before.
func (l *launch) given(ctx context.Context) (*v1.ContainerStatus, error) {
	l.updating.Lock()
	of, given := l.container, l.reported
	l.updating.Unlock()
	if given != nil {
		return given, nil
	}
	given = &v1.ContainerStatus{}
	for _, i := range l.supporting(of) {
		if reporter, ok := i.(isolator.Reporter); ok {
			if err := reporter.Status(ctx, of, given); err != nil {
				return nil, fmt.Errorf("status of %s: %w", l.id, err)
			}
		}
	}
	l.updating.Lock()
	l.reported = given
	l.updating.Unlock()
	return given, nil
}

// running returns a container that was launched and has not ended.
func (c *Containerizer) running(ctx context.Context, id container.ID) (*launch, error) {
	l, err := c.launched(ctx, id)
	if err == nil && l.currentState() != container.Running {
		err = fmt.Errorf("container %s: %w: it has ended", id, container.ErrNotFound)
	}
	return l, err
}

// Update implements containerizer.Containerizer.
func (c *Containerizer) Update(ctx context.Context, id container.ID, resources []*v1.Resource, limits map[string]*v1.Value_Scalar) error {
	l, err := c.running(ctx, id)
	if err != nil {
		return err
	}
	l.updating.Lock()
	defer l.updating.Unlock()
	before := l.container
	after := *before
	after.Config = proto.CloneOf(before.Config)
	after.Config.Resources, after.Config.Limits = resources, limits
	if err := errors.Join(checkShared(&after), c.Check(&after)); err != nil {
		return fmt.Errorf("update %s: %w", id, err)
	}
	err = l.update(ctx, &after)
	if err == nil {
		l.container = &after
		err = l.recordConfig()
	}
	if err != nil {
		l.container = before
		return fmt.Errorf("update %s: %w", id, errors.Join(err, l.update(context.WithoutCancel(ctx), before)))
	}
	return nil
}

// update has all isolators take the limits of a container.
func (l *launch) update(ctx context.Context, to *isolator.Container) error {
	for _, i := range l.supporting(to) {
		if updater, ok := i.(isolator.Updater); ok {
			if err := updater.Update(ctx, to); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkShared refuses amounts where they would not be enforced.
func checkShared(c *isolator.Container) error {
	if c.SharesCgroups() && len(c.Config.GetResources())+len(c.Config.GetLimits()) > 0 {
		return fmt.Errorf("%w: resources and limits of a container in the cgroups of its parent; say share_cgroups: false", container.ErrInvalid)
	}
	return nil
}

// Usage implements containerizer.Containerizer.
func (c *Containerizer) Usage(ctx context.Context, id container.ID) (*v1.ResourceStatistics, error) {
	l, err := c.running(ctx, id)
	if err != nil {
		return nil, err
	}
	l.updating.Lock()
	of := l.container
	l.updating.Unlock()
	usage := &v1.ResourceStatistics{Timestamp: proto.Float64(float64(time.Now().UnixNano()) / 1e9)}
	amounts(of, usage)
	for _, i := range l.Isolators { // as often as somebody likes: without a copy
		if meter, ok := i.(isolator.Meter); ok && isolator.Supports(i, of) {
			if err := meter.Usage(ctx, id, usage); err != nil {
				return nil, fmt.Errorf("usage of %s: %w", id, err)
			}
		}
	}
	return usage, nil
}

// amounts adds what a container asked for, and may have.
func amounts(c *isolator.Container, to *v1.ResourceStatistics) {
	if cpus, ok := resources.Requested(c.Config, "cpus"); ok {
		to.CpusSoftLimit = proto.Float64(cpus)
	}
	if cpus, ok := resources.Limit(c.Config, "cpus"); ok {
		to.CpusLimit = proto.Float64(cpus)
	}
	const mib = 1 << 20
	if mem, ok := resources.Requested(c.Config, "mem"); ok && mem >= 0 {
		to.MemSoftLimitBytes = proto.Uint64(uint64(mem * mib))
	}
	if mem, ok := resources.Limit(c.Config, "mem"); ok {
		to.MemLimitBytes = proto.Uint64(uint64(mem * mib))
	}
}

// supporting returns the isolators that are asked for a container.
func (c *Containerizer) supporting(of *isolator.Container) []isolator.Isolator {
	return slices.DeleteFunc(slices.Clone(c.Isolators), func(i isolator.Isolator) bool { return !isolator.Supports(i, of) })
}
