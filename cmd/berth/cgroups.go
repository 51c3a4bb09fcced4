//go:build linux

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

// cgroupFlags are the flags of `berth run` that say what one container may have of the
// kernel's controllers.
type cgroupFlags struct {
	devices, hugetlb       []string
	cpusetCpus, cpusetMems string
	blkioWeight            uint32
	throttle               [4][]string // as throttles
}

// throttles are the limits of block devices.
var throttles = [4]struct {
	flag, what string
	bytes      bool
	to         func(*v1.BlkioSettings_Device) **uint64
}{
	{"device_read_bps", "the most that is read of a block device in a second", true, func(d *v1.BlkioSettings_Device) **uint64 { return &d.ReadBps }},
	{"device_write_bps", "the most that is written to a block device in a second", true, func(d *v1.BlkioSettings_Device) **uint64 { return &d.WriteBps }},
	{"device_read_iops", "the most that a block device is read from in a second", false, func(d *v1.BlkioSettings_Device) **uint64 { return &d.ReadIops }},
	{"device_write_iops", "the most that a block device is written to in a second", false, func(d *v1.BlkioSettings_Device) **uint64 { return &d.WriteIops }},
}

func (c *cgroupFlags) add(f *pflag.FlagSet) {
	f.StringArrayVar(&c.devices, "device", nil, "let the container use a device of the host: `PATH[:rwm]`")
	f.StringVar(&c.cpusetCpus, "cpuset_cpus", "", "CPUs that may be used, as `0-2,5`")
	f.StringVar(&c.cpusetMems, "cpuset_mems", "", "memory nodes that may be used, as `0,1`")
	f.Uint32Var(&c.blkioWeight, "blkio_weight", 0, "share of block devices that several want, 1 to 1000 (default: 100)")
	f.StringArrayVar(&c.hugetlb, "hugetlb", nil, "limit of huge pages: `SIZE:BYTES`, as 2MB:64m")
	for n, t := range throttles {
		value := "`PATH:NUMBER`"
		if t.bytes {
			value = "`PATH:BYTES`, as /dev/sda:1m"
		}
		f.StringArrayVar(&c.throttle[n], t.flag, nil, t.what+": "+value)
	}
}

// into adds what the flags say to a request, if anything.
func (c *cgroupFlags) into(info *v1.ContainerInfo) error {
	settings := &v1.CgroupSettings{}
	for _, value := range c.devices {
		allowed, err := allowDevice(value)
		if err != nil {
			return err
		}
		settings.Devices = append(settings.Devices, allowed)
	}
	if c.cpusetCpus != "" {
		settings.CpusetCpus = &c.cpusetCpus
	}
	if c.cpusetMems != "" {
		settings.CpusetMems = &c.cpusetMems
	}
	var err error
	if settings.Blkio, err = c.blkio(); err != nil {
		return err
	}
	if len(settings.Devices) == 0 && settings.CpusetCpus == nil && settings.CpusetMems == nil && settings.Blkio == nil {
		return nil
	}
	if info.Cgroups == nil {
		info.Cgroups = &v1.CgroupSettings{}
	}
	proto.Merge(info.Cgroups, settings)
	return nil
}

// blkio is nil when no flag says anything.
func (c *cgroupFlags) blkio() (*v1.BlkioSettings, error) {
	settings := &v1.BlkioSettings{}
	if c.blkioWeight != 0 {
		settings.Weight = &c.blkioWeight
	}
	devices := make(map[string]*v1.BlkioSettings_Device)
	for n, t := range throttles {
		for _, value := range c.throttle[n] {
			path, text, _ := cutLast(value)
			limit, err := number(text, t.bytes)
			if err != nil || path == "" {
				return nil, fmt.Errorf("--%s %q: %w: it is PATH and a positive number, as /dev/sda:1000", t.flag, value, container.ErrInvalid)
			}
			d := devices[path]
			if d == nil {
				d = &v1.BlkioSettings_Device{Device: &v1.Device{Path: &path}}
				devices[path], settings.Devices = d, append(settings.Devices, d)
			}
			if *t.to(d) != nil {
				return nil, fmt.Errorf("--%s %q: %w: it is there twice for %s", t.flag, value, container.ErrInvalid, path)
			}
			*t.to(d) = &limit
		}
	}
	if settings.Weight == nil && len(settings.Devices) == 0 {
		return nil, nil
	}
	return settings, nil
}

// cutLast cuts at the last colon: a path may have others.
func cutLast(value string) (before, after string, found bool) {
	at := strings.LastIndexByte(value, ':')
	if at < 0 {
		return value, "", false
	}
	return value[:at], value[at+1:], true
}

// number reads a positive whole number, of bytes also with a unit.
func number(text string, bytes bool) (uint64, error) {
	if !bytes {
		n, err := strconv.ParseUint(text, 10, 64)
		if err == nil && n == 0 {
			err = strconv.ErrRange
		}
		return n, err
	}
	n, err := parseBytes(text)
	if err == nil && (n < 1 || n >= math.MaxInt64) {
		err = strconv.ErrRange
	}
	return uint64(n), err
}

// hugePages adds the limits of --hugetlb.
func (c *cgroupFlags) hugePages(limits map[string]*v1.Value_Scalar) error {
	for _, value := range c.hugetlb {
		size, text, found := strings.Cut(value, ":")
		bytes, err := parseBytes(text)
		if text == "0" {
			bytes, err = 0, nil
		}
		if !found || size == "" || err != nil {
			return fmt.Errorf("--hugetlb %q: %w: it is SIZE:BYTES, as 2MB:64m", value, container.ErrInvalid)
		}
		limits["hugetlb."+size] = &v1.Value_Scalar{Value: proto.Float64(bytes / (1 << 20))}
	}
	return nil
}

// allowDevice reads PATH[:ACCESS] of --device. Without ACCESS everything may be done.
func allowDevice(value string) (*v1.DeviceAccess, error) {
	path, letters, said := strings.Cut(value, ":")
	if !said {
		letters = "rwm"
	}
	access := &v1.DeviceAccess_Access{}
	for _, letter := range letters {
		switch letter {
		case 'r':
			access.Read = proto.Bool(true)
		case 'w':
			access.Write = proto.Bool(true)
		case 'm':
			access.Mknod = proto.Bool(true)
		default:
			letters = ""
		}
	}
	if path == "" || letters == "" {
		return nil, fmt.Errorf("--device %q: %w: it is PATH[:ACCESS], ACCESS some of the letters r, w and m; the device has the same path in the container", value, container.ErrInvalid)
	}
	return &v1.DeviceAccess{Device: &v1.Device{Path: &path}, Access: access}, nil
}
