//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "berth/api/v1"
	"berth/container"
)

// hostNetwork is the network that a container has without being asked.
const hostNetwork = "host"

// maxPublished bounds the ports that one -p stands for: each is a rule of the firewall.
const maxPublished = 1024

// networks adds what --network and --publish say. Ports are those of the first network.
func (r *runFlags) networks(info *v1.ContainerInfo) error {
	if len(r.network) > 0 {
		info.NetworkInfos = nil
	}
	for _, name := range r.network {
		switch {
		case name == "":
			return fmt.Errorf("--network: %w: it has no name", container.ErrInvalid)
		case name == hostNetwork && len(r.network) == 1: // as without it
		default:
			info.NetworkInfos = append(info.NetworkInfos, &v1.NetworkInfo{Name: proto.String(name)})
		}
	}
	var ports []*v1.NetworkInfo_PortMapping
	for _, value := range r.publish {
		published, err := publish(value)
		if err != nil {
			return err
		}
		ports = append(ports, published...)
	}
	if len(ports) == 0 {
		return nil
	}
	named := func(n *v1.NetworkInfo) bool { return n.GetName() != "" && n.GetName() != hostNetwork }
	at := slices.IndexFunc(info.NetworkInfos, named)
	if at < 0 {
		return fmt.Errorf("--publish: %w: the container is on the host's network, and its ports are those of the host already; say --network bridge, too", container.ErrInvalid)
	}
	info.NetworkInfos[at].PortMappings = append(info.NetworkInfos[at].PortMappings, ports...)
	return nil
}

// publish reads [HOSTIP:]HOSTPORT[-LAST]:PORT[-LAST][/PROTOCOL].
func publish(value string) ([]*v1.NetworkInfo_PortMapping, error) {
	refuse := func(why string, args ...any) ([]*v1.NetworkInfo_PortMapping, error) {
		return nil, fmt.Errorf("--publish %s: %w: %s; it is [HOSTIP:]HOSTPORT:PORT[/udp], with FIRST-LAST for several ports", value, container.ErrInvalid, fmt.Sprintf(why, args...))
	}
	rest, protocol, named := strings.Cut(value, "/")
	if named && protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
		return refuse("the protocol %q is none of tcp, udp and sctp", protocol)
	}
	at := strings.LastIndexByte(rest, ':')
	if at < 0 {
		return refuse("it does not say which port of the host")
	}
	inside, err := portRange(rest[at+1:])
	if err != nil {
		return refuse("%v", err)
	}
	address, outer := "", rest[:at]
	if at := strings.LastIndexByte(outer, ':'); at >= 0 {
		address, outer = strings.TrimSuffix(strings.TrimPrefix(outer[:at], "["), "]"), outer[at+1:]
		if _, err := netip.ParseAddr(address); err != nil {
			return refuse("%q is no address", address)
		}
	}
	outside, err := portRange(outer)
	if err != nil {
		return refuse("%v", err)
	}
	if outside.len() != inside.len() {
		return refuse("%d ports of the host cannot lead to %d", outside.len(), inside.len())
	}
	if outside.len() > maxPublished {
		return refuse("it stands for %d ports, and at most %d are allowed", outside.len(), maxPublished)
	}
	var all []*v1.NetworkInfo_PortMapping
	for n := range outside.len() {
		m := &v1.NetworkInfo_PortMapping{HostPort: proto.Uint32(outside.first + n), ContainerPort: proto.Uint32(inside.first + n)}
		if named {
			m.Protocol = proto.String(protocol)
		}
		if address != "" {
			m.HostIp = proto.String(address)
		}
		all = append(all, m)
	}
	return all, nil
}

type ports struct{ first, last uint32 }

func (p ports) len() uint32 { return p.last - p.first + 1 }

func portRange(text string) (p ports, err error) {
	first, last, several := strings.Cut(text, "-")
	if !several {
		last = first
	}
	for to, text := range map[*uint32]string{&p.first: first, &p.last: last} {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return p, fmt.Errorf("%q is no port, which is a number from 1 to 65535", text)
		}
		*to = uint32(n)
	}
	if p.last < p.first {
		return p, fmt.Errorf("%q ends before it begins", text)
	}
	return p, nil
}
