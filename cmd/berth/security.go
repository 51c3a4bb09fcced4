//go:build linux

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

// noFilter is the option that ContainerInfo has a place for.
const noFilter = "seccomp=unconfined"

// confine adds what ContainerInfo has a place for.
func (r *runFlags) confine(info *v1.ContainerInfo) {
	if !slices.Contains(r.securityOptions, noFilter) {
		return
	}
	if info.LinuxInfo == nil {
		info.LinuxInfo = &v1.LinuxInfo{}
	}
	info.LinuxInfo.Seccomp = &v1.SeccompInfo{Unconfined: proto.Bool(true)}
}

// security is what the flags say of what the container may do; nil: nothing.
func (r *runFlags) security() (*v1.SecurityOptions, error) {
	if len(r.capAdd)+len(r.capDrop)+len(r.securityOptions) == 0 {
		return nil, nil
	}
	s := &v1.SecurityOptions{AddCapabilities: r.capAdd, DropCapabilities: r.capDrop}
	for _, option := range r.securityOptions {
		if err := addSecurityOption(s, option); err != nil {
			return nil, fmt.Errorf("--security_opt %q: %w", option, err)
		}
	}
	if proto.Size(s) == 0 {
		return nil, nil
	}
	return s, nil
}

// addSecurityOption reads NAME, NAME=VALUE, or NAME:VALUE as Docker once had it.
func addSecurityOption(s *v1.SecurityOptions, option string) error {
	name, value, _ := strings.Cut(option, "=")
	switch {
	case name == "no-new-privileges" && (value == "" || value == "true"), option == "no-new-privileges:true":
		s.NoNewPrivileges = proto.Bool(true)
	case name == "no-new-privileges" && value == "false", option == "no-new-privileges:false":
		s.NoNewPrivileges = proto.Bool(false)
	case option == noFilter: // see confine
	case name == "apparmor" && value != "":
		s.ApparmorProfile = &value
	case name == "label" && value != "":
		s.SelinuxLabel = &value
	case name == "seccomp":
		profile, err := os.ReadFile(value)
		if err != nil {
			return fmt.Errorf("%w: %w", container.ErrInvalid, err)
		}
		s.SeccompProfile = proto.String(string(profile))
	default:
		return fmt.Errorf("%w: known are no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE and label=LABEL", container.ErrInvalid)
	}
	return nil
}
