// Package ports is the isolator network/ports: a container on the host's network listens
// at the TCP ports that it was given, the resource "ports", and at no others. What listens
// elsewhere ends its container, or is a warning.
//
// Every so often the sockets that listen on the host's network are looked up by a container's
// processes: those of its cgroup, whichever version that has, with those of the containers
// nested in it, whose ports the container was given for them. A container on a network of its
// own has none of these sockets.
package ports

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
)

// resource is its name in requests.
const resource = "ports"

// Options are what the isolator is made of.
type Options struct {
	// Processes lists the processes of a container and of those nested in it. ErrNotFound: it
	// has none any more.
	Processes func(container.ID) ([]int, error)
	// Interval is the time between two looks.
	Interval time.Duration
	// Enforce: who listens at a port that it was not given ends.
	Enforce bool
	// Isolated are the ports that are given to containers; those outside are nobody's business.
	// nil: all.
	Isolated []Range
	Log      *slog.Logger
}

// Isolator implements isolator.Isolator, isolator.Watcher, isolator.Updater and
// isolator.Recoverer.
type Isolator struct {
	Options

	mu    sync.Mutex
	given map[container.ID][]Range

	looking sync.Mutex
	looked  time.Time
	found   map[uint64]uint16
}

// New returns the isolator.
func New(o Options) *Isolator { return &Isolator{Options: o, given: map[container.ID][]Range{}} }

// Supports implements isolator.Supporter: what is nested is looked at with its root
// container, whose ports it has.
func (i *Isolator) Supports() isolator.Support { return isolator.Support{} }

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(ctx context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	return nil, i.Update(ctx, c)
}

// Update implements isolator.Updater.
func (i *Isolator) Update(_ context.Context, c *isolator.Container) error {
	given, err := requested(c.Config)
	if err != nil {
		return fmt.Errorf("network/ports: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.given[c.ID] = given
	return nil
}

// Recover implements isolator.Recoverer.
func (i *Isolator) Recover(ctx context.Context, living []*isolator.Container) error {
	for _, c := range living {
		if err := i.Update(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// Cleanup implements isolator.Isolator.
func (i *Isolator) Cleanup(_ context.Context, id container.ID) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.given, id)
	return nil
}

// requested are the ports among the resources of a request.
func requested(config *v1.ContainerConfig) (given []Range, err error) {
	for _, r := range config.GetResources() {
		if r.GetName() != resource {
			continue
		}
		if r.GetType() != v1.Value_RANGES {
			return nil, fmt.Errorf("%w: the resource ports is of type %s; it is of type RANGES", container.ErrInvalid, r.GetType())
		}
		for _, one := range r.GetRanges().GetRange() {
			if one.GetBegin() > one.GetEnd() || one.GetEnd() > maxPort {
				return nil, fmt.Errorf("%w: the ports from %d to %d: ports are numbers up to %d", container.ErrInvalid, one.GetBegin(), one.GetEnd(), maxPort)
			}
			given = append(given, Range{uint16(one.GetBegin()), uint16(one.GetEnd())})
		}
	}
	return given, nil
}

// Watch implements isolator.Watcher. That nobody could look is no reason to end a container.
func (i *Isolator) Watch(ctx context.Context, id container.ID) (*container.Limitation, error) {
	rounds := isolator.Rounds{Interval: i.Interval, Log: i.Log, Undone: "the ports of a container were not looked at"}
	var told string
	return rounds.Watch(ctx, id, func() (*container.Limitation, error) {
		at, err := i.unallocated(id)
		if err != nil {
			return nil, err
		}
		if len(at) == 0 {
			told = ""
			return nil, nil
		}
		message := fmt.Sprintf("Container %s is listening on unallocated port(s): %s", id, format(at))
		if i.Enforce {
			return &container.Limitation{Reason: container.ReasonLimitation, Message: message, Resource: resource, Used: float64(at[0].First)}, nil
		}
		if message != told {
			i.Log.Warn(message)
			told = message
		}
		return nil, nil
	})
}

// unallocated are the ports at which a container listens that it was not given.
func (i *Isolator) unallocated(id container.ID) ([]Range, error) {
	listening, err := i.listening()
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	given := i.given[id]
	i.mu.Unlock()
	suspect := map[uint64]uint16{}
	for inode, port := range listening {
		if !within(given, port) && (i.Isolated == nil || within(i.Isolated, port)) {
			suspect[inode] = port
		}
	}
	if len(suspect) == 0 {
		return nil, nil
	}
	pids, err := i.Processes(id)
	if err != nil {
		return nil, err
	}
	var at []uint16
	for _, pid := range pids {
		at = append(at, sockets(pid, suspect)...)
	}
	return join(at), nil
}

// listening are the sockets that listen on the host's network; one look is for all
// containers that ask about the same time.
func (i *Isolator) listening() (map[uint64]uint16, error) {
	i.looking.Lock()
	defer i.looking.Unlock()
	if time.Since(i.looked) < i.Interval/2 {
		return i.found, nil
	}
	found, err := listeners()
	if err == nil {
		i.found, i.looked = found, time.Now()
	}
	return found, err
}

// sockets returns the ports of those sockets that a process has. One that ends meanwhile
// has none.
func sockets(pid int, of map[uint64]uint16) (ports []uint16) {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd/"
	open, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer open.Close()
	names, _ := open.Readdirnames(-1)
	for _, name := range names {
		target, err := os.Readlink(dir + name)
		if err != nil {
			continue
		}
		text, ok := strings.CutPrefix(target, "socket:[")
		if !ok {
			continue
		}
		inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
		if port, listens := of[inode]; err == nil && listens {
			ports = append(ports, port)
		}
	}
	return ports
}

// join makes ranges of ports.
func join(ports []uint16) (all []Range) {
	slices.Sort(ports)
	for _, port := range slices.Compact(ports) {
		if last := len(all) - 1; last >= 0 && all[last].Last+1 == port {
			all[last].Last = port
			continue
		}
		all = append(all, Range{port, port})
	}
	return all
}
