package cni

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"berth/container"
	"berth/isolator"
	"berth/launcher/plan"
)

// The files by which programs know names, and where the host has them. systemd-resolved
// keeps in a file of its own what the servers are that it asks itself.
const (
	hosts    = "hosts"
	hostname = "hostname"
	resolv   = "resolv.conf"
)

var (
	etc            = "/etc" // only tests change these
	resolvedConfig = "/run/systemd/resolve/resolv.conf"
)

// prepareFiles returns the mounts of the container's own /etc/hosts, /etc/hostname and
// /etc/resolv.conf. It writes what is known by then: of a container on the host's network what
// the host says, and all of one that has no network. Those of others are complete once plugins
// have answered.
func (i *Isolator) prepareFiles(c *isolator.Container) ([]plan.Mount, error) {
	if isolator.JoinsNetwork(c) {
		if of, ok := i.joined(c); ok {
			return i.mounts(c, of, 0)
		}
		if c.Config.GetRootfs() == "" {
			return nil, nil
		}
	}
	if err := i.makeDir(c.ID); err != nil {
		return nil, err
	}
	if isNone(c) {
		if err := i.writeFiles(c, nil); err != nil {
			return nil, err
		}
		return i.mounts(c, c, 0)
	}
	if isolator.OwnNetwork(c.Config) {
		for _, name := range []string{hosts, hostname, resolv} {
			if err := i.writeFile(c.ID, name, nil); err != nil {
				return nil, err
			}
		}
		return i.mounts(c, c, 0)
	}
	return i.hostFiles(c)
}

// joined is the container whose network and files a nested container has; false: it is
// on the host's network.
func (o Options) joined(c *isolator.Container) (*isolator.Container, bool) {
	for isolator.JoinsNetwork(c) {
		c = c.Parent
	}
	_, err := os.Stat(filepath.Join(o.dir(c.ID), hosts))
	return c, err == nil
}

// hostFiles gives a container with an image what the host knows, and its own name. It
// cannot write to them: there is nothing that it could have them say.
func (i *Isolator) hostFiles(c *isolator.Container) ([]plan.Mount, error) {
	known, err := os.ReadFile(filepath.Join(etc, hosts))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	servers, err := os.ReadFile(filepath.Join(etc, resolv))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(known) > 0 && !bytes.HasSuffix(known, []byte("\n")) {
		known = append(known, '\n')
	}
	name, err := isolator.Hostname(c)
	if err != nil {
		return nil, err
	}
	for file, content := range map[string][]byte{
		hosts:    fmt.Appendf(known, "127.0.1.1\t%s\n", name),
		hostname: []byte(name + "\n"),
		resolv:   servers,
	} {
		if err := i.writeFile(c.ID, file, content); err != nil {
			return nil, err
		}
	}
	return i.mounts(c, c, plan.ReadOnly)
}

// mounts binds the files in the directory of a container, itself or the one that it joins, in the
// place of what the image, or the host, has. A volume of the request at one of them, or around them, is what the
// container wants to see there.
func (i *Isolator) mounts(c, of *isolator.Container, flags plan.Flags) (all []plan.Mount, err error) {
	volumes, err := volumeTargets(c)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{hosts, hostname, resolv} {
		target := path.Join("/etc", name)
		if slices.ContainsFunc(volumes, func(v string) bool { return strings.HasPrefix(target+"/", v+"/") }) {
			continue
		}
		if name == resolv && isNone(of) {
			continue // there is no server to ask
		}
		onHost := c.Config.GetRootfs() == ""
		if onHost {
			if _, err := os.Stat(target); err != nil {
				continue // and the host's file system is not the container's to add to
			}
		}
		all = append(all, plan.Mount{Target: target, Source: filepath.Join(i.dir(of.ID), name),
			Flags: flags | plan.NoSuid | plan.NoDev | plan.NoExec, Replace: !onHost})
	}
	return all, nil
}

func isNone(c *isolator.Container) bool {
	networks := c.Config.GetContainerInfo().GetNetworkInfos()
	return len(networks) == 1 && networks[0].GetName() == None
}

