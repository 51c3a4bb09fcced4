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

// What a lease has in staging is a directory of its name or, what a sweep has moved
// there, files whose names begin with its name and this.
const sweptInfix = "."

// isLeaseName reports whether a name is one of those that leases get, by rand.Text.
func isLeaseName(name string) bool {
	return len(name) == 26 && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// leaseOf returns the lease to which a name in staging belongs, if to any.
func leaseOf(name string) (lease string, swept, ok bool) {
	lease, rest, swept := strings.Cut(name, sweptInfix)
	return lease, swept, isLeaseName(lease) && (!swept || isLeaseName(rest))
}

// Recover removes what dead processes left: their leases, what they had staged and what
// they had begun to remove. Live processes may use the store meanwhile. Files that are
// not the store's stay, see Unknown.
func (s *Store) Recover(ctx context.Context) error {
	dead, err := s.deadLeases(ctx)
	if err == nil {
		err = s.removeDead(ctx, dead)
	}
	if err != nil {
		return fmt.Errorf("recover layer store: %w", err)
	}
	return nil
}

// removeDead removes what dead leases have in staging.
func (s *Store) removeDead(ctx context.Context, dead map[string][]string) error {
	if len(dead) == 0 {
		return nil
	}
	// Layers that a sweep had moved away may still have their old names on disk.
	if err := atomicfile.SyncDir(s.layers()); err != nil {
		return err
	}
	var errs []error
	for lease, names := range dead {
		err := s.removeStaged(ctx, names)
		if err == nil {
			// Last, so that a removal that was cut short is taken up again.
			err = disk.Remove(filepath.Join(s.leases(), lease))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// deadLeases returns the leases whose process has ended, each with what it has in
// staging. A power cut may have kept that and lost the file of the lease.
func (s *Store) deadLeases(ctx context.Context) (dead map[string][]string, err error) {
	if all, err := s.allLeases(); err != nil || len(all) == 0 {
		return nil, err
	}
	exclusive, err := s.lock(ctx, filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, exclusive.Unlock()) }()
	if dead, err = s.allLeases(); err != nil {
		return nil, err
	}
	for name := range dead {
		switch isDead, err := isDead(filepath.Join(s.leases(), name)); {
		case err != nil:
			return nil, err
		case !isDead:
			delete(dead, name)
		}
	}
	return dead, s.removeEmpty()
}

// allLeases returns all leases, dead or alive, each with what it has in staging.
func (s *Store) allLeases() (map[string][]string, error) {
	all := make(map[string][]string)
	files, err := disk.ReadDir(s.leases())
	if err != nil {
		return nil, err
	}
	for _, e := range files {
		if isLeaseName(e.Name()) {
			all[e.Name()] = nil
		}
	}
	staged, err := disk.ReadDir(s.staging())
	if err != nil {
		return nil, err
	}
	for _, e := range staged {
		if lease, _, ok := leaseOf(e.Name()); ok {
			all[lease] = append(all[lease], e.Name())
		}
	}
	return all, nil
}

// removeEmpty removes the directories that a Commit has made and put no form into,
// because it was killed in between. The caller holds the store's lock exclusively.
func (s *Store) removeEmpty() error {
	entries, err := disk.ReadDir(s.layers())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, err := image.ParseDigest(e.Name()); err != nil || !e.IsDir() {
			continue
		}
		err := syscall.Rmdir(filepath.Join(s.layers(), e.Name()))
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) { // ENOTEMPTY is an ErrExist
			return fmt.Errorf("remove empty layer %s: %w", e.Name(), err)
		}
	}
	return nil
}

// removeStaged removes entries of staging, and stops when ctx ends.
func (s *Store) removeStaged(ctx context.Context, names []string) error {
	var errs []error
	for _, name := range names {
		if ctx.Err() != nil {
			errs = append(errs, context.Cause(ctx))
			break
		}
		errs = append(errs, removeTree(filepath.Join(s.staging(), name)))
	}
	return errors.Join(errs...)
}

// Unknown returns the paths of files in the store's directories layers, leases and staging
// that are not the store's. Nothing in this package touches them.
func (s *Store) Unknown() (paths []string, err error) {
	for _, of := range []struct {
		dir string
		its func(name string) bool
	}{
		{s.leases(), isLeaseName},
		{s.staging(), func(name string) bool { _, _, ok := leaseOf(name); return ok }},
		{s.layers(), isDigest},
	} {
		found, err := unknownIn(of.dir, of.its)
		if err != nil {
			return nil, fmt.Errorf("look for unknown files: %w", err)
		}
		paths = append(paths, found...)
	}
	layers, err := disk.ReadDir(s.layers())
	if err != nil {
		return nil, fmt.Errorf("look for unknown files: %w", err)
	}
	for _, e := range layers {
		if !isDigest(e.Name()) || !e.IsDir() {
			continue
		}
		found, err := unknownIn(filepath.Join(s.layers(), e.Name()), isForm)
		if err != nil {
			return nil, fmt.Errorf("look for unknown files: %w", err)
		}
		paths = append(paths, found...)
	}
	return paths, nil
}

func isDigest(name string) bool {
	_, err := image.ParseDigest(name)
	return err == nil
}

// unknownIn returns what is in dir and none of its own. Others may remove it meanwhile.
func unknownIn(dir string, its func(string) bool) (paths []string, err error) {
	entries, err := disk.ReadDir(dir)
	if err != nil && !isNotExist(err) {
		return nil, err
	}
	for _, e := range entries {
		if !its(e.Name()) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}
