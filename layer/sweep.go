package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"

	"berth/image"
	"berth/internal/atomicfile"
	"berth/internal/disk"
	"berth/internal/filelock"
)

// Sweep makes every layer absent that keep does not name and no lease holds, and
// returns their diffIDs. It removes their files before it returns, but other
// processes are kept out only while it decides: keep is called then, so that it
// reads records no other process is about to change.
func (s *Store) Sweep(ctx context.Context, keep func() (map[image.Digest]bool, error)) (_ []image.Digest, err error) {
	lease, err := s.Lease(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lease.Release()) }() // removes what moveAway has staged
	swept, err := s.moveAway(ctx, lease, keep)
	if err != nil {
		return swept, fmt.Errorf("sweep layers: %w", err)
	}
	return swept, nil
}

func (s *Store) moveAway(ctx context.Context, lease *Lease, keep func() (map[image.Digest]bool, error)) (swept []image.Digest, err error) {
	exclusive, err := s.lock(ctx, filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, exclusive.Unlock()) }()
	// Leases first: a process writes its record and then releases its lease.
	leased, err := s.leased()
	if err != nil {
		return nil, err
	}
	kept, err := keep()
	if err != nil {
		return nil, err
	}
	entries, err := disk.ReadDir(s.layers())
	if err != nil {
		return nil, err
	}
	if err := disk.MkdirAll(lease.stagingDir(), 0o700); err != nil {
		return nil, err
	}
	for _, e := range entries {
		id, err := image.ParseDigest(e.Name())
		if err != nil || kept[id] || leased[id] {
			continue
		}
		if err := disk.Rename(filepath.Join(s.layers(), e.Name()), filepath.Join(lease.stagingDir(), e.Name())); err != nil {
			return swept, err
		}
		swept = append(swept, id)
	}
	if len(swept) == 0 {
		return nil, nil
	}
	// Before their files go: after a power cut no layer may be back without some.
	return swept, atomicfile.SyncDir(s.layers())
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

// Recover removes what dead processes left: their leases and what they had staged.
// Live processes may use the store meanwhile.
func (s *Store) Recover(ctx context.Context) error {
	dead, err := s.deadLeases(ctx)
	if err != nil {
		return fmt.Errorf("recover layer store: %w", err)
	}
	var errs []error
	for _, name := range dead {
		err := removeTree(filepath.Join(s.staging(), name))
		if err == nil {
			// Last, so that a removal that was cut short is taken up again.
			err = disk.Remove(filepath.Join(s.leases(), name))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("recover layer store: %w", err))
		}
	}
	return errors.Join(errs...)
}

// deadLeases returns the names of the leases whose process has ended. A power cut
// may have kept the staging directory of one and lost its file.
func (s *Store) deadLeases(ctx context.Context) (dead []string, err error) {
	if names, err := s.leaseNames(); err != nil || len(names) == 0 {
		return nil, err
	}
	exclusive, err := s.lock(ctx, filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, exclusive.Unlock()) }()
	names, err := s.leaseNames()
	if err != nil {
		return nil, err
	}
	for name := range names {
		switch isDead, err := isDead(filepath.Join(s.leases(), name)); {
		case err != nil:
			return nil, err
		case isDead:
			dead = append(dead, name)
		}
	}
	return dead, s.removeEmpty()
}

// leaseNames returns the names of all leases, dead or alive.
func (s *Store) leaseNames() (map[string]bool, error) {
	names := make(map[string]bool)
	for _, dir := range []string{s.leases(), s.staging()} {
		entries, err := disk.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			names[e.Name()] = true
		}
	}
	return names, nil
}

// removeEmpty removes the directories that a Commit has made and put no form into,
// because it was killed in between. The caller holds the store's lock exclusively.
func (s *Store) removeEmpty() error {
	entries, err := disk.ReadDir(s.layers())
	if err != nil {
		return err
	}
	for _, e := range entries {
		err := syscall.Rmdir(filepath.Join(s.layers(), e.Name()))
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTDIR) { // ENOTEMPTY is an ErrExist
			return fmt.Errorf("remove empty layer %s: %w", e.Name(), err)
		}
	}
	return nil
}

// removeTree removes a directory of the store. The names in it came from images.
// os.RemoveAll follows no link and goes by directory descriptors.
func removeTree(dir string) error { return disk.RemoveAll(dir) }
