package cni

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
)

// None is the name of the network that connects to nothing.
const None = "none"

// check refuses what networks of no host could fulfil.
func check(infos []*v1.NetworkInfo) error {
	seen := map[string]bool{}
	for _, info := range infos {
		name := info.GetName()
		if name == "" {
			name = isolator.HostNetwork
		}
		switch {
		case seen[name]:
			return fmt.Errorf("%w: attempted to join CNI network %q multiple times", container.ErrInvalid, name)
		case len(infos) > 1 && (name == isolator.HostNetwork || name == None):
			return fmt.Errorf("%w: the network %q is the only one of a container that has it", container.ErrInvalid, name)
		}
		seen[name] = true
		if err := checkOne(name, info); err != nil {
			return fmt.Errorf("network %q: %w", name, err)
		}
	}
	return nil
}

func checkOne(name string, info *v1.NetworkInfo) error {
	plain := name == isolator.HostNetwork || name == None
	if plain && len(info.GetPortMappings()) > 0 {
		return fmt.Errorf("%w: its ports cannot be mapped: %s", container.ErrInvalid, map[string]string{
			isolator.HostNetwork: "those of the container are those of the host already; name the network bridge, or another one",
			None:                 "nothing leads there; name the network bridge, or another one",
		}[name])
	}
	if plain && (len(info.GetIpAddresses()) > 0 || info.MacAddress != nil) {
		return fmt.Errorf("%w: it has no address to choose", container.ErrInvalid)
	}
	for _, address := range info.GetIpAddresses() {
		if address.IpAddress == nil {
			continue
		}
		if ip, err := netip.ParseAddr(address.GetIpAddress()); err != nil || ip.Is4() != (address.GetProtocol() == v1.NetworkInfo_IPv4) {
			return fmt.Errorf("%w: %q is no address of %s", container.ErrInvalid, address.GetIpAddress(), address.GetProtocol())
		}
	}
	if info.MacAddress != nil {
		if mac, err := net.ParseMAC(info.GetMacAddress()); err != nil || len(mac) != 6 {
			return fmt.Errorf("%w: %q is no hardware address such as 02:00:00:00:00:01", container.ErrInvalid, info.GetMacAddress())
		}
	}
	_, err := mappings(info)
	return err
}

// mapping is a port mapping as plugins are told it.
type mapping struct {
	HostPort      uint32 `json:"hostPort"`
	ContainerPort uint32 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

func (m mapping) String() string {
	return fmt.Sprintf("%s/%s", net.JoinHostPort(m.HostIP, fmt.Sprint(m.HostPort)), m.Protocol)
}

// conflicts reports whether two mappings want one port of the host.
func (m mapping) conflicts(other mapping) bool {
	if m.HostPort != other.HostPort || m.Protocol != other.Protocol {
		return false
	}
	a, errA := netip.ParseAddr(m.HostIP)
	b, errB := netip.ParseAddr(other.HostIP)
	if errA != nil || errB != nil { // one is at every address of both families
		return true
	}
	return a == b || a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified())
}

// isFor reports whether a mapping leads to an address of a container: plugins lead what is
// for one of the host's addresses to one of its family.
func (m mapping) isFor(address netip.Addr) bool {
	ip, err := netip.ParseAddr(m.HostIP)
	return err != nil || ip.Is4() == address.Is4()
}

// mappings are those of a network, checked.
func mappings(info *v1.NetworkInfo) (all []mapping, err error) {
	for _, p := range info.GetPortMappings() {
		m := mapping{p.GetHostPort(), p.GetContainerPort(), strings.ToLower(p.GetProtocol()), p.GetHostIp()}
		if m.Protocol == "" {
			m.Protocol = "tcp"
		}
		switch {
		case m.HostPort < 1 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535:
			return nil, fmt.Errorf("%w: a mapping of port %d of the host to %d: ports are numbers from 1 to 65535", container.ErrInvalid, m.HostPort, m.ContainerPort)
		case m.Protocol != "tcp" && m.Protocol != "udp" && m.Protocol != "sctp":
			return nil, fmt.Errorf("%w: a port mapping for the protocol %q: known are tcp, udp and sctp", container.ErrInvalid, m.Protocol)
		case m.HostIP != "":
			ip, err := netip.ParseAddr(m.HostIP)
			if err != nil || ip.Zone() != "" {
				return nil, fmt.Errorf("%w: a port mapping at %q, which is no address", container.ErrInvalid, m.HostIP)
			}
			m.HostIP = ip.Unmap().String()
		}
		for _, other := range all {
			if m.conflicts(other) {
				return nil, fmt.Errorf("%w: the port %s of the host is mapped twice", container.ErrInvalid, m)
			}
		}
		all = append(all, m)
	}
	return all, nil
}

// claim refuses port mappings that another container has, or somebody of the host. The
// caller has the lock, and has not recorded its own yet.
func (o Options) claim(wanted []mapping) error {
	if len(wanted) == 0 {
		return nil
	}
	ids, err := o.recorded()
	if err != nil {
		return err
	}
	for _, id := range ids {
		rec, err := o.read(id)
		if err != nil || rec == nil {
			continue // torn: see Recover
		}
		for _, a := range rec.Attachments {
			held, _ := mappings(a.info())
			for _, w := range wanted {
				for _, h := range held {
					if w.conflicts(h) {
						return fmt.Errorf("the port %s of the host: %w: it is mapped to container %s", w, container.ErrFailedPrecondition, id)
					}
				}
			}
		}
	}
	for _, w := range wanted {
		if err := free(w); err != nil {
			return fmt.Errorf("the port %s of the host: %w: %w", w, container.ErrFailedPrecondition, err)
		}
	}
	return nil
}

// free makes sure that no program of the host is at a port: it would get nothing any more.
func free(m mapping) error {
	address := net.JoinHostPort(m.HostIP, fmt.Sprint(m.HostPort))
	switch m.Protocol {
	case "tcp":
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		return l.Close()
	case "udp":
		l, err := net.ListenPacket("udp", address)
		if err != nil {
			return err
		}
		return l.Close()
	}
	return nil
}
