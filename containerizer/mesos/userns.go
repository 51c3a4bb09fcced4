//go:build linux

package mesos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	v1 "berth/api/v1"
	"berth/container"
	"berth/internal/atomicfile"
	"berth/internal/idmap"
	"berth/internal/inroot"
	"berth/internal/mount"
	"berth/launcher"
	"berth/state"
)

// idsRecord is the file `ids` of a container.
type idsRecord struct {
	container.IDRange
	// Own: nobody else is to have any of them.
	Own bool `json:"own"`
}

// takeIDs chooses the range of a container that is to have a user namespace, and records it
// before anything is made with it: it is taken as long as the container has a record.
func (l *launch) takeIDs(ctx context.Context) (err error) {
	asked := l.container.Config.GetContainerInfo().GetLinuxInfo().GetUserNamespace()
	if l.container.Parent != nil {
		return l.inheritIDs(asked)
	}
	if asked == nil {
		return nil
	}
	if l.Ranges == nil {
		return fmt.Errorf("%w: no ranges of ids are configured", container.ErrNotSupported)
	}
	lock, err := l.lockRuntime(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	taken, err := l.takenIDs(asked.Range == nil)
	if err != nil {
		return err
	}
	if l.container.IDs, err = l.Ranges.Choose(asked, taken); err != nil {
		return err
	}
	return l.recordIDs(asked.Range == nil)
}

func (l *launch) recordIDs(own bool) error {
	rec := idsRecord{l.container.IDs, own}
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(l.records.IDs(), append(data, '\n'), 0o600, false); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ids[l.id] = rec
	return nil
}

// inheritIDs is for a nested container: it is in the namespace of its parent.
func (l *launch) inheritIDs(asked *v1.UserNamespaceInfo) error {
	ids := l.container.Parent.IDs
	switch {
	case asked != nil && ids.IsHost():
		return fmt.Errorf("%w: a nested container has that of its parent, which has none", container.ErrInvalid)
	case asked.GetRange() != nil && (asked.Range.GetStart() != ids.Start || asked.Range.GetSize() != ids.Size):
		return fmt.Errorf("%w: a nested container has that of its parent, whose range is %d:%d", container.ErrInvalid, ids.Start, ids.Size)
	case ids.IsHost():
		return nil
	}
	l.container.IDs = ids
	return l.recordIDs(false)
}

// takenIDs returns the ranges of the other containers: for one of its own all of them, else
// those that are somebody's own.
func (l *launch) takenIDs(all bool) (taken []container.IDRange, err error) {
	ids, err := state.Children(l.Layout.Runtime, container.ID{})
	for _, id := range ids {
		if id == l.id {
			continue
		}
		rec, err := l.idsOf(id)
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", id, err)
		}
		if rec.Own || all && !rec.IsHost() {
			taken = append(taken, rec.IDRange)
		}
	}
	return taken, err
}

// idsOf returns what is recorded of the ids of a container: a hundred that are launched at once
// need not all read the records of all. The caller has the lock of the runtime directory.
func (c *Containerizer) idsOf(id container.ID) (idsRecord, error) {
	c.mu.Lock()
	rec, known := c.ids[id]
	c.mu.Unlock()
	if known {
		return rec, nil
	}
	return c.readIDs(id)
}

// readIDs reads the record of a container; of one without a user namespace it is zero.
func (c *Containerizer) readIDs(id container.ID) (rec idsRecord, err error) {
	data, err := os.ReadFile(c.Layout.Container(id).IDs())
	if errors.Is(err, fs.ErrNotExist) {
		return rec, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &rec)
	}
	return rec, err
}

// checkIDs has an isolator make the namespace, or refuses the container: without it root
// would be the host's.
func (l *launch) checkIDs() error {
	if !l.container.IDs.IsHost() && !slices.Contains(slices.Concat(l.info.Namespaces, l.info.Enter), launcher.User) {
		return fmt.Errorf("user namespace: %w: no isolator of --isolation makes it; add namespaces/user", container.ErrNotSupported)
	}
	return nil
}

// entered are the namespaces in which a container for debugging is.
func (l *launch) entered() []launcher.Namespace {
	all := []launcher.Namespace{launcher.Mount, launcher.PID, launcher.IPC, launcher.UTS, launcher.Network}
	if !l.container.IDs.IsHost() {
		all = append(all, launcher.User)
	}
	return all
}

// hasUser refuses users and groups that the user namespace does not have.
func (l *launch) hasUser(user inroot.User) error {
	ids := l.container.IDs
	for _, id := range append([]uint32{user.UID, user.GID}, user.Groups...) {
		if !ids.Has(id) {
			return fmt.Errorf("user %d:%d, groups %d: %w: the container's user namespace has the ids 0 to %d; give it a larger one with --userns START:SIZE",
				user.UID, user.GID, user.Groups, container.ErrInvalid, ids.Size-1)
		}
	}
	return nil
}

// cloneSandbox returns a mount of the sandbox that shows its owners as the container knows
// them.
func (l *launch) cloneSandbox() (sandbox *mount.Detached, err error) {
	if sandbox, err = mount.Clone(l.container.Config.GetDirectory(), false); err != nil || l.container.IDs.IsHost() {
		return sandbox, err
	}
	namespace, err := idmap.Namespace(l.container.IDs)
	if err == nil {
		err = errors.Join(sandbox.Map(int(namespace.Fd()), false), namespace.Close())
	}
	if errors.Is(err, mount.ErrCannotMap) {
		err = fmt.Errorf("%w: the sandbox: %w: leave --userns out, or have --work_dir on another file system", container.ErrNotSupported, err)
	}
	if err != nil {
		return nil, errors.Join(err, sandbox.Close())
	}
	return sandbox, nil
}
