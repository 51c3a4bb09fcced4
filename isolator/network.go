package isolator

import (
	"fmt"
	"slices"

	v1 "berth/api/v1"
	"berth/container"
)

// HostNetwork is the name of the host's network, which an empty one stands for, too.
const HostNetwork = "host"

// OwnNetwork reports whether a container is to have a network namespace of its own: its
// request names a network that is not the host's.
func OwnNetwork(config *v1.ContainerConfig) bool {
	return slices.ContainsFunc(config.GetContainerInfo().GetNetworkInfos(), func(n *v1.NetworkInfo) bool {
		return n.GetName() != "" && n.GetName() != HostNetwork
	})
}

// JoinsNetwork reports whether a nested container has the network of its parent: it asks
// for none.
func JoinsNetwork(c *Container) bool {
	return c.Parent != nil && len(c.Config.GetContainerInfo().GetNetworkInfos()) == 0
}

// maxHostname is HOST_NAME_MAX of the kernel.
const maxHostname = 64

// Hostname is the name of a container in a UTS namespace of its own: what the request
// says, else its id, cut to what the kernel takes. ErrInvalid: the request says more.
func Hostname(c *Container) (string, error) {
	name := c.Config.GetContainerInfo().GetHostname()
	if len(name) > maxHostname {
		return "", fmt.Errorf("host name %q: %w: it has %d bytes, at most %d are allowed", name, container.ErrInvalid, len(name), maxHostname)
	}
	if name == "" {
		name = c.ID.Value()
	}
	return name[:min(len(name), maxHostname)], nil
}

// JoinsHostname reports whether a nested container has the host name of its parent: it
// asks for none, and has no network in which it would be known by one.
func JoinsHostname(c *Container) bool {
	return c.Parent != nil && c.Config.GetContainerInfo().GetHostname() == "" && !OwnNetwork(c.Config)
}
