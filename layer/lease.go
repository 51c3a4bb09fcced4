package layer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"

	"berth/container"
	"berth/image"
	"berth/internal/atomicfile"
	"berth/internal/disk"
	"berth/internal/filelock"
)

// Lease keeps layers from being swept for as long as this process lives or until
// Release. Its methods may be called by several goroutines.
type Lease struct {
	store *Store
	name  string

	mu sync.Mutex
	// file names what is held. It is made for the first layer or directory, so that
	// who takes a lease and a layer locks the store once.
	file *filelock.Lock
	// syncFD was opened before the first write, so that syncfs(2) on it reports
	// every write-back error of the file system since.
	syncFD *disk.File
	// staging says that there may be a directory of the lease.
	staging bool
	staged  []stagedLayer
	count   int
	// found are the layers that Hold has found, and that a Commit has not looked after.
	found map[formOf]bool
	// superseded are those of which Commit replaces the visible copy, if there is one.
	superseded map[formOf]bool
	broken     map[formOf][]Problem

	commit sync.Mutex // of one Commit at a time
	failed error      // what ended an earlier Commit
}

// formOf is one form of one layer.
type formOf struct {
	id   image.Digest
	form Form
}

type stagedLayer struct {
	formOf
	dir string
}

// Lease begins a lease. The caller must Release it.
func (s *Store) Lease(ctx context.Context) (*Lease, error) {
	// Before the first write, so that the first syncfs makes it durable that the store is open.
	if _, err := s.epoch(ctx); err != nil {
		return nil, err
	}
	return s.lease(), nil
}

// lease is Lease for who gets no layers. It writes nothing, so that space can be made on a
// full disk.
func (s *Store) lease() *Lease {
	return &Lease{
		store: s, name: rand.Text(),
		found: make(map[formOf]bool), superseded: make(map[formOf]bool), broken: make(map[formOf][]Problem),
	}
}

// begin makes the file of the lease, for who is about to write what goes with it.
func (l *Lease) begin(ctx context.Context) error {
	l.mu.Lock()
	begun := l.file != nil
	l.mu.Unlock()
	if begun {
		return nil
	}
	return l.Keep(ctx)
}

// leaseFile makes and locks the file of a lease. On a full disk that may be the spare one:
// some file systems need room even for an empty file.
func (s *Store) leaseFile(name string) (*filelock.Lock, error) {
	path := filepath.Join(s.leases(), name)
	lock, err := filelock.Try(path, filelock.Exclusive)
	if isFull(err) && disk.Rename(s.spareFile(), path) == nil {
		return filelock.Try(path, filelock.Exclusive)
	}
	return lock, err
}

// Hold takes the layers under the lease, and returns those that are absent in the
// given form, each once. From a nil error on, no sweep removes the others.
//
// A layer that an unclean shutdown may have damaged is verified first. When it is broken
// it counts as absent (see Broken), and Commit replaces it.
func (l *Lease) Hold(ctx context.Context, form Form, ids []image.Digest) (missing []image.Digest, err error) {
	epoch, err := l.store.epoch(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.Keep(ctx, ids...); err != nil {
		return nil, err
	}
	// Nobody need be kept out any more: no sweep takes what is held, and no Commit takes
	// one away.
	ids = eachOnce(ids)
	there := make([]presence, len(ids))
	for i, id := range ids {
		there[i] = l.look(id, form, epoch)
	}
	if err := l.verifyDoubtful(ctx, form, ids, there); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, id := range ids {
		if there[i] == absent {
			missing = append(missing, id)
		} else {
			l.found[formOf{id, form}] = true
		}
	}
	return missing, nil
}

// eachOnce returns the ids without repetitions.
func eachOnce(ids []image.Digest) (unique []image.Digest) {
	seen := make(map[image.Digest]bool)
	for _, id := range ids {
		if !seen[id] {
			unique = append(unique, id)
		}
		seen[id] = true
	}
	return unique
}

func (l *Lease) look(id image.Digest, form Form, epoch string) presence {
	l.mu.Lock()
	superseded := l.superseded[formOf{id, form}]
	l.mu.Unlock()
	if superseded {
		return absent
	}
	return l.store.look(id, form, epoch)
}

// verifyDoubtful makes each doubtful layer a present or an absent one.
func (l *Lease) verifyDoubtful(ctx context.Context, form Form, ids []image.Digest, there []presence) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, id := range ids {
		if there[i] != doubtful {
			continue
		}
		group.Go(func() error {
			found, err := l.store.Check(ctx, id, form)
			if errors.Is(err, container.ErrNotFound) { // which an error has kept the look from seeing
				there[i] = absent
				return nil
			}
			if err != nil {
				return fmt.Errorf("verify what an unclean shutdown may have damaged: %w", err)
			}
			there[i] = present
			if len(found) > 0 {
				there[i] = absent
				l.isBroken(formOf{id, form}, found)
			}
			return nil
		})
	}
	return group.Wait()
}

