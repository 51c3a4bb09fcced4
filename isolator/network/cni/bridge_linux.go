package cni

import (
	"context"
	"crypto/rand"
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

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/atomicfile"
)

// Bridge is the name of the network that berth brings along: a bridge on the host with a
// subnet of its own, whose members reach each other, the host, and by its addresses what
// the host reaches, and whose ports can be ports of the host. It has IPv6 where the host
// has.
const Bridge = "bridge"

// bridgeRecord is the file of the network: the subnets that were chosen.
type bridgeRecord struct {
	Subnet netip.Prefix `json:"subnet"`
	// Subnet6 is that of IPv6; the zero value until the host has been seen to have it.
	Subnet6 netip.Prefix `json:"subnet6,omitzero"`
}

const bridgePrefix = "berth-"

// bridgeName is that of the device. Each directory of attachments has its own, because
// it gives out its own addresses.
func (o Options) bridgeName() string {
	return fmt.Sprintf(bridgePrefix+"%.4x", sha256.Sum256([]byte(o.Dir)))
}

// bridge returns the network, and what keeps it from having IPv6. The caller has the lock.
func (o Options) bridge(ctx context.Context) (list *libcni.NetworkConfigList, noIPv6, err error) {
	if _, err := exec.LookPath("iptables"); err != nil {
		return nil, nil, errNoIptables
	}
	noIPv6 = ipv6(ctx)
	rec, err := o.subnets(noIPv6 == nil)
	if err != nil {
		return nil, nil, err
	}
	list, err = o.bridgeOn(rec)
	return list, noIPv6, err
}

// bridgeOn returns the network on these subnets.
func (o Options) bridgeOn(rec bridgeRecord) (*libcni.NetworkConfigList, error) {
	type object map[string]any
	ranges, routes := [][]object{{{"subnet": rec.Subnet}}}, []object{{"dst": "0.0.0.0/0"}}
	if rec.Subnet6.IsValid() {
		ranges, routes = append(ranges, []object{{"subnet": rec.Subnet6}}), append(routes, object{"dst": "::/0"})
	}
	return libcni.NetworkConfFromBytes(mustMarshal(object{
		// By the name of the device, which no other directory has: rules of the firewall
		// are told apart by it and the container's id.
		"name": o.bridgeName(), "cniVersion": "1.0.0", "disableGC": true,
		"plugins": []object{
			{
				// Hairpin mode has the plugin do without the detection of duplicate addresses, too.
				"type": "bridge", "bridge": o.bridgeName(), "isGateway": true, "ipMasq": true, "hairpinMode": true,
				"capabilities": object{"ips": true, "mac": true},
				"ipam":         object{"type": "host-local", "dataDir": o.leases(), "ranges": ranges, "routes": routes},
			},
			// The backend that checkMappings knows; versions that have no other do not ask.
			{"type": "portmap", "backend": "iptables", "snat": true, "capabilities": object{"portMappings": true}},
			{"type": "firewall"}, // lets through what the host does not forward by default
		},
	}))
}

// checkIPv6 refuses what a request wants of IPv6 and the built-in network does not do: all of
// it where noIPv6 says why there is none, and ports at the host's loopback address, from which
// the kernel routes nothing to anywhere else.
func checkIPv6(info *v1.NetworkInfo, noIPv6 error) error {
	wanted, err := mappings(info)
	if err != nil {
		return err
	}
	for _, m := range wanted {
		ip, err := netip.ParseAddr(m.HostIP)
		switch {
		case err != nil || ip.Is4(): // everywhere, or no IPv6
		case noIPv6 != nil:
			return fmt.Errorf("the port %s of the host: IPv6 on the built-in network: %w", m, noIPv6)
		case ip.IsLoopback():
			return fmt.Errorf("the port %s of the host: %w: the kernel routes nothing from ::1; name 127.0.0.1, or another address", m, container.ErrNotSupported)
		}
	}
	for _, address := range info.GetIpAddresses() {
		if noIPv6 != nil && address.GetProtocol() == v1.NetworkInfo_IPv6 {
			return fmt.Errorf("an address of IPv6 on the built-in network: %w", noIPv6)
		}
	}
	return nil
}

// subnets returns the recorded subnets, and chooses and records what is missing; that of IPv6
// only withIPv6. A recorded one of IPv4 is given up for another when the host has come to use
// it and nobody is on it. That of IPv6 is nobody else's.
func (o Options) subnets(withIPv6 bool) (rec bridgeRecord, err error) {
	data, err := os.ReadFile(o.bridgeFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return rec, err
	}
	_ = json.Unmarshal(data, &rec) // torn by a power cut: new ones are chosen
	before := rec
	if !rec.Subnet6.IsValid() && withIPv6 {
		rec.Subnet6 = uniqueLocal()
	}
	if _, err := net.InterfaceByName(o.bridgeName()); err != nil || !rec.Subnet.IsValid() {
		used, err := usedByHost()
		if err != nil {
			return rec, err
		}
		if !rec.Subnet.IsValid() || overlaps(used, rec.Subnet) {
			if rec.Subnet, err = freeSubnet(used); err != nil {
				return rec, err
			}
			if err := os.RemoveAll(o.leases()); err != nil { // of the old subnet
				return rec, err
			}
		}
	}
	if rec != before {
		if err := atomicfile.Write(o.bridgeFile(), append(mustMarshal(rec), '\n'), 0o600, false); err != nil {
			return rec, err
		}
	}
	if !withIPv6 {
		rec.Subnet6 = netip.Prefix{}
	}
	return rec, nil
}

// uniqueLocal returns a subnet of addresses that others, wherever they are, do not have by all
// likelihood (RFC 4193, section 3.2).
func uniqueLocal() netip.Prefix {
	address := [16]byte{0xfd}
	rand.Read(address[1:6])
	return netip.PrefixFrom(netip.AddrFrom16(address), 64)
}

// usedByHost lists where the host has routes and addresses of IPv4. A default route leads to
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
