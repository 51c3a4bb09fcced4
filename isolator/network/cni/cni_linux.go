// Package cni is the isolator network/cni: which networks a container is on.
//
// Without a NetworkInfo, or with one whose name is "host", it is on that of the host; a
// nested one without a NetworkInfo is on those of its parent. "none" is a network
// namespace with nothing but a loopback device. "bridge" is a network that berth brings
// along (bridge_linux.go). Every other name is that of a configuration of the Container
// Network Interface (https://www.cni.dev/docs/spec/), whose plugins are executables of
// the operator; libcni speaks to them.
//
// The launcher makes the network namespace, with the container's first process in it.
// While that waits, plugins add interfaces to it. The namespace is bound to a file until
// the container is cleaned up, because plugins want to see it when they delete what
// they have added, and by then no process is in it any more. What a plugin is about to be
// told is recorded before it is (record_linux.go), where it survives a reboot: addresses
// that were given out do, too.
package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"

	v1 "berth/api/v1"
	"berth/container"
	"berth/isolator"
	"berth/launcher"
)

// Options are what the isolator is made of.
type Options struct {
	// ConfigDir has the configurations of networks, PluginDirs have the executables.
	ConfigDir  string
	PluginDirs []string
	// DNS are the servers of containers on networks whose plugins know none; where it has
	// none either, they are the host's.
	DNS Servers
	// Dir is the directory of attachments.
	Dir string
	// Record is the directory of a container's records, which is there as long as the
	// container; Netns is the file in it to which its network namespace is bound.
	Record, Netns func(container.ID) string
	// Init finds the first process of a container. ErrNotFound: it has ended.
	Init func(container.ID) (pid int, err error)
	// Statistics: Usage tells of the traffic of containers.
	Statistics bool
	// Hostname: no other isolator gives containers a host name; those with networks of
	// their own need one.
	Hostname bool
	// Log takes what does not stop anybody: attachments of dead containers that cannot be
	// deleted, and what plugins find wrong with those of living ones.
	Log *slog.Logger
}

// Isolator implements isolator.Isolator and all that it may be besides, but for
// isolator.Updater.
type Isolator struct {
	*Leftovers

	mu sync.Mutex
	// takenUp are containers that another process has launched, of which nobody has
	// looked yet whether plugins find everything in order.
	takenUp map[container.ID]bool
}

// New returns the isolator.
func New(o Options) *Isolator {
	return &Isolator{Leftovers: NewLeftovers(o), takenUp: map[container.ID]bool{}}
}

// Supports implements isolator.Supporter.
func (i *Isolator) Supports() isolator.Support {
	return isolator.Support{Nested: true, SharedCgroups: true}
}

// Prepare implements isolator.Isolator.
func (i *Isolator) Prepare(ctx context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	info, err := i.prepare(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("network/cni: %w", err)
	}
	return info, nil
}

func (i *Isolator) prepare(ctx context.Context, c *isolator.Container) (*isolator.LaunchInfo, error) {
	networks := c.Config.GetContainerInfo().GetNetworkInfos()
	if err := check(networks); err != nil {
		return nil, err
	}
	info := &isolator.LaunchInfo{}
	switch {
	case isolator.JoinsNetwork(c):
		info.Enter = []launcher.Namespace{launcher.Network}
	case isolator.OwnNetwork(c.Config):
		info.Namespaces, info.Loopback = []launcher.Namespace{launcher.Network}, true
		if err := i.attach(ctx, c, networks); err != nil {
			return nil, err
		}
		if networks[0].GetName() != None {
			info.Env = []string{"LIBPROCESS_IP=0.0.0.0"} // programs of Mesos listen where others find them
		}
		if i.Hostname {
			var err error
			if info.Hostname, err = isolator.Hostname(c); err != nil {
				return nil, err
			}
			info.Namespaces = append(info.Namespaces, launcher.UTS)
		}
	case c.Config.GetRootfs() == "":
		return nil, nil // the host's network and the host's files
	}
	mounts, err := i.prepareFiles(c)
	info.Mounts = mounts
	return info, err
}

