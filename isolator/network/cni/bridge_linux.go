package cni

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"

	"berth/container"
	"berth/internal/atomicfile"
)

// Bridge is the name of the network that berth brings along: a bridge on the host with a
// subnet of its own, whose members reach each other, the host, and by its addresses what
// the host reaches, and whose ports can be ports of the host.
const Bridge = "bridge"

// bridgeRecord is the file `bridge`: the subnet that was chosen.
type bridgeRecord struct {
	Subnet netip.Prefix `json:"subnet"`
}

// bridgeName is that of the device. Each directory of attachments has its own, because
// it gives out its own addresses.
func (o Options) bridgeName() string {
	return fmt.Sprintf("berth-%.4x", sha256.Sum256([]byte(o.Dir)))
}

// bridge returns the network. The caller has the lock.
func (o Options) bridge() (*libcni.NetworkConfigList, error) {
	if _, err := exec.LookPath("iptables"); err != nil {
		return nil, errNoIptables
	}
	subnet, err := o.subnet()
	if err != nil {
		return nil, err
	}
	return o.bridgeOn(subnet)
}

func (o Options) bridgeOn(subnet netip.Prefix) (*libcni.NetworkConfigList, error) {
	type object map[string]any
	return libcni.NetworkConfFromBytes(mustMarshal(object{
		// By the name of the device, which no other directory has: rules of the firewall
		// are told apart by it and the container's id.
		"name": o.bridgeName(), "cniVersion": "1.0.0", "disableGC": true,
		"plugins": []object{
			{
				"type": "bridge", "bridge": o.bridgeName(), "isGateway": true, "ipMasq": true, "hairpinMode": true,
				"capabilities": object{"ips": true, "mac": true},
				"ipam": object{"type": "host-local", "dataDir": o.leases(),
					"ranges": [][]object{{{"subnet": subnet}}}, "routes": []object{{"dst": "0.0.0.0/0"}}},
			},
			{"type": "portmap", "snat": true, "capabilities": object{"portMappings": true}},
			{"type": "firewall"}, // lets through what the host does not forward by default
		},
	}))
}

// subnet returns the recorded subnet, or chooses and records one. A recorded one is
// given up for another when the host has come to use it and nobody is on it.
func (o Options) subnet() (netip.Prefix, error) {
	var rec bridgeRecord
	data, err := os.ReadFile(o.bridgeFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return netip.Prefix{}, err
	}
	_ = json.Unmarshal(data, &rec) // torn by a power cut: a new one is chosen
	if _, err := net.InterfaceByName(o.bridgeName()); err == nil && rec.Subnet.IsValid() {
		return rec.Subnet, nil
	}
	used, err := usedByHost()
	if err != nil {
		return netip.Prefix{}, err
	}
	if rec.Subnet.IsValid() && !overlaps(used, rec.Subnet) {
		return rec.Subnet, nil
	}
	if rec.Subnet, err = freeSubnet(used); err != nil {
		return netip.Prefix{}, err
	}
	if err := os.RemoveAll(o.leases()); err != nil { // of the old subnet
		return netip.Prefix{}, err
	}
	return rec.Subnet, atomicfile.Write(o.bridgeFile(), append(mustMarshal(rec), '\n'), 0o600, false)
}

// usedByHost lists where the host has routes and addresses. A default route leads to
// everywhere that nothing else does, and does not count.
func usedByHost() (used []netip.Prefix, err error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		ones, _ := n.Mask.Size()
		if ip, ok := netip.AddrFromSlice(n.IP.To4()); ok && ones > 0 {
			used = append(used, netip.PrefixFrom(ip, ones).Masked())
		}
	}
	for _, r := range routes {
		add(r.Dst)
	}
	for _, a := range addresses {
		add(a.IPNet)
	}
	return used, nil
}

func overlaps(used []netip.Prefix, subnet netip.Prefix) bool {
	for _, u := range used {
		if u.Overlaps(subnet) {
			return true
		}
	}
	return false
}

// freeSubnet returns a private subnet of 4094 addresses that nobody uses. It begins where
// other container tools, and people, seldom do.
func freeSubnet(used []netip.Prefix) (netip.Prefix, error) {
	for _, private := range []string{"10.201.0.0/16", "10.202.0.0/16", "172.28.0.0/16", "192.168.0.0/16"} {
		within := netip.MustParsePrefix(private)
		base := within.Addr().As4()
		for third := 0; third < 256; third += 16 {
			base[2] = byte(third)
			if subnet := netip.PrefixFrom(netip.AddrFrom4(base), 20); !overlaps(used, subnet) {
				return subnet, nil
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("no subnet of 10.201.0.0/16, 10.202.0.0/16, 172.28.0.0/16 and 192.168.0.0/16 is free on this host: %w: configure a network in --network_cni_config_dir and name that",
		container.ErrFailedPrecondition)
}

func (o Options) bridgeFile() string { return filepath.Join(o.Dir, "bridge.json") }

// leases is where host-local keeps the addresses that it has given out.
func (o Options) leases() string { return filepath.Join(o.Dir, "leases") }
