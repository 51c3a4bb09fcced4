package engine

import (
	"context"
	"fmt"
	"path/filepath"

	"berth/container"
	"berth/isolator/network/cni"
	"berth/isolator/network/ports"
)

// networks says what network/cni is made of.
func (p parts) networks() cni.Options {
	layout, c := p.images.Layout, p.config
	dns, _ := c.containerDNS() // which was looked at before
	return cni.Options{
		ConfigDir: c.NetworkCNIConfigDir, PluginDirs: filepath.SplitList(c.NetworkCNIPluginsDir), Dir: layout.Networks(c.NetworkCNIRootDirPersist),
		Record:   func(id container.ID) string { return layout.Container(id).Dir },
		Netns:    func(id container.ID) string { return layout.Container(id).Netns() },
		Init:     func(id container.ID) (int, error) { return p.launcher.Init(id) },
		Hostname: !c.isolates("namespaces/uts"), Statistics: c.NetworkCNIMetrics, DNS: dns, Log: c.log(),
	}
}

// containerDNS reads --default_container_dns. ErrInvalid: it is no such thing.
func (c Config) containerDNS() (cni.Servers, error) {
	if c.DefaultContainerDNS == "" {
		return nil, nil
	}
	data, err := readJSON(c.DefaultContainerDNS)
	if err != nil {
		return nil, fmt.Errorf("--default_container_dns: %w", err)
	}
	servers, err := cni.ParseServers(data)
	if err != nil {
		return nil, fmt.Errorf("--default_container_dns: %w", err)
	}
	return servers, nil
}

// networkAbilities tells of the networks that containers can name.
func (p parts) networkAbilities(ctx context.Context) (abilities []Ability, err error) {
	found, err := p.networks().Networks(ctx)
	for _, n := range found {
		a := Ability{Name: n.Name, Works: n.Err == nil, Default: n.Name == "host"}
		if n.Err != nil {
			a.Reason = n.Err.Error()
		}
		if n.NoIPv6 != nil {
			a.Needs = "for IPv6: " + n.NoIPv6.Error()
		}
		abilities = append(abilities, a)
	}
	return abilities, err
}

// agentPorts are those that an agent gives to containers.
var agentPorts = []ports.Range{{First: 31000, Last: 32000}}

// isolatedPorts are those that network/ports looks at; nil: all.
func (c Config) isolatedPorts() ([]ports.Range, error) {
	switch {
	case c.CheckAgentPortRangeOnly && c.ContainerPortsIsolatedRange != "":
		return nil, fmt.Errorf("--check_agent_port_range_only and --container_ports_isolated_range: %w: give one of them", container.ErrInvalid)
	case c.CheckAgentPortRangeOnly:
		return agentPorts, nil
	case c.ContainerPortsIsolatedRange == "":
		return nil, nil
	}
	isolated, err := ports.ParseRanges(c.ContainerPortsIsolatedRange)
	if err != nil {
		return nil, fmt.Errorf("--container_ports_isolated_range: %w", err)
	}
	return isolated, nil
}

// checkPorts refuses what network/ports could not be made of.
func (c Config) checkPorts() error {
	if c.ContainerPortsWatchInterval <= 0 {
		return fmt.Errorf("--container_ports_watch_interval %v: %w: it is a time between two looks", c.ContainerPortsWatchInterval, container.ErrInvalid)
	}
	_, err := c.isolatedPorts()
	return err
}

// ports says what network/ports is made of.
func (p parts) ports() ports.Options {
	c := p.config
	isolated, _ := c.isolatedPorts() // checked when the engine was opened
	return ports.Options{Processes: func(id container.ID) ([]int, error) { return p.launcher.Processes(id) },
		Interval: c.ContainerPortsWatchInterval, Enforce: c.EnforceContainerPorts, Isolated: isolated, Log: c.log()}
}
