package cni

import (
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"berth/container"
)

// Servers are those of containers on networks whose plugins know none: by the network's name,
// and under "" those of all other networks.
type Servers map[string]types.DNS

// ParseServers reads the ContainerDNSInfo of Mesos, of which the part docker is for others.
// ErrInvalid: it is none.
func ParseServers(data []byte) (Servers, error) {
	var info struct {
		Mesos []struct {
			Mode    string    `json:"network_mode"`
			Network string    `json:"network_name"`
			DNS     types.DNS `json:"dns"`
		} `json:"mesos"`
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return nil, fmt.Errorf("%w: %w", container.ErrInvalid, err)
	}
	servers := Servers{}
	for _, one := range info.Mesos {
		_, twice := servers[one.Network]
		switch {
		case one.Mode != "CNI":
			return nil, fmt.Errorf("network_mode %q: %w: it must be CNI, as only these networks have servers of their own", one.Mode, container.ErrInvalid)
		case twice:
			return nil, fmt.Errorf("network_name %q: %w: it is there twice", one.Network, container.ErrInvalid)
		case len(one.DNS.Nameservers) == 0:
			return nil, fmt.Errorf("network_name %q: %w: it has no nameservers", one.Network, container.ErrInvalid)
		}
		servers[one.Network] = one.DNS
	}
	return servers, nil
}

// of returns those of the first of the networks that has any.
func (s Servers) of(attachments []attachment) *types.DNS {
	for _, a := range attachments {
		if dns, ok := s[a.Network]; ok {
			return &dns
		}
	}
	if dns, ok := s[""]; ok && len(attachments) > 0 {
		return &dns
	}
	return nil
}