func (l *Lease) isBroken(layer formOf, found []Problem) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.superseded[layer], l.broken[layer] = true, found
}

// Keep takes the layers under the lease as Hold does, but does not look at them: for
// who checks them anyway. From a nil error on, no sweep removes them.
func (l *Lease) Keep(ctx context.Context, ids ...image.Digest) error {
	// So that Recover and Sweep never see a file that is not locked yet, nor decide before it
	// names what it is to hold.
	if err := l.store.share(ctx, func() error { return l.record(ids) }); err != nil {
		return fmt.Errorf("lease layers: %w", l.store.withRemedy(err))
	}
	return nil
}

// Broken returns what is wrong with the layers that Hold has found broken and counted
// as absent in the form, until Commit has replaced them.
func (l *Lease) Broken(form Form) map[image.Digest][]Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	broken := make(map[image.Digest][]Problem)
	for layer, found := range l.broken {
		if layer.form == form {
			broken[layer.id] = found
		}
	}
	return broken
}

// record adds the layers to the file of the lease. The caller shares the store's lock.
func (l *Lease) record(ids []image.Digest) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		if l.file, err = l.store.leaseFile(l.name); err != nil {
			return err
		}
	}
	if len(ids) == 0 {
		return nil
	}
	// A line of its own, whatever a Write that was cut short has left.
	lines := []byte{'\n'}
	for _, id := range ids {
		lines = append(append(lines, id...), '\n')
	}
	if _, err := l.file.File().Seek(0, io.SeekEnd); err != nil {
		return err
	}
	_, err = l.file.File().Write(lines)
	return err
}

// Supersede has Commit put what this lease stages of a layer in the form in the place of the
// visible one, which is broken. Containers that stand on that keep it; the sweep after
// their end removes it. Hold counts the layer as absent until then.
func (l *Lease) Supersede(form Form, ids ...image.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		l.superseded[formOf{id, form}] = true
	}
}

func (l *Lease) stagingDir() string { return filepath.Join(l.store.staging(), l.name) }

// Dir returns a directory on the store's file system that is removed when the lease
// ends, however it ends: the place for files that are renamed when they are whole.
func (l *Lease) Dir() (string, error) {
	// Others have the store's lock for moments.
	if err := l.begin(context.Background()); err != nil {
		return "", err
	}
	dir := l.stagingDir()
	l.mu.Lock()
	l.staging = true
	l.mu.Unlock()
	return dir, disk.MkdirAll(dir, 0o700)
}

// newStaging makes a directory for one layer.
func (l *Lease) newStaging(ctx context.Context) (string, error) {
	if err := l.begin(ctx); err != nil {
		return "", err
	}
	if err := l.watchWrites(); err != nil {
		return "", err
	}
	l.mu.Lock()
	l.staging = true
	l.count++
	dir := filepath.Join(l.stagingDir(), fmt.Sprint(l.count))
	l.mu.Unlock()
	return dir, disk.MkdirAll(dir, 0o700)
}

// watchWrites opens what tells the write-back errors from now on.
func (l *Lease) watchWrites() (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.syncFD == nil {
		l.syncFD, err = disk.Open(l.store.dir)
	}
	return err
}

// Commit makes all layers that the lease has staged durable, then visible (I1). They
// are held from then on. A layer that another process made visible meanwhile stays
// as that one made it, unless it is in doubt. Those that Hold has found are durably
// visible after it, too.
//
// An error ends the lease's commits: a failed sync may have lost any of the bytes
// staged so far, and the kernel reports that once only. Another attempt needs
// another lease, and unpacks again.
func (l *Lease) Commit(ctx context.Context) error {
	l.commit.Lock()
	defer l.commit.Unlock()
	if l.failed == nil {
		l.failed = l.store.withRemedy(l.commitAll(ctx))
	}
	return l.failed
}

func (l *Lease) commitAll(ctx context.Context) error {
	l.mu.Lock()
	staged, found := l.staged, l.found
	l.staged, l.found = nil, make(map[formOf]bool)
	l.mu.Unlock()
	if len(staged) == 0 {
		// Who made them visible may be just about to sync these directories.
		return l.store.syncEntries(eachOnce(layersOf(maps.Keys(found))))
	}
	// This serves what was found, too: it was visible before.
	if err := disk.Syncfs(l.syncFD); err != nil {
		return fmt.Errorf("sync the file system of %s: %w", l.store.dir, err)
	}
	if err := disk.At("pull: layers are synced"); err != nil {
		return err
	}
	if err := l.publishAll(ctx, staged); err != nil {
		return err
	}
	var ids []image.Digest
	for _, layer := range staged {
		ids = append(ids, layer.id)
	}
	if err := l.store.syncEntries(eachOnce(ids)); err != nil {
		return err
	}
	return disk.At("pull: layers are visible")
}

