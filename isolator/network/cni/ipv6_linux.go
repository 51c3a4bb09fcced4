package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"berth/container"
	"berth/internal/alone"
)

// ipv6 finds out whether the built-in network can have IPv6 here. The error, of class
// ErrNotSupported, says what the host lacks.
func ipv6(ctx context.Context) error {
	// Of "all" and of what is yet to be made: the bridge.
	for _, which := range []string{"all", "default"} {
		switch value, err := ipv6Setting(which, "disable_ipv6"); {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%w: the kernel has no IPv6", container.ErrNotSupported)
		case err != nil:
			return err
		case value != "0":
			return fmt.Errorf("%w: it is off (net.ipv6.conf.%s.disable_ipv6)", container.ErrNotSupported, which)
		}
	}
	switch there, err := hasIPv6Address(); {
	case err != nil:
		return err
	case !there:
		return fmt.Errorf("%w: the host has no IPv6 address itself", container.ErrNotSupported)
	}
	if _, err := natRules(ctx, netlink.FAMILY_V6); err != nil {
		return fmt.Errorf("%w: %w", container.ErrNotSupported, err)
	}
	return keepsRouters()
}

func ipv6Setting(device, name string) (string, error) {
	text, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", device, name))
	return strings.TrimSpace(string(text)), err
}

// hasIPv6Address reports whether the host has an address by which others can know it. One of
// a bridge like ours does not make the host a part of any network.
func hasIPv6Address() (bool, error) {
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V6)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return false, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range addresses {
		link, err := net.InterfaceByIndex(a.LinkIndex)
		if err == nil && a.IP.IsGlobalUnicast() && !strings.HasPrefix(link.Name, bridgePrefix) {
			return true, nil
		}
	}
	return false, nil
}

// fromRouters is RTPROT_RA, the origin of routes that routers have advertised (rtnetlink(7)).
const fromRouters = 9

// keepsRouters makes sure that the host keeps the routes that it has learned from routers:
// once a host forwards, as it has to for containers, it listens to routers no more, and loses
// its default route when that expires (ip-sysctl.rst, accept_ra).
func keepsRouters() error {
	if forwards, err := ipv6Setting("all", "forwarding"); err != nil || forwards != "0" {
		return err // it has come to terms with that
	}
	learned, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Protocol: fromRouters}, netlink.RT_FILTER_PROTOCOL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list the host's routes: %w", err)
	}
	for _, route := range learned {
		link, err := net.InterfaceByIndex(route.LinkIndex)
		if err != nil {
			continue // it is gone
		}
		// With 0 another program listens, which goes on.
		if accepts, err := ipv6Setting(link.Name, "accept_ra"); err == nil && accepts == "1" {
			return fmt.Errorf("%w: the host would lose the routes that it learns from routers on %s as soon as it forwards: set net.ipv6.conf.%s.accept_ra to 2",
				container.ErrNotSupported, link.Name, link.Name)
		}
	}
	return nil
}

// natRules are the rules of the host's NAT table, as iptables or ip6tables lists them.
func natRules(ctx context.Context, family int) (string, error) {
	program := "iptables"
	if family == netlink.FAMILY_V6 {
		program = "ip6tables"
	}
	if _, err := exec.LookPath(program); err != nil {
		return "", fmt.Errorf("its plugins need the program %s: %w: install it", program, container.ErrNotSupported)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w: no answer within %v", container.ErrUnavailable, timeout))
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--wait", "--table", "nat", "--list-rules").Output()
	var failed *exec.ExitError
	switch cause := context.Cause(ctx); {
	case err != nil && cause != nil:
		err = cause
	case errors.As(err, &failed):
		err = fmt.Errorf("%w; it wrote: %s", err, alone.OneLine(string(failed.Stderr)))
	}
	if err != nil {
		return "", fmt.Errorf("list the NAT table by %s: %w", program, err)
	}
	return string(out), nil
}
