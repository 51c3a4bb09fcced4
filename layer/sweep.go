package layer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"berth/image"
	"berth/internal/atomicfile"
	"berth/internal/disk"
	"berth/internal/filelock"
)

// Decision says what a Sweep spares.
type Decision struct {
	// Keep are the layers that stay.
	Keep map[image.Digest]bool
	// InUse are those whose replaced copies stay too: containers may stand on them.
	InUse map[image.Digest]bool
	// Settle, unless nil, makes durable what the decision rests upon, such as the
	// removal of records. No file goes before it has succeeded.
	Settle func() error
}

// Swept is what a Sweep has removed.
type Swept struct {
	Layers []image.Digest `json:"layers"`
	Bytes  int64          `json:"bytes"` // that the file system has more
}

// Sweep makes every layer absent that the decision does not keep and no lease holds.
// It removes their files before it returns, but other processes are kept out only while
// decide runs, which is given what the leases hold: it reads records that no other
// process is about to change. On a full disk it may run several times.
//
// A nil error proves that the space is free. When what the decision rests upon cannot be
// made durable, the layers are visible again. When ctx ends or files cannot be removed,
// Swept says what was, and Recover removes the rest.
func (s *Store) Sweep(ctx context.Context, decide func(leased map[image.Digest]bool) (Decision, error)) (swept Swept, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("sweep layers: %w", err)
		}
	}()
	lease := s.lease()
	defer func() { err = errors.Join(err, lease.Release()) }()
	if err := errors.Join(lease.watchWrites(), lease.begin(ctx)); err != nil {
		return Swept{}, err
	}
	for {
		sw := &sweeping{store: s, lease: lease}
		part, err := sw.sweep(ctx, decide)
		swept.Layers = append(swept.Layers, part.Layers...)
		swept.Bytes += part.Bytes
		if err != nil || !sw.more {
			return swept, err
		}
	}
}

func (sw *sweeping) sweep(ctx context.Context, decide func(map[image.Digest]bool) (Decision, error)) (Swept, error) {
	if err := sw.moveAway(ctx, decide); err != nil {
		return Swept{}, errors.Join(err, sw.putBack(ctx))
	}
	if err := sw.settle(); err != nil {
		return Swept{}, errors.Join(err, sw.putBack(ctx))
	}
	freed, err := sw.remove(ctx)
	return Swept{Layers: sw.layers, Bytes: freed}, err
}

// Sweepable returns what a Sweep would remove. It changes nothing and keeps others out
// only while it reads the leases, so what decide reads may change meanwhile; it calls no
// Settle.
func (s *Store) Sweepable(ctx context.Context, decide func(leased map[image.Digest]bool) (Decision, error)) (Swept, error) {
	swept, err := s.sweepable(ctx, decide)
	if err != nil {
		return Swept{}, fmt.Errorf("find layers to sweep: %w", err)
	}
	return swept, nil
}

func (s *Store) sweepable(ctx context.Context, decide func(map[image.Digest]bool) (Decision, error)) (swept Swept, err error) {
	candidates, err := s.candidates()
	if err != nil {
		return Swept{}, err
	}
	exclusive, err := s.lock(ctx, filelock.Exclusive)
	if err != nil {
		return Swept{}, err
	}
	leased, err := s.leased()
	if err := errors.Join(err, exclusive.Unlock()); err != nil {
		return Swept{}, err
	}
	decision, err := decide(leased)
	if err != nil {
		return Swept{}, err
	}
	for _, c := range candidates {
		names, _ := c.doomed(decision, leased)
		visible := false
		for _, name := range names {
			size, err := occupied(filepath.Join(s.layerDir(c.id), name))
			if isNotExist(err) {
				continue // somebody else has removed it meanwhile
			}
			if err != nil {
				return Swept{}, err
			}
			swept.Bytes += size
			visible = visible || isVisible(name)
		}
		if visible {
			swept.Layers = append(swept.Layers, c.id)
		}
	}
	return swept, nil
}

