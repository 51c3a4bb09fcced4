package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strconv"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"berth/container"
	"berth/internal/filelock"
	"berth/internal/mount"
	"berth/isolator"
)

// list returns the plugins of an attachment, and what they are told of the container.
func (o Options) list(id container.ID, a attachment, netns string) (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	list, err := libcni.NetworkConfFromBytes(a.Config)
	return list, &libcni.RuntimeConf{ContainerID: id.String(), NetNS: netns, IfName: a.Interface, CapabilityArgs: a.Args}, err
}

// add has the plugins of all networks add the container, one after the other: the first
// network has the default route.
func (o Options) add(ctx context.Context, id container.ID, rec *record, pid int) error {
	netns := o.Netns(id)
	if err := bind("/proc/"+strconv.Itoa(pid)+"/ns/net", netns); err != nil {
		return fmt.Errorf("bind the network namespace of container %s: %w", id, err)
	}
	for n := range rec.Attachments {
		a := &rec.Attachments[n]
		list, rt, err := o.list(id, *a, netns)
		if err != nil {
			return fmt.Errorf("network %q: %w", a.Network, err)
		}
		a.Added = true
		if err := o.write(id, rec); err != nil {
			return err
		}
		if _, err := o.libcni(id, rec.Plugins).AddNetworkList(ctx, list, rt); err != nil {
			return fmt.Errorf("add container %s to the network %q: %w", id, a.Network, err)
		}
	}
	return nil
}

// bind makes a file and binds a namespace to it.
func bind(namespace, file string) error {
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	clone, err := mount.Clone(namespace, false)
	if err != nil {
		return err
	}
	return errors.Join(clone.Attach(file), clone.Close())
}

// unbind ends what bind has made, as far as it did. Copies of the mount in other mount
// namespaces go with the file.
func unbind(file string) error {
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := mount.Detach(file); err != nil {
		return err
	}
	return os.Remove(file)
}

// result is what the plugins of a network have answered; nil: they have not, or it was lost.
func (o Options) result(id container.ID, rec *record, a attachment) *types100.Result {
	list, rt, err := o.list(id, a, "")
	if err != nil {
		return nil
	}
	cached, err := o.libcni(id, rec.Plugins).GetNetworkListCachedResult(list, rt)
	if err != nil || cached == nil {
		return nil
	}
	result, err := types100.NewResultFromResult(cached)
	if err != nil {
		return nil
	}
	return result
}

// Check asks the plugins of a container whether what they added is as they made it, as
// far as their version of the specification knows that question.
func (o Options) Check(ctx context.Context, id container.ID) error {
	rec, err := o.read(id)
	if err != nil || rec == nil {
		return err
	}
	var errs []error
	for _, a := range rec.Attachments {
		list, rt, err := o.list(id, a, o.Netns(id))
		var ports error
		if err == nil {
			if list.Name == o.bridgeName() {
				list.Plugins = slices.DeleteFunc(list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Type == "portmap" })
				ports = o.checkMappings(ctx, id, rec, a)
			}
			err = o.libcni(id, rec.Plugins).CheckNetworkList(ctx, list, rt)
		}
		if ports != nil {
			errs = append(errs, fmt.Errorf("check the network %q: %w", a.Network, ports))
		}
		if err != nil && !errors.Is(err, libcni.ErrorCheckNotSupp) {
			errs = append(errs, fmt.Errorf("check the network %q: %w", a.Network, err))
		}
	}
	return errors.Join(errs...)
}

// Leftovers is the part that deletes attachments: also those of containers of another
// process, whose isolation network/cni was part of.
type Leftovers struct{ Options }

// NewLeftovers returns the part, for who does not have the whole isolator.
func NewLeftovers(o Options) *Leftovers { return &Leftovers{o} }

// Prepare implements isolator.Isolator: it has nothing to add.
func (o *Leftovers) Prepare(context.Context, *isolator.Container) (*isolator.LaunchInfo, error) {
	return nil, nil
}

