package layer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

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
	lock  *filelock.Lock
	// syncFD was opened before the first write, so that syncfs(2) on it reports
	// every write-back error of the file system since.
	syncFD *disk.File

	mu     sync.Mutex
	staged []stagedLayer
	count  int

	commit sync.Mutex // of one Commit at a time
	failed error      // what ended an earlier Commit
}

type stagedLayer struct {
	id   image.Digest
	form Form
	dir  string
}

// Lease begins a lease. The caller must Release it.
func (s *Store) Lease(ctx context.Context) (_ *Lease, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("lease layers: %w", s.withRemedy(err))
		}
	}()
	// Under the shared lock, so that Recover, which holds it exclusively, never sees
	// a lease file that is not locked yet.
	shared, err := s.lock(ctx, filelock.Shared)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, shared.Unlock()) }()
	name := rand.Text()
	syncFD, err := disk.Open(s.dir)
	if err != nil {
		return nil, err
	}
	lock, err := filelock.Try(filepath.Join(s.leases(), name), filelock.Exclusive)
	if err != nil {
		return nil, errors.Join(err, syncFD.Close())
	}
	return &Lease{store: s, name: name, lock: lock, syncFD: syncFD}, nil
}

// Hold takes the layers under the lease, and returns those that are absent in the
// given form, each once. From a nil error on, no sweep removes the others.
func (l *Lease) Hold(ctx context.Context, form Form, ids []image.Digest) (absent []image.Digest, err error) {
	shared, err := l.store.lock(ctx, filelock.Shared)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, shared.Unlock()) }()
	if err := l.record(ids); err != nil {
		return nil, fmt.Errorf("lease layers: %w", l.store.withRemedy(err))
	}
	seen := make(map[image.Digest]bool)
	for _, id := range ids {
		if !seen[id] && !l.store.visible(id, form) {
			absent = append(absent, id)
		}
		seen[id] = true
	}
	return absent, nil
}

func (l *Lease) record(ids []image.Digest) error {
	// A line of its own, whatever a Write that was cut short has left.
	lines := []byte{'\n'}
	for _, id := range ids {
		lines = append(append(lines, id...), '\n')
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.lock.File().Seek(0, io.SeekEnd); err != nil {
		return err
	}
	_, err := l.lock.File().Write(lines)
	return err
}

func (l *Lease) stagingDir() string { return filepath.Join(l.store.staging(), l.name) }

// Dir returns a directory on the store's file system that is removed when the lease
// ends, however it ends: the place for files that are renamed when they are whole.
func (l *Lease) Dir() (string, error) {
	dir := l.stagingDir()
	return dir, disk.MkdirAll(dir, 0o700)
}

// newStaging makes a directory for one layer.
func (l *Lease) newStaging() (string, error) {
	l.mu.Lock()
	l.count++
	dir := filepath.Join(l.stagingDir(), fmt.Sprint(l.count))
	l.mu.Unlock()
	return dir, disk.MkdirAll(filepath.Join(dir, "fs"), 0o700)
}

// Commit makes all layers that the lease has staged durable, then visible (I1). They
// are held from then on. A layer that another process made visible meanwhile stays
// as that one made it.
//
// An error ends the lease's commits: a failed sync may have lost any of the bytes
// staged so far, and the kernel reports that once only. Another attempt needs
// another lease, and unpacks again.
func (l *Lease) Commit(ctx context.Context) error {
	l.commit.Lock()
	defer l.commit.Unlock()
	if l.failed == nil {
		l.failed = l.store.withRemedy(l.publishStaged(ctx))
	}
	return l.failed
}

func (l *Lease) publishStaged(ctx context.Context) (err error) {
	l.mu.Lock()
	staged := l.staged
	l.staged = nil
	l.mu.Unlock()
	if len(staged) == 0 {
		return nil
	}
	if err := disk.Syncfs(l.syncFD); err != nil {
		return fmt.Errorf("sync the file system of %s: %w", l.store.dir, err)
	}
	shared, err := l.store.lock(ctx, filelock.Shared)
	if err != nil {
		return fmt.Errorf("commit layers: %w", err)
	}
	defer func() { err = errors.Join(err, shared.Unlock()) }()
	for _, layer := range staged {
		if err := l.publish(layer); err != nil {
			return fmt.Errorf("commit layer %s: %w", layer.id, err)
		}
	}
	return atomicfile.SyncDir(l.store.layers())
}

// publish renames a staged layer to its place. The directory of the layer is synced
// here, the one above it by Commit.
func (l *Lease) publish(layer stagedLayer) error {
	if err := l.record([]image.Digest{layer.id}); err != nil {
		return err
	}
	target := l.store.formDir(layer.id, layer.form)
	if err := disk.Mkdir(filepath.Dir(target), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	err := disk.Rename(layer.dir, target)
	if err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(target))
}

// Release ends the lease and removes what was staged and not committed. What it
// cannot remove is left to Recover.
func (l *Lease) Release() error {
	err := removeTree(l.stagingDir())
	if err == nil {
		// After what it stands for, so that Recover finds that.
		err = disk.Remove(filepath.Join(l.store.leases(), l.name))
	}
	if err != nil {
		err = fmt.Errorf("release lease: %w", err)
	}
	return errors.Join(err, l.lock.Unlock(), l.syncFD.Close())
}
