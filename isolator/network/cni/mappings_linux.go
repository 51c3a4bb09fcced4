package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"berth/container"
)

// checkMappings makes sure that the ports of the host that were mapped on the built-in network
// still lead into the container. Its plugin portmap cannot be asked: it looks for the rules
// of each family in the table of the other one, too, and is content when all are gone.
func (o Options) checkMappings(ctx context.Context, id container.ID, rec *record, a attachment) error {
	wanted, err := mappings(a.info())
	result := o.result(id, rec, a)
	if err != nil || len(wanted) == 0 || result == nil {
		return err
	}
	var errs []error
	for _, ip := range result.IPs {
		address, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			continue
		}
		address = address.Unmap()
		listed, err := natRules(ctx, familyOf(address))
		if err != nil {
			return err
		}
		rules := reachable(listed)
		for _, m := range wanted {
			to := netip.AddrPortFrom(address, uint16(m.ContainerPort))
			if m.isFor(address) && !slices.ContainsFunc(rules, func(r rule) bool { return r.leads(m, to) }) {
				errs = append(errs, fmt.Errorf("no rule of the host's firewall leads from its port %s to %s any more: start the container again to have one", m, to))
			}
		}
	}
	return errors.Join(errs...)
}

func familyOf(address netip.Addr) int {
	if address.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// rule is one of a firewall: its words.
type rule []string

// option returns the word after a name.
func (r rule) option(name string) string {
	if at := slices.Index(r, name); at >= 0 && at+1 < len(r) {
		return r[at+1]
	}
	return ""
}

// leads reports whether a rule sends what comes for a mapping to an address.
func (r rule) leads(m mapping, to netip.AddrPort) bool {
	at := ""
	if ip, err := netip.ParseAddr(m.HostIP); err == nil && !ip.IsUnspecified() {
		at = netip.PrefixFrom(ip, ip.BitLen()).String()
	}
	return r.option("-j") == "DNAT" && r.option("--to-destination") == net.JoinHostPort(to.Addr().String(), strconv.Itoa(int(to.Port()))) &&
		r.option("-p") == m.Protocol && r.option("--dport") == strconv.Itoa(int(m.HostPort)) && r.option("-d") == at
}

// reachable are the rules of a table that what comes from outside can come to.
func reachable(table string) (rules []rule) {
	chains := map[string][]rule{}
	for line := range strings.Lines(table) {
		if words := strings.Fields(line); len(words) > 2 && words[0] == "-A" {
			chains[words[1]] = append(chains[words[1]], words[2:])
		}
	}
	next := []string{"PREROUTING"}
	for len(next) > 0 {
		chain := next[0]
		next = next[1:]
		for _, r := range chains[chain] {
			rules = append(rules, r)
			next = append(next, r.option("-j"))
		}
		delete(chains, chain) // it was seen
	}
	return rules
}
