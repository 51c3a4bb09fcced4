//go:build linux

package main

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

// hostVolume reads SRC:DST[:ro|:rw]: a path of the host, which a person may also write from
// the directory that they are in, as ./DIR, and where the container finds it.
func hostVolume(value string) (*v1.Volume, error) {
	volume, err := parseHostVolume(value)
	if err != nil {
		return nil, fmt.Errorf("--volume %q: %w", value, err)
	}
	return volume, nil
}

func parseHostVolume(value string) (*v1.Volume, error) {
	parts := strings.Split(value, ":")
	mode := v1.Volume_RW
	if len(parts) == 3 {
		switch parts[2] {
		case "ro":
			mode = v1.Volume_RO
		case "rw":
		default:
			return nil, fmt.Errorf("%w: unknown option %q: known are ro and rw", container.ErrInvalid, parts[2])
		}
		parts = parts[:2]
	}
	if len(parts) != 2 || !path.IsAbs(parts[1]) || path.Clean(parts[1]) == "/" {
		return nil, fmt.Errorf("%w: it is SRC:DST[:ro], and DST is an absolute path below /", container.ErrInvalid)
	}
	if first, _, _ := strings.Cut(parts[0], "/"); first != "" && first != "." && first != ".." {
		return nil, fmt.Errorf("%w: SRC is a path of the host, which begins with /, ./ or ../: volumes have no names of their own", container.ErrInvalid)
	}
	if parts[0] == "" {
		return nil, fmt.Errorf("%w: SRC is empty", container.ErrInvalid)
	}
	source, err := filepath.Abs(parts[0])
	if err != nil {
		return nil, err
	}
	return &v1.Volume{HostPath: proto.String(source), ContainerPath: proto.String(parts[1]), Mode: mode.Enum()}, nil
}
