package cni

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"berth/container"
	"berth/internal/alone"
	"berth/isolator"
)

// Network is one that containers can name.
type Network struct {
	Name string
	Err  error // why it does not work here
	// NoIPv6 is what keeps the built-in network from having IPv6.
	NoIPv6 error
}

// Networks lists all. It asks the plugins of each whether they know its version of the
// specification, and changes nothing.
func (o Options) Networks(ctx context.Context) ([]Network, error) {
	configs, err := readConfigs(o.ConfigDir)
	if err != nil {
		return nil, err
	}
	all := []Network{{Name: isolator.HostNetwork}, {Name: None}}
	if configs.networks[Bridge] == nil {
		all = append(all, Network{Name: Bridge, Err: o.probeBridge(ctx), NoIPv6: ipv6(ctx)})
	}
	for _, name := range configs.names {
		all = append(all, Network{Name: name, Err: o.probe(ctx, configs.networks[name])})
	}
	for _, why := range configs.bad {
		file, why, _ := strings.Cut(why, ": ")
		all = append(all, Network{Name: file, Err: fmt.Errorf("%s", alone.OneLine(why))})
	}
	return all, nil
}

func (o Options) probeBridge(ctx context.Context) error {
	if _, err := exec.LookPath("iptables"); err != nil {
		return errNoIptables
	}
	list, err := o.bridgeOn(bridgeRecord{Subnet: netip.MustParsePrefix("192.0.2.0/24")}) // whichever
	if err != nil {
		return err
	}
	return o.probe(ctx, list)
}

var errNoIptables = fmt.Errorf("its plugins need the program iptables: %w: install it", container.ErrNotSupported)

func (o Options) probe(ctx context.Context, list *libcni.NetworkConfigList) error {
	if err := checkPlugins(list, o.PluginDirs); err != nil {
		return err
	}
	_, err := libcni.NewCNIConfigWithCacheDir(o.PluginDirs, o.Dir, plugins{}).ValidateNetworkList(ctx, list)
	return err
}
