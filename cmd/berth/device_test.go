//go:build linux

package main

import (
	"errors"
	"testing"

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
