//go:build linux

package blkio

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/cgroup"
)

type (
	throttling = v1.CgroupInfo_Blkio_Throttling_Statistics
	value      = v1.CgroupInfo_Blkio_Value
	operation  = v1.CgroupInfo_Blkio_Operation
)

// Usage implements isolator.Meter. What CFQ counted, which Linux 5.0 removed, is never
// there.
func (i *Isolator) Usage(_ context.Context, id container.ID, to *v1.ResourceStatistics) error {
	dir, err := cgroup.DirOf(i.groups, id, controller)
	if err != nil {
		return err
	}
	collect := collectV1
	if dir.Version() == cgroup.V2 {
		collect = collectV2
	}
	all, err := collect(dir.Kept())
	if err != nil {
		return fmt.Errorf("cgroups/blkio: %w", err)
	}
	to.BlkioStatistics = &v1.CgroupInfo_Blkio_Statistics{Throttling: all}
	return nil
}

// statistics are those of devices in the order in which the kernel has them, the sum of
// all at the end.
type statistics struct {
	all []*throttling
}

// of returns the statistics of a device; "": the sum. ok is false for what is no device.
func (s *statistics) of(name string) (_ *throttling, ok bool) {
	var number *v1.Device_Number
	if name != "" {
		major, minor, _ := strings.Cut(name, ":")
		a, errA := strconv.ParseUint(major, 10, 32)
		b, errB := strconv.ParseUint(minor, 10, 32)
		if errA != nil || errB != nil {
			return nil, false
		}
		number = &v1.Device_Number{MajorNumber: &a, MinorNumber: &b}
	}
	for _, t := range s.all {
		if t.Device.GetMajorNumber() == number.GetMajorNumber() && t.Device.GetMinorNumber() == number.GetMinorNumber() && (t.Device == nil) == (number == nil) {
			return t, true
		}
	}
	t := &throttling{Device: number}
	s.all = append(s.all, t)
	return t, true
}

// collectV1 reads lines as "8:0 Read 4096", and "Total 4096" for all devices.
func collectV1(dir cgroup.Dir) ([]*throttling, error) {
	var s statistics
	for _, file := range []struct {
		name string
		to   func(*throttling) *[]*value
	}{
		{"blkio.throttle.io_serviced_recursive", func(t *throttling) *[]*value { return &t.IoServiced }},
		{"blkio.throttle.io_service_bytes_recursive", func(t *throttling) *[]*value { return &t.IoServiceBytes }},
	} {
		text, err := dir.Read(file.name)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) == 2 {
				fields = append([]string{""}, fields...)
			}
			if len(fields) != 3 {
				continue
			}
			op, known := v1.CgroupInfo_Blkio_Operation_value[strings.ToUpper(fields[1])]
			n, err := strconv.ParseUint(fields[2], 10, 64)
			if t, ok := s.of(fields[0]); ok && known && err == nil {
				to := file.to(t)
				*to = append(*to, count(operation(op), n))
			}
		}
	}
	return s.all, nil
}

// collectV2 reads lines as "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0".
func collectV2(dir cgroup.Dir) ([]*throttling, error) {
	text, err := dir.Read("io.stat")
	if err != nil {
		return nil, err
	}
	var s statistics
	var sum counts
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		var c counts
		for _, field := range fields[1:] {
			key, text, _ := strings.Cut(field, "=")
			if n, err := strconv.ParseUint(text, 10, 64); err == nil {
				c.take(key, n)
			}
		}
		if t, ok := s.of(fields[0]); ok {
			c.put(t)
			sum.add(c)
		}
	}
	t, _ := s.of("")
	sum.put(t)
	return s.all, nil
}

// counts are those of a device: of reads, writes and discards.
type counts struct{ bytes, operations [3]uint64 }

var operations = [3]operation{v1.CgroupInfo_Blkio_READ, v1.CgroupInfo_Blkio_WRITE, v1.CgroupInfo_Blkio_DISCARD}

func (c *counts) take(key string, n uint64) {
	for i, letter := range []string{"r", "w", "d"} {
		switch key {
		case letter + "bytes":
			c.bytes[i] = n
		case letter + "ios":
			c.operations[i] = n
		}
	}
}

func (c *counts) add(other counts) {
	for i := range c.bytes {
		c.bytes[i] += other.bytes[i]
		c.operations[i] += other.operations[i]
	}
}

func (c *counts) put(t *throttling) {
	var bytes, all uint64
	for i, op := range operations {
		t.IoServiceBytes = append(t.IoServiceBytes, count(op, c.bytes[i]))
		t.IoServiced = append(t.IoServiced, count(op, c.operations[i]))
		bytes += c.bytes[i]
		all += c.operations[i]
	}
	t.IoServiceBytes = append(t.IoServiceBytes, count(v1.CgroupInfo_Blkio_TOTAL, bytes))
	t.IoServiced = append(t.IoServiced, count(v1.CgroupInfo_Blkio_TOTAL, all))
}

func count(op operation, n uint64) *value { return &value{Op: op.Enum(), Value: proto.Uint64(n)} }