// Cleanup implements isolator.Isolator.
func (o *Leftovers) Cleanup(ctx context.Context, id container.ID) error {
	rec, err := o.read(id)
	if errors.Is(err, errTorn) {
		o.Log.Warn("addresses and rules of a container may be left", slog.String("container", id.String()), slog.Any("error", err))
		rec, err = nil, nil
	}
	if err != nil {
		return fmt.Errorf("network/cni: %w", err)
	}
	if rec != nil {
		if err := o.delete(ctx, id, rec); err != nil {
			return fmt.Errorf("network/cni: %w (once nothing is left of it, remove %s)", err, o.file(id))
		}
	}
	if err := unbind(o.Netns(id)); err != nil {
		return fmt.Errorf("network/cni: %w", err)
	}
	// A container that filled its files has no part in their directory.
	if err := os.RemoveAll(o.dir(id)); err != nil {
		return fmt.Errorf("network/cni: %w", err)
	}
	return nil
}

// delete has the plugins of all networks delete the container, past failures. After a
// reboot there is no network namespace that they could look at.
func (o Options) delete(ctx context.Context, id container.ID, rec *record) error {
	netns := o.bound(id)
	var errs []error
	for n := range slices.Backward(rec.Attachments) {
		a := &rec.Attachments[n]
		if !a.Added {
			continue
		}
		list, rt, err := o.list(id, *a, netns)
		if err == nil {
			err = o.libcni(id, rec.Plugins).DelNetworkList(ctx, list, rt)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("delete container %s from the network %q: %w", id, a.Network, err))
			continue
		}
		a.Added = false
		if err := o.write(id, rec); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Recover implements isolator.Recoverer: what is left of containers that have no record
// any more, because of a reboot, is deleted, and the plugins of their networks are told
// which attachments there are. A failure stops nobody.
func (o *Leftovers) Recover(ctx context.Context, _ []*isolator.Container) error {
	ids, err := o.recorded()
	if err != nil {
		return fmt.Errorf("network/cni: %w", err)
	}
	stale := slices.DeleteFunc(slices.Clone(ids), o.lives)
	if len(stale) == 0 {
		return nil
	}
	lock, err := o.lock(ctx)
	if err != nil {
		return fmt.Errorf("network/cni: %w", err)
	}
	defer unlock(lock)
	seen := map[string]bool{}
	for _, id := range stale {
		if o.lives(id) {
			continue // by now
		}
		rec, _ := o.read(id) // Cleanup says what is wrong with it
		if err := o.Cleanup(ctx, id); err != nil {
			o.Log.Warn("network of a container that is gone", slog.Any("error", err))
			continue
		}
		if rec != nil {
			o.collect(ctx, rec, seen)
		}
	}
	return nil
}

func unlock(l *filelock.Lock) { _ = l.Unlock() }

func (o Options) lives(id container.ID) bool {
	_, err := os.Lstat(o.Record(id))
	return !errors.Is(err, fs.ErrNotExist)
}

// collect tells the plugins of the networks of a dead container which attachments there
// are (GC), once for each network.
func (o Options) collect(ctx context.Context, of *record, seen map[string]bool) {
	for _, a := range of.Attachments {
		list, err := libcni.NetworkConfFromBytes(a.Config)
		if err != nil || seen[list.Name] || list.DisableGC {
			continue
		}
		seen[list.Name] = true
		if ok, _ := version.GreaterThanOrEqualTo(list.CNIVersion, "1.1.0"); !ok {
			continue
		}
		valid, err := o.valid(a.Network)
		if err == nil {
			// Nothing is in the directory of results that it would delete by itself.
			none := libcni.NewCNIConfigWithCacheDir(of.Plugins, o.Dir, plugins{})
			err = none.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: valid})
		}
		if err != nil {
			o.Log.Warn("collect what is left on a network", slog.String("network", a.Network), slog.Any("error", err))
		}
	}
}

// valid lists the attachments to a network that are somebody's.
func (o Options) valid(network string) (all []types.GCAttachment, err error) {
	ids, err := o.recorded()
	all = []types.GCAttachment{}
	for _, id := range ids {
		rec, err := o.read(id)
		if err != nil {
			return nil, err
		}
		if rec == nil {
			continue
		}
		for _, a := range rec.Attachments {
			if a.Network == network && a.Added {
				all = append(all, types.GCAttachment{ContainerID: id.String(), IfName: a.Interface})
			}
		}
	}
	return all, err
}
