//go:build linux

package main

import (
	"errors"
	"testing"

	"github.com/spf13/pflag"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/device"
)

func TestDevicesOnTheCommandLine(t *testing.T) {
	for value, want := range map[string]string{"/dev/kvm": "rwm", "/dev/kvm:r": "r", "/dev/net/tun:mw": "wm"} {
		got, err := allowDevice(value)
		if err != nil || device.AccessOf(got.GetAccess()).String() != want {
			t.Errorf("%s: %v, %v", value, got, err)
		}
	}
	for _, value := range []string{"", ":r", "/dev/kvm:", "/dev/kvm:x", "/dev/kvm:/dev/other", "/dev/kvm:/dev/kvm:rwm"} {
		if got, err := allowDevice(value); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%q: %v, %v", value, got, err)
		}
	}
}

func TestCgroupFlags(t *testing.T) {
	parse := func(args ...string) (info *v1.ContainerInfo, limits map[string]*v1.Value_Scalar, err error) {
		var c cgroupFlags
		f := pflag.NewFlagSet("run", pflag.ContinueOnError)
		c.add(f)
		if err := f.Parse(args); err != nil {
			t.Fatal(err)
		}
		info, limits = &v1.ContainerInfo{}, make(map[string]*v1.Value_Scalar)
		if err = c.into(info); err == nil {
			err = c.hugePages(limits)
		}
		return info, limits, err
	}
	info, limits, err := parse("--cpuset_cpus=0-1", "--cpuset_mems=0", "--blkio_weight=500", "--hugetlb=2MB:64m", "--hugetlb=1GB:0",
		"--device_read_bps=/dev/sda:1m", "--device_write_iops=/dev/sda:100", "--device_write_bps=/dev/disk/by-path/pci-0000:00:1f.2:5")
	if err != nil {
		t.Fatal(err)
	}
	c := info.GetCgroups()
	if c.GetCpusetCpus() != "0-1" || c.GetCpusetMems() != "0" || c.GetBlkio().GetWeight() != 500 || limits["hugetlb.2MB"].GetValue() != 64 || limits["hugetlb.1GB"].GetValue() != 0 || len(limits) != 2 {
		t.Errorf("%v, %v", c, limits)
	}
	byPath := make(map[string]*v1.BlkioSettings_Device)
	for _, d := range c.GetBlkio().GetDevices() {
		byPath[d.GetDevice().GetPath()] = d
	}
	sda, other := byPath["/dev/sda"], byPath["/dev/disk/by-path/pci-0000:00:1f.2"]
	if len(byPath) != 2 || sda.GetReadBps() != 1<<20 || sda.GetWriteIops() != 100 || sda.WriteBps != nil || other.GetWriteBps() != 5 {
		t.Errorf("%v", byPath)
	}
	if info, limits, err := parse(); err != nil || info.Cgroups != nil || len(limits) > 0 {
		t.Errorf("no flags: %v, %v, %v", info, limits, err)
	}
	for _, bad := range []string{"--device_read_bps=/dev/sda", "--device_read_bps=:1m", "--device_read_bps=/dev/sda:0", "--device_read_bps=/dev/sda:-1", "--device_read_bps=/dev/sda:1e30",
		"--device_read_iops=/dev/sda:1k", "--device_read_iops=/dev/sda:0", "--hugetlb=2MB", "--hugetlb=:1m", "--hugetlb=2MB:x", "--hugetlb=2MB:-1"} {
		if _, _, err := parse(bad); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, _, err := parse("--device_read_bps=/dev/sda:1m", "--device_read_bps=/dev/sda:2m"); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("twice: %v", err)
	}
}