// volumeTargets are where the request has volumes, as far as they are absolute.
func volumeTargets(c *isolator.Container) (targets []string, err error) {
	volumes := slices.Clone(c.Config.GetContainerInfo().GetVolumes())
	persistent, err := isolator.PersistentVolumes(c.Config)
	if err != nil {
		return nil, err
	}
	for _, p := range persistent {
		volumes = append(volumes, p.Volume)
	}
	for _, v := range volumes {
		if path.IsAbs(v.GetContainerPath()) {
			targets = append(targets, path.Clean(v.GetContainerPath()))
		}
	}
	return targets, nil
}

// writeFiles completes the files of a container with networks of its own, or with none: such a
// one has no rec, and there is no server that it could ask.
func (i *Isolator) writeFiles(c *isolator.Container, rec *record) error {
	if rec == nil {
		return i.writeNames(c, nil)
	}
	var addresses []netip.Addr
	var servers []byte
	for _, a := range rec.Attachments {
		result := i.result(c.ID, rec, a)
		if result == nil {
			continue
		}
		for _, ip := range result.IPs {
			if address, ok := netip.AddrFromSlice(ip.Address.IP); ok {
				addresses = append(addresses, address.Unmap())
			}
		}
		if servers == nil && len(result.DNS.Nameservers) > 0 {
			servers = resolvConf(result.DNS)
		}
	}
	if servers == nil {
		if dns := i.DNS.of(rec.Attachments); dns != nil {
			servers = resolvConf(*dns)
		}
	}
	if servers == nil {
		var err error
		if servers, err = reachableServers(); err != nil {
			return err
		}
	}
	return errors.Join(i.writeNames(c, addresses), i.writeFile(c.ID, resolv, servers))
}

// writeNames writes what a container is called, and where it leads.
func (i *Isolator) writeNames(c *isolator.Container, addresses []netip.Addr) error {
	name, err := isolator.Hostname(c)
	if err != nil {
		return err
	}
	return errors.Join(i.writeFile(c.ID, hosts, hostsFile(name, addresses)), i.writeFile(c.ID, hostname, []byte(name+"\n")))
}

// writeFile writes in place: the mount is of this file.
func (i *Isolator) writeFile(id container.ID, name string, content []byte) error {
	file := filepath.Join(i.dir(id), name)
	if err := os.WriteFile(file, content, 0o644); err != nil {
		return err
	}
	return os.Chmod(file, 0o644) // whatever the umask is
}

// hostsFile has the container's name at its first address of each family; without any it
// leads to itself.
func hostsFile(name string, addresses []netip.Addr) []byte {
	out := []byte("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	var four, six bool
	for _, a := range addresses {
		if a.Is4() && !four || a.Is6() && !six {
			out = fmt.Appendf(out, "%s\t%s\n", a, name)
		}
		four, six = four || a.Is4(), six || a.Is6()
	}
	if len(addresses) == 0 {
		out = fmt.Appendf(out, "127.0.1.1\t%s\n", name)
	}
	return out
}

func resolvConf(dns types.DNS) (out []byte) {
	for _, server := range dns.Nameservers {
		out = fmt.Appendf(out, "nameserver %s\n", server)
	}
	if dns.Domain != "" {
		out = fmt.Appendf(out, "domain %s\n", dns.Domain)
	}
	if len(dns.Search) > 0 {
		out = fmt.Appendf(out, "search %s\n", strings.Join(dns.Search, " "))
	}
	if len(dns.Options) > 0 {
		out = fmt.Appendf(out, "options %s\n", strings.Join(dns.Options, " "))
	}
	return out
}

// reachableServers is the host's resolv.conf without the servers that are on its loopback
// device, which is not that of the container. Where only such are, systemd-resolved
// knows which there are behind it.
func reachableServers() ([]byte, error) {
	for _, file := range []string{filepath.Join(etc, resolv), resolvedConfig} {
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if lines, found := withoutLoopback(text); found {
			return lines, nil
		}
	}
	return nil, nil
}

func withoutLoopback(text []byte) (out []byte, found bool) {
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) > 1 && fields[0] == "nameserver" {
			server, err := netip.ParseAddr(fields[1])
			if err == nil && server.IsLoopback() {
				continue
			}
			found = true
		}
		out = append(out, line...)
	}
	return out, found
}
