package engine

import (
	"fmt"

	v1 "berth/api/v1"
	"berth/internal/device"
)

// cgroupSettings are what the flags say for the isolators cgroups/*.
type cgroupSettings struct {
	devices []*v1.DeviceAccess
}

// cgroups reads the flags of the isolators cgroups/*. ErrInvalid: one of them.
func (c Config) cgroups() (s cgroupSettings, err error) {
	if s.devices, err = device.ParseWhitelist(c.AllowedDevices); err != nil {
		return s, fmt.Errorf("--allowed_devices: %w", err)
	}
	return s, nil
}
