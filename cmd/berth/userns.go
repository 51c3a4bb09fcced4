//go:build linux

package main

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/isolator/namespaces/user"
)

// What --userns knows beside START:SIZE.
const (
	usernsHost = "host"
	usernsAuto = "auto"
)

// userNamespace is what --userns says of a container.
func (r *runFlags) userNamespace(info *v1.ContainerInfo) error {
	if r.userns == usernsHost {
		return nil
	}
	asked := &v1.UserNamespaceInfo{}
	if r.userns != usernsAuto {
		ids, err := user.ParseRange(r.userns)
		if err != nil {
			return fmt.Errorf("--userns: %w; or host, or auto", err)
		}
		asked.Range = &v1.UserNamespaceInfo_Range{Start: proto.Uint32(ids.Start), Size: proto.Uint32(ids.Size)}
	}
	if info.LinuxInfo == nil {
		info.LinuxInfo = &v1.LinuxInfo{}
	}
	info.LinuxInfo.UserNamespace = asked
	return nil
}
