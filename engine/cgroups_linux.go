package engine

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/device"
	"berth/isolator"
	"berth/isolator/cgroups/netcls"
	"berth/isolator/cgroups/perfevent"
)

// cgroupSettings are what the flags say for the isolators cgroups/*.
type cgroupSettings struct {
	devices []*v1.DeviceAccess
	handles netcls.Handles
	events  []perfevent.Event
}

// cgroups reads the flags of the isolators cgroups/*. ErrInvalid: one of them;
// ErrNotSupported: an event that this host cannot count.
func (c Config) cgroups() (s cgroupSettings, err error) {
	if s.devices, err = c.allowedDevices(); err != nil {
		return s, fmt.Errorf("--allowed_devices: %w", err)
	}
	if s.handles, err = netcls.ParseHandles(c.NetClsPrimaryHandle, c.NetClsSecondaryHandles); err != nil {
		return s, err
	}
	if err := perfevent.Check(c.PerfInterval, c.PerfDuration); err != nil {
		return s, err
	}
	if !c.isolates("cgroups/perf_event") && len(c.PerfEvents) == 0 {
		return s, nil
	}
	if s.events, err = perfevent.ParseEvents(c.PerfEvents); err != nil {
		return s, fmt.Errorf("--perf_events: %w", err)
	}
	return s, nil
}

// allowedDevices reads --allowed_devices. ErrInvalid: it is no list, or not of devices.
func (c Config) allowedDevices() ([]*v1.DeviceAccess, error) {
	list := &v1.DeviceWhitelist{}
	if c.AllowedDevices == "" {
		return nil, nil
	}
	if err := readMessage(c.AllowedDevices, list); err != nil {
		return nil, err
	}
	_, err := device.Rules(list.AllowedDevices)
	return list.AllowedDevices, err
}

const (
	cgroupsPrefix = "cgroups/"
	everyCgroup   = "cgroups/all"
)

// otherNames are those that cgroup v2 has for isolators.
var otherNames = map[string]string{"cgroups/io": "cgroups/blkio"}

// expandCgroups replaces cgroups/all by the isolators whose controllers the host has. One
// that is named beside it is there once.
func expandCgroups(isolation []string, host *cgroup.Host) (expanded []string) {
	isolation = slices.Clone(isolation)
	for n, name := range isolation {
		if other, ok := otherNames[name]; ok {
			isolation[n] = other
		}
	}
	for _, name := range isolation {
		if name != everyCgroup {
			expanded = append(expanded, name)
			continue
		}
		for _, i := range isolators {
			_, offered := host.Version(i.controller)
			if strings.HasPrefix(i.name, cgroupsPrefix) && offered && !slices.Contains(isolation, i.name) {
				expanded = append(expanded, i.name)
			}
		}
	}
	return expanded
}

// checkCgroupsRoot refuses a --cgroups_root that no container can have a cgroup in, before
// anything is made. The error has one reason for all isolators.
func (c Config) checkCgroupsRoot(host *cgroup.Host) error {
	var controllers []string
	for _, i := range isolators {
		// That one is not offered at all is for makeIsolators to say.
		if _, offered := host.Version(i.controller); offered && c.isolates(i.name) {
			controllers = append(controllers, i.controller)
		}
	}
	return c.checkCgroupsRootFor(host, controllers...)
}

func (c Config) checkCgroupsRootFor(host *cgroup.Host, controllers ...string) error {
	if err := host.CheckRoot(c.CgroupsRoot, controllers); err != nil {
		return fmt.Errorf("--cgroups_root %s: %w", c.CgroupsRoot, err)
	}
	return nil
}

func (p parts) netCls() isolator.Isolator {
	return netcls.New(netcls.Options{Groups: p.launcher, Handles: p.settings.handles, Dir: p.images.Layout.NetCls(), Exists: func(id container.ID) bool {
		_, err := os.Lstat(p.images.Layout.Container(id).Dir)
		return !errors.Is(err, os.ErrNotExist)
	}})
}

func (p parts) perfEvent() isolator.Isolator {
	return perfevent.New(perfevent.Options{Groups: p.launcher, Events: p.settings.events,
		Interval: p.config.PerfInterval, Duration: p.config.PerfDuration, Log: p.config.log()})
}