// occupied returns what a form, or a copy of one, occupies on disk.
func occupied(form string) (int64, error) {
	data, err := disk.ReadFile(filepath.Join(form, infoFile))
	if err == nil {
		if info, err := parseInfo(data); err == nil && info.Disk > 0 {
			return info.Disk, nil
		}
	}
	return measureTree(form) // it is broken or from before its size was recorded
}

// candidate is what there is of a layer before anybody is kept out. What comes later is
// of somebody who needs it.
type candidate struct {
	id    image.Digest
	names []string // of its forms and their copies; "" is itself, if it is not even a directory
	// alone says that there is nothing else, so that one rename takes it all.
	alone bool
}

func (s *Store) candidates() (all []candidate, err error) {
	entries, err := disk.ReadDir(s.layers())
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		id, err := image.ParseDigest(e.Name())
		if err != nil {
			continue // not ours
		}
		c := candidate{id: id, names: []string{""}, alone: true}
		if e.IsDir() {
			if c.names, c.alone, err = s.forms(id); err != nil {
				return nil, err
			}
		}
		all = append(all, c)
	}
	return all, nil
}

// forms returns the names of the forms of a layer and of their copies, and whether
// there is nothing else.
func (s *Store) forms(id image.Digest) (names []string, alone bool, err error) {
	entries, err := disk.ReadDir(s.layerDir(id))
	if err != nil && !isNotExist(err) {
		return nil, false, err
	}
	for _, e := range entries {
		if isForm(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, len(names) == len(entries), nil
}

// doomed returns those names of the candidate that a sweep takes. Whole says that one
// rename may take them, with whatever is there since: nobody needs the layer.
func (c *candidate) doomed(d Decision, leased map[image.Digest]bool) (names []string, whole bool) {
	switch {
	case leased[c.id] || d.InUse[c.id]:
		return nil, false
	case d.Keep[c.id]:
		return slices.DeleteFunc(slices.Clone(c.names), isVisible), false
	}
	return c.names, c.alone
}

func isVisible(name string) bool { return !isSuperseded(name) }

// sweeping is a Sweep under way.
type sweeping struct {
	store  *Store
	lease  *Lease
	layers []image.Digest
	moves  []move
	// more says that there was no room for the names of all at once in staging.
	more bool
	// settling is the decision's Settle.
	settling func() error
}

// move is a rename from the layers to staging.
type move struct {
	from, to string
	forms    []string // that are in it; "" is itself
}

// moveAway makes absent what the decision does not spare. Everybody else waits for it,
// so it makes nothing durable.
func (sw *sweeping) moveAway(ctx context.Context, decide func(map[image.Digest]bool) (Decision, error)) (err error) {
	s := sw.store
	candidates, err := s.candidates()
	if err != nil {
		return err
	}
	exclusive, err := s.lock(ctx, filelock.Exclusive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, exclusive.Unlock()) }()
	// Leases first: a process writes its record and then releases its lease.
	leased, err := s.leased()
	if err != nil {
		return err
	}
	decision, err := decide(leased)
	if err != nil {
		return err
	}
	sw.settling = decision.Settle
	if err := disk.At("sweep: decided"); err != nil {
		return err
	}
	for _, c := range candidates {
		names, whole := c.doomed(decision, leased)
		err := sw.take(c.id, names, whole)
		if isFull(err) && len(sw.moves) > 0 {
			sw.more = true
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// take moves names of a layer away.
func (sw *sweeping) take(id image.Digest, names []string, whole bool) error {
	dir := sw.store.layerDir(id)
	taken := false
	if whole {
		moved, err := sw.move(dir, names)
		if err != nil {
			return err
		}
		taken = moved && slices.ContainsFunc(names, isVisible)
	} else {
		for _, name := range names {
			moved, err := sw.move(filepath.Join(dir, name), []string{""})
			if err != nil {
				return err
			}
			taken = taken || moved && isVisible(name)
		}
	}
	if taken {
		sw.layers = append(sw.layers, id)
	}
	return nil
}

// move moves a file to staging, under a name that says whose it is, unless another sweep
// has done so since the candidates were listed. A directory of its own could not be made
// on a full disk.
func (sw *sweeping) move(from string, forms []string) (moved bool, err error) {
	m := move{forms: forms, from: from, to: filepath.Join(sw.store.staging(), sw.lease.name+sweptInfix+rand.Text())}
	err = disk.Rename(m.from, m.to)
	if isNotExist(err) {
		return false, nil
	}
	if err == nil {
		sw.moves = append(sw.moves, m)
	}
	return err == nil, err
}

// settle makes durable, in this order: what the decision rests upon, and that the layers
// are absent. After a power cut before, they are visible again, whole; no file is removed
// before, lest one be visible without some.
func (sw *sweeping) settle() error {
	if err := disk.At("sweep: moved away"); err != nil {
		return err
	}
	if sw.settling != nil {
		if err := sw.settling(); err != nil {
			return err
		}
	}
	if err := disk.At("sweep: settled"); err != nil {
		return err
	}
	if len(sw.moves) == 0 {
		return nil
	}
	if err := atomicfile.SyncDir(sw.store.layers()); err != nil {
		return err
	}
	return disk.At("sweep: synced")
}

// putBack makes visible what was moved away. Without it a record that was not forgotten
// durably would be back after a power cut and its layers would not: they would have to be
// fetched again. What somebody else has fetched meanwhile stays.
func (sw *sweeping) putBack(ctx context.Context) (err error) {
	if len(sw.moves) == 0 {
		return nil
	}
	shared, err := sw.store.lock(context.WithoutCancel(ctx), filelock.Shared)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shared.Unlock()) }()
	var errs []error
	for _, m := range sw.moves {
		err := disk.Rename(m.to, m.from)
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.ENOTDIR) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// remove removes the files and returns how many bytes those occupied that are all gone.
func (sw *sweeping) remove(ctx context.Context) (freed int64, err error) {
	if len(sw.moves) == 0 {
		return 0, nil
	}
	var errs []error
	for _, m := range sw.moves {
		if ctx.Err() != nil {
			errs = append(errs, context.Cause(ctx))
			break
		}
		size, err := m.remove()
		freed += size
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return freed, err
	}
	if err := awaitFree(sw.lease.syncFD); err != nil {
		return freed, err
	}
	return freed, disk.At("sweep: removed")
}

func (m move) remove() (freed int64, err error) {
	var errs []error
	for _, form := range m.forms {
		size, err := occupied(filepath.Join(m.to, form))
		freed += size
		errs = append(errs, err)
	}
	if err := removeTree(m.to); err != nil {
		return 0, errors.Join(append(errs, err)...)
	}
	return freed, errors.Join(errs...)
}

// leased returns what the live leases hold. The caller holds the store's lock
// exclusively.
func (s *Store) leased() (map[image.Digest]bool, error) {
	held := make(map[image.Digest]bool)
	names, err := disk.ReadDir(s.leases())
	if err != nil {
		return nil, err
	}
	for _, e := range names {
		if !isLeaseName(e.Name()) {
			continue
		}
		ids, err := s.leasedBy(e.Name())
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			held[id] = true
		}
	}
	return held, nil
}

func (s *Store) leasedBy(name string) ([]image.Digest, error) {
	path := filepath.Join(s.leases(), name)
	if dead, err := isDead(path); dead || err != nil {
		return nil, err
	}
	data, err := disk.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) { // a lease is unlinked without the store's lock
		return nil, nil
	}
	var ids []image.Digest
	for _, line := range strings.Fields(string(data)) {
		ids = append(ids, image.Digest(line))
	}
	return ids, err
}

// isDead reports whether the process of the lease file has ended. The caller holds
// the store's lock exclusively, so the file is not one that is about to be locked.
func isDead(path string) (bool, error) {
	lock, err := filelock.TryExisting(path, filelock.Exclusive)
	switch {
	case errors.Is(err, filelock.ErrHeld):
		return false, nil
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, err
	}
	return true, lock.Unlock()
}
