//go:build linux

// Package blkio is the isolator cgroups/blkio, called io in cgroup v2: the share of a
// container in block devices, the most that it may read and write, and what it did
// (Documentation/admin-guide/cgroup-v1/blkio-controller.rst and cgroup-v2.rst, "IO").
package blkio

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/device"
	"berth/isolator"
)

const (
	controller = "blkio"

	minWeight     = 1 // both versions have 100 for a cgroup that says nothing
	maxWeight     = 1000
	defaultWeight = 100

	minLimit = 2 // of whatever in a second: v2 takes no less
)

// Isolator implements isolator.Isolator, isolator.Enforcer, isolator.Updater and
// isolator.Meter.
type Isolator struct {
	groups cgroup.Groups
}

// New returns the isolator.
func New(groups cgroup.Groups) *Isolator { return &Isolator{groups} }

// Supports implements isolator.Supporter: what shares the cgroups of its parent has its
// limits there.
func (i *Isolator) Supports() isolator.Support { return isolator.Support{Nested: true} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(_ context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	if _, err := read(c); err != nil {
		return nil, err
	}
	return &isolator.LaunchInfo{Controllers: []string{controller}}, nil
}

// wanted is a request whose devices were found.
type wanted struct {
	weight  uint32 // 0: none
	devices []limits
}

// limits are those of a device; nil: none.
type limits struct {
	name string // major:minor
	of   [4]*uint64
}

// The limits of a device, in the order of limits.of.
var kinds = []struct{ v1, v2 string }{
	{"blkio.throttle.read_bps_device", "rbps"},
	{"blkio.throttle.write_bps_device", "wbps"},
	{"blkio.throttle.read_iops_device", "riops"},
	{"blkio.throttle.write_iops_device", "wiops"},
}

func read(c *isolator.Container) (w wanted, err error) {
	settings := c.Config.GetContainerInfo().GetCgroups().GetBlkio()
	if settings != nil && settings.Weight != nil {
		if w.weight = settings.GetWeight(); w.weight < minWeight || w.weight > maxWeight {
			return w, fmt.Errorf("cgroups/blkio: weight %d: %w: it must be from %d to %d", w.weight, container.ErrInvalid, minWeight, maxWeight)
		}
	}
	known := make(map[string]bool)
	for _, asked := range settings.GetDevices() {
		name, err := wholeDisk(asked.GetDevice())
		if err != nil {
			return w, fmt.Errorf("cgroups/blkio: %w", err)
		}
		if known[name] {
			return w, fmt.Errorf("cgroups/blkio: device %s: %w: it has limits twice", name, container.ErrInvalid)
		}
		known[name] = true
		l := limits{name: name, of: [4]*uint64{asked.ReadBps, asked.WriteBps, asked.ReadIops, asked.WriteIops}}
		for n, limit := range l.of {
			if limit != nil && (*limit < minLimit || *limit > math.MaxInt64 || n >= 2 && *limit > math.MaxUint32) {
				return w, fmt.Errorf("cgroups/blkio: device %s: %w: no limit can be %d", name, container.ErrInvalid, *limit)
			}
		}
		w.devices = append(w.devices, l)
	}
	return w, nil
}

// wholeDisk returns the number of a block device that can be throttled.
func wholeDisk(asked *v1.Device) (string, error) {
	d, err := device.Resolve(asked)
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("%d:%d", d.Major, d.Minor)
	if d.Kind != device.Block {
		return "", fmt.Errorf("device %s: %w: it is no block device", name, container.ErrInvalid)
	}
	_, err = os.Lstat("/sys/dev/block/" + name + "/partition")
	if err == nil {
		return "", fmt.Errorf("device %s: %w: it is a partition: name the whole device", name, container.ErrInvalid)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return name, nil
}

// Isolate implements isolator.Enforcer.
func (i *Isolator) Isolate(_ context.Context, c *isolator.Container, _ int) error {
	return i.set(c, false)
}

// Update implements isolator.Updater.
func (i *Isolator) Update(_ context.Context, c *isolator.Container) error { return i.set(c, true) }

// set writes what is wanted, after it has reset what may have been set before.
func (i *Isolator) set(c *isolator.Container, reset bool) error {
	w, err := read(c)
	if err != nil {
		return err
	}
	dir, err := cgroup.DirOf(i.groups, c.ID, controller)
	if err != nil {
		return err
	}
	var all []cgroup.Setting
	if reset {
		if all, err = w.initial(dir); err != nil {
			return fmt.Errorf("cgroups/blkio: %w", err)
		}
	}
	weights, err := w.weights(dir)
	if err == nil {
		err = dir.Set(append(append(all, weights...), w.limits(dir.Version())...))
	}
	if err != nil {
		return fmt.Errorf("cgroups/blkio: %w", err)
	}
	return nil
}

// weights has the files of those schedulers that this kernel has: BFQ, and on v2 the cost
// model.
func (w wanted) weights(dir cgroup.Dir) (all []cgroup.Setting, err error) {
	if w.weight == 0 {
		return nil, nil
	}
	if all = weightFiles(dir, w.weight); len(all) == 0 {
		err = fmt.Errorf("weight %d: %w: the kernel needs CONFIG_BFQ_GROUP_IOSCHED (modprobe bfq) or, for v2, CONFIG_BLK_CGROUP_IOCOST", w.weight, container.ErrNotSupported)
	}
	return all, err
}

func weightFiles(dir cgroup.Dir, weight uint32) (all []cgroup.Setting) {
	files := []string{"blkio.bfq.weight"}
	if dir.Version() == cgroup.V2 {
		files = []string{"io.weight", "io.bfq.weight"}
	}
	for _, file := range files {
		if dir.Has(file) {
			all = append(all, cgroup.Setting{File: file, Value: strconv.FormatUint(uint64(weight), 10)})
		}
	}
	return all
}

// limits are the files of what is limited.
func (w wanted) limits(version cgroup.Version) (all []cgroup.Setting) {
	for _, d := range w.devices {
		var words []string
		for n, limit := range d.of {
			switch {
			case limit == nil:
			case version == cgroup.V1:
				all = append(all, cgroup.Setting{File: kinds[n].v1, Value: fmt.Sprintf("%s %d", d.name, *limit)})
			default:
				words = append(words, fmt.Sprintf("%s=%d", kinds[n].v2, *limit))
			}
		}
		if len(words) > 0 {
			all = append(all, cgroup.Setting{File: "io.max", Value: d.name + " " + strings.Join(words, " ")})
		}
	}
	return all
}

// initial are the files as they are in a new cgroup, for all that is limited now.
func (w wanted) initial(dir cgroup.Dir) (all []cgroup.Setting, err error) {
	all = weightFiles(dir, defaultWeight)
	if dir.Version() == cgroup.V2 {
		names, err := limited(dir, "io.max")
		for _, name := range names {
			all = append(all, cgroup.Setting{File: "io.max", Value: name + " rbps=max wbps=max riops=max wiops=max"})
		}
		return all, err
	}
	for _, kind := range kinds {
		names, err := limited(dir, kind.v1)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			all = append(all, cgroup.Setting{File: kind.v1, Value: name + " 0"})
		}
	}
	return all, nil
}

// limited returns the devices that a file has lines of.
func limited(dir cgroup.Dir, file string) (names []string, err error) {
	text, err := dir.Read(file)
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		names = append(names, name)
	}
	return names, err
}

// Cleanup implements isolator.Isolator: the settings went with the cgroup, which is the
// launcher's.
func (i *Isolator) Cleanup(context.Context, container.ID) error { return nil }