func layersOf(forms iter.Seq[formOf]) (ids []image.Digest) {
	for layer := range forms {
		ids = append(ids, layer.id)
	}
	return ids
}

// syncEntries makes the entries of forms and layers durable. A power cut after the first
// one leaves a directory without a form, which Recover removes.
func (s *Store) syncEntries(ids []image.Digest) error {
	if len(ids) == 0 {
		return nil
	}
	for _, id := range ids {
		if err := atomicfile.SyncDir(s.layerDir(id)); err != nil {
			return fmt.Errorf("commit layer %s: %w", id, err)
		}
	}
	return atomicfile.SyncDir(s.layers())
}

func (l *Lease) publishAll(ctx context.Context, staged []stagedLayer) (err error) {
	// So that nobody removes a directory that was made for a form.
	shared, err := l.store.lock(ctx, filelock.Shared)
	if err != nil {
		return fmt.Errorf("commit layers: %w", err)
	}
	defer func() { err = errors.Join(err, shared.Unlock()) }()
	for _, layer := range staged {
		err := l.publish(ctx, layer)
		if err == nil {
			err = disk.At("pull: layer is renamed")
		}
		if err != nil {
			return fmt.Errorf("commit layer %s: %w", layer.id, err)
		}
	}
	return nil
}

// publish makes a staged layer visible.
func (l *Lease) publish(ctx context.Context, layer stagedLayer) error {
	if err := l.record([]image.Digest{layer.id}); err != nil {
		return err
	}
	if err := l.makeLayerDir(layer.id); err != nil {
		return err
	}
	l.mu.Lock()
	superseded := l.superseded[layer.formOf]
	l.mu.Unlock()
	target := l.store.formDir(layer.id, layer.form)
	if !superseded {
		err := disk.Rename(layer.dir, target)
		if err == nil || !errors.Is(err, os.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.ENOTDIR) {
			return err
		}
		epoch, err := l.store.epoch(ctx)
		if err != nil || l.store.look(layer.id, layer.form, epoch) == present {
			return err
		}
		// Nobody has verified it, or it is none.
	}
	if err := replace(layer.dir, target); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.superseded, layer.formOf)
	delete(l.broken, layer.formOf)
	return nil
}

// makeLayerDir makes the directory of a layer. What is in its place and is none goes.
func (l *Lease) makeLayerDir(id image.Digest) error {
	dir := l.store.layerDir(id)
	err := disk.Mkdir(dir, 0o700)
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	info, err := disk.Lstat(dir)
	if err != nil || info.IsDir() {
		return err
	}
	if err := disk.Rename(dir, filepath.Join(l.stagingDir(), rand.Text())); err != nil {
		return err
	}
	return disk.Mkdir(dir, 0o700)
}

// replace puts the staged copy of a form in the place of the visible one, which it keeps
// beside it. At every moment the form is there, and what was visible is where nothing but
// a Sweep removes it: it has its new name by the very exchange.
func replace(staged, target string) error {
	beside := filepath.Join(filepath.Dir(target), newSuperseded())
	if err := disk.Rename(staged, beside); err != nil {
		return err
	}
	if err := disk.At("repair: layer is beside the broken one"); err != nil {
		return err
	}
	err := exchange(beside, target)
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = disk.Rename(beside, target)
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOSYS):
		// A file system that cannot exchange. After a crash in between the layer is absent.
		if err = disk.Rename(target, filepath.Join(filepath.Dir(target), newSuperseded())); err == nil {
			err = disk.Rename(beside, target)
		}
	}
	if err != nil {
		return err
	}
	return disk.At("repair: layers are exchanged")
}

// Release ends the lease and removes what was staged and not committed. What it
// cannot remove is left to Recover.
func (l *Lease) Release() (err error) {
	if l.syncFD != nil {
		defer func() { err = errors.Join(err, l.syncFD.Close()) }()
	}
	if l.file == nil {
		return nil
	}
	defer func() { err = errors.Join(err, l.file.Unlock()) }()
	if l.staging {
		if err := removeTree(l.stagingDir()); err != nil {
			return fmt.Errorf("release lease: %w", err)
		}
	}
	// After what it stands for, so that Recover finds that.
	if err := disk.Remove(filepath.Join(l.store.leases(), l.name)); err != nil {
		return fmt.Errorf("release lease: %w", err)
	}
	return nil
}