// attach records what is to be added to the container, and claims its ports.
func (i *Isolator) attach(ctx context.Context, c *isolator.Container, networks []*v1.NetworkInfo) (err error) {
	if networks[0].GetName() == None {
		return nil
	}
	if utils.ValidateContainerID(c.ID.String()) != nil {
		return fmt.Errorf("container id %q: %w: networks know containers by ids of letters, digits, dots, - and _ only; choose another --name", c.ID, container.ErrInvalid)
	}
	lock, err := i.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	// Of a container of this id that a reboot has ended.
	if err := i.Cleanup(ctx, c.ID); err != nil {
		return err
	}
	rec := &record{Plugins: i.PluginDirs}
	var ports []mapping
	for n, info := range networks {
		list, noIPv6, err := i.network(ctx, info.GetName())
		if err == nil && list.Name == i.bridgeName() {
			err = checkIPv6(info, noIPv6)
		}
		if err != nil {
			return fmt.Errorf("network %q: %w", info.GetName(), err)
		}
		a, err := i.attachment(list, info, "eth"+strconv.Itoa(n))
		if err != nil {
			return fmt.Errorf("network %q: %w", info.GetName(), err)
		}
		rec.Attachments = append(rec.Attachments, a)
		wanted, err := mappings(info)
		if err != nil {
			return err
		}
		for _, m := range wanted {
			if slices.ContainsFunc(ports, m.conflicts) {
				return fmt.Errorf("%w: the port %s of the host is mapped twice", container.ErrInvalid, m)
			}
			ports = append(ports, m)
		}
	}
	if err := i.claim(ports); err != nil {
		return err
	}
	if err := i.makeDir(c.ID); err != nil {
		return err
	}
	return i.write(c.ID, rec)
}

// network finds a network by its name. A configured one may have the name of the
// built-in one, of which noIPv6 says why it has no IPv6. The caller has the lock.
func (o Options) network(ctx context.Context, name string) (list *libcni.NetworkConfigList, noIPv6, err error) {
	configs, err := readConfigs(o.ConfigDir)
	if err != nil {
		return nil, nil, err
	}
	list = configs.networks[name]
	switch {
	case list != nil:
	case name == Bridge:
		list, noIPv6, err = o.bridge(ctx)
	default:
		list, err = configs.find(o.ConfigDir, name)
	}
	if err != nil {
		return nil, nil, err
	}
	return list, noIPv6, checkPlugins(list, o.PluginDirs)
}

// attachment is what plugins are told of one network of a container. What no plugin would
// look at is refused.
func (o Options) attachment(list *libcni.NetworkConfigList, info *v1.NetworkInfo, device string) (attachment, error) {
	a := attachment{Network: info.GetName(), Interface: device, Args: map[string]any{}}
	ports, err := mappings(info)
	if err != nil {
		return a, err
	}
	if len(ports) > 0 {
		if !mapsPorts(list) {
			return a, fmt.Errorf("%w: it maps no ports: none of its plugins has the capability portMappings", container.ErrNotSupported)
		}
		a.Args["portMappings"] = ports
	}
	var addresses []string
	for _, address := range info.GetIpAddresses() {
		if address.IpAddress != nil {
			addresses = append(addresses, address.GetIpAddress())
		}
	}
	if len(addresses) > 0 {
		if !capable(list, "ips") {
			return a, fmt.Errorf("%w: it gives no address that was asked for: none of its plugins has the capability ips", container.ErrNotSupported)
		}
		a.Args["ips"] = addresses
	}
	if info.MacAddress != nil {
		if !capable(list, "mac") {
			return a, fmt.Errorf("%w: it gives no hardware address that was asked for: none of its plugins has the capability mac", container.ErrNotSupported)
		}
		a.Args["mac"] = info.GetMacAddress()
	}
	if a.Info, err = v1.Marshal(info); err != nil {
		return a, err
	}
	a.Config, err = inline(list, a.Info)
	return a, err
}

// Isolate implements isolator.Enforcer.
func (i *Isolator) Isolate(ctx context.Context, c *isolator.Container, pid int) error {
	if !isolator.OwnNetwork(c.Config) || isNone(c) {
		return nil
	}
	rec, err := i.read(c.ID)
	if err == nil && rec != nil {
		err = i.add(ctx, c.ID, rec, pid)
	}
	if err == nil {
		err = i.writeFiles(c, rec)
	}
	if err != nil {
		return fmt.Errorf("network/cni: %w", err)
	}
	return nil
}

// Recover implements isolator.Recoverer.
func (i *Isolator) Recover(ctx context.Context, living []*isolator.Container) error {
	i.mu.Lock()
	for _, c := range living {
		i.takenUp[c.ID] = true
	}
	i.mu.Unlock()
	return i.Leftovers.Recover(ctx, living)
}

// Watch implements isolator.Watcher. It ends no container: of one that was taken up it
// asks plugins whether all is as they made it, and says so if not.
func (i *Isolator) Watch(ctx context.Context, id container.ID) (*container.Limitation, error) {
	i.mu.Lock()
	look := i.takenUp[id]
	delete(i.takenUp, id)
	i.mu.Unlock()
	if look {
		if err := i.Check(ctx, id); err != nil && ctx.Err() == nil {
			i.Log.Warn("network of a container", slog.String("container", id.String()), slog.Any("error", err))
		}
	}
	return nil, nil
}

// bound returns the file to which the network namespace of a container is bound, or "".
func (o Options) bound(id container.ID) string {
	file := o.Netns(id)
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}

// libcni of a container keeps what plugins answer in its directory.
func (o Options) libcni(id container.ID, dirs []string) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(dirs, filepath.Clean(o.dir(id)), plugins{})
}
