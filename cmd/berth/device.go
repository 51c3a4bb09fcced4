//go:build linux

package main

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

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
