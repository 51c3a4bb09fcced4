//go:build linux

package perfevent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
	"berth/internal/numberlist"
)

// sample is a set of events that are being counted, each on every CPU: the kernel counts a
// cgroup by CPU only.
type sample struct {
	began  time.Time
	events []Event
	fds    [][]int // of each event
}

// start begins to count in a cgroup with all below it.
func start(dir cgroup.Dir, events []Event) (_ *sample, err error) {
	group, err := os.Open(dir.Path())
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: the cgroup is gone: %w", container.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	defer group.Close() // an event holds the cgroup by itself
	cpus, err := online()
	if err != nil {
		return nil, err
	}
	s := &sample{began: time.Now(), events: events, fds: make([][]int, len(events))}
	for n, e := range events {
		for cpu := range cpus {
			fd, err := e.open(int(group.Fd()), cpu, unix.PERF_FLAG_PID_CGROUP)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("event %s on CPU %d: %w", e.Name(), cpu, err), s.close())
			}
			s.fds[n] = append(s.fds[n], fd)
		}
	}
	return s, nil
}

func online() (map[int]bool, error) {
	text, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, err
	}
	return numberlist.Parse(strings.TrimSpace(string(text)))
}

// read returns what was counted so far.
func (s *sample) read() (*v1.PerfStatistics, error) {
	statistics := &v1.PerfStatistics{
		Timestamp: proto.Float64(float64(s.began.UnixNano()) / 1e9),
		Duration:  proto.Float64(time.Since(s.began).Seconds()),
	}
	for n, e := range s.events {
		var sum uint64
		for _, fd := range s.fds[n] {
			count, err := readCount(fd)
			if err != nil {
				return nil, fmt.Errorf("read event %s: %w", e.Name(), err)
			}
			sum += count
		}
		value := protoreflect.ValueOfUint64(sum)
		if e.field.Kind() == protoreflect.DoubleKind { // a clock, in ms
			value = protoreflect.ValueOfFloat64(float64(sum) / 1e6)
		}
		statistics.ProtoReflect().Set(e.field, value)
	}
	return statistics, nil
}

// readCount returns what an event has counted, scaled up where it had to share its counter
// with others.
func readCount(fd int) (uint64, error) {
	var buffer [24]byte // count, time enabled, time running
	n, err := unix.Read(fd, buffer[:])
	if err != nil {
		return 0, err
	}
	if n != len(buffer) {
		return 0, fmt.Errorf("%d bytes, not %d", n, len(buffer))
	}
	count := binary.NativeEndian.Uint64(buffer[:])
	enabled := binary.NativeEndian.Uint64(buffer[8:])
	running := binary.NativeEndian.Uint64(buffer[16:])
	if running == 0 || running >= enabled {
		return count, nil
	}
	return uint64(float64(count) * float64(enabled) / float64(running)), nil
}

func (s *sample) close() error {
	var errs []error
	for _, fds := range s.fds {
		for _, fd := range fds {
			errs = append(errs, unix.Close(fd))
		}
	}
	s.fds = nil
	return errors.Join(errs...)
}
