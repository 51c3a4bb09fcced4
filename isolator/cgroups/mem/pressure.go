//go:build linux

package mem

import (
	"encoding/binary"
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
)

// levels are those of memory pressure (cgroup-v1/memory.rst, section 11). A notification
// of one is one of those before it, too.
var levels = [3]string{"low", "medium", "critical"}

// pressures count the notifications of cgroup v1, which are for whoever listens. The zero
// value knows no container.
type pressures struct {
	mu  sync.Mutex
	all map[container.ID]*pressure
}

// pressure is one container's: an eventfd and a sum for each level.
type pressure struct {
	fds []int
	sum [3]uint64
}

// listen begins to count. v2 counts by itself, in memory.events.
func (p *pressures) listen(dir cgroup.Dir, id container.ID) error {
	if dir.Version() == cgroup.V2 {
		return nil
	}
	fds, err := openNotifiers(dir, "memory.pressure_level", levels[:]...)
	if errors.Is(err, container.ErrNotFound) {
		return nil // the kernel does not tell
	}
	if err != nil {
		return err
	}
	one := &pressure{fds: fds}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = make(map[container.ID]*pressure)
	}
	p.all[id] = one
	return nil
}

// count adds what is known of a container.
func (p *pressures) count(id container.ID, to *v1.ResourceStatistics) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.all[id]
	if one == nil {
		return
	}
	for n, fd := range one.fds {
		var buffer [8]byte // the kernel's counter, which the read resets
		if read, err := unix.Read(fd, buffer[:]); err == nil && read == len(buffer) {
			one.sum[n] += binary.NativeEndian.Uint64(buffer[:])
		}
	}
	sum := one.sum
	to.MemLowPressureCounter, to.MemMediumPressureCounter, to.MemCriticalPressureCounter = &sum[0], &sum[1], &sum[2]
}

func (p *pressures) forget(id container.ID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.all[id]
	delete(p.all, id)
	if one == nil {
		return nil
	}
	return closeAll(one.fds)
}
