package provisioner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"

	"berth/container"
	"berth/internal/disk"
	"berth/provisioner/backend"
	"berth/state"
)

// Destroy removes the root filesystems of a container and of the containers nested
// in it, and reports whether there was anything. It cancels a provisioning that is
// under way and waits for it. It may be repeated; open files and busy mounts do not
// stop it.
//
// After an error the record is still there, so that another Destroy takes up what is
// left. ErrNotSupported: a root filesystem of a backend that this host does not have.
//
// That the directory of a container cannot be removed, after its root filesystems have
// been, is no error: it is logged and counted, and tried again by whoever destroys,
// recovers or provisions the container next.
func (p *Provisioner) Destroy(ctx context.Context, id container.ID) (bool, error) {
	end, err := p.takeOver(ctx, id)
	if err != nil {
		return false, fmt.Errorf("destroy the root filesystems of %s: %w", id, err)
	}
	defer end()
	if err := disk.At("destroy: claimed"); err != nil {
		return false, fmt.Errorf("destroy the root filesystems of %s: %w", id, err)
	}
	existed, err := p.destroyTree(ctx, id)
	p.removeEmptyParents(id)
	return existed, err
}

// destroyTree destroys a claimed container, its children first, and remembers whether
// it has left anything.
func (p *Provisioner) destroyTree(ctx context.Context, id container.ID) (existed bool, err error) {
	p.leave(id, nil)
	if existed, err = p.destroyChildren(ctx, id); err == nil {
		existed, err = p.destroyOne(ctx, id)
	}
	if err != nil {
		p.leave(id, err)
	}
	return existed, err
}

// destroyChildren: a failure of one child does not spare the others, but it does spare
// the parent.
func (p *Provisioner) destroyChildren(ctx context.Context, id container.ID) (existed bool, err error) {
	children, err := p.children(id)
	if err != nil {
		return false, fmt.Errorf("destroy the root filesystems of %s: %w", id, err)
	}
	var errs []error
	for _, child := range children {
		if _, err := p.destroyTree(ctx, child); err != nil {
			p.count.removeErrors.Add(1)
			errs = append(errs, err)
		}
	}
	return len(children) > 0, errors.Join(errs...)
}

func (p *Provisioner) destroyOne(ctx context.Context, id container.ID) (bool, error) {
	if _, err := disk.Lstat(p.Paths.Container(id)); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err := p.destroyRootfses(ctx, id); err != nil {
		return true, fmt.Errorf("destroy the root filesystems of %s: %w", id, err)
	}
	if err := disk.At("destroy: root filesystems are gone"); err != nil {
		return true, fmt.Errorf("destroy the root filesystems of %s: %w", id, err)
	}
	if err := p.removeDirectory(id); err != nil {
		p.count.removeErrors.Add(1)
		p.Log.Error("the directory of a container could not be removed; recovery will try again",
			slog.String("container", id.String()), slog.Any("error", err))
		p.leave(id, err)
		return true, nil
	}
	if err := disk.At("destroy: removed"); err != nil {
		return true, fmt.Errorf("destroy the root filesystems of %s: %w", id, err)
	}
	return true, nil
}

// removeDirectory removes the directory of a container whose root filesystems are gone.
// As long as anything is left that may stand on layers, so is the record.
func (p *Provisioner) removeDirectory(id container.ID) error {
	// Mostly this is all that is left. To know the names saves to look for them.
	if removed(p.Paths.Backends(id)) && disk.Remove(p.Paths.Layers(id)) == nil && disk.Rmdir(p.Paths.Container(id)) == nil {
		return nil
	}
	children, err := p.children(id)
	if err != nil {
		return err
	}
	if len(children) > 0 {
		return fmt.Errorf("that of the container %s, in it, is still there", children[0])
	}
	if err := removeUnmounted(p.Paths.Backends(id)); err != nil {
		return err
	}
	return removeUnmounted(p.Paths.Container(id))
}

// removeEmptyParents removes the directories that were there for this container alone:
// its parents may have no root filesystems.
func (p *Provisioner) removeEmptyParents(id container.ID) {
	p.mu.Lock() // so that nobody begins to provision there
	defer p.mu.Unlock()
	for parent, nested := id.Parent(); nested; parent, nested = parent.Parent() {
		for other, c := range p.busy {
			if !c.destroys() && within(other, parent) {
				return
			}
		}
		if disk.Remove(p.childrenDir(parent)) != nil || disk.Remove(p.Paths.Container(parent)) != nil {
			return // it is not empty, or recovery removes it
		}
	}
}

// leave remembers why a Destroy has left something of a container; nil: it has not.
func (p *Provisioner) leave(id container.ID, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		delete(p.left, id)
		return
	}
	p.left[id] = err
}

// whatIsLeft returns the container, or the outermost one that it is nested in, of which a
// Destroy has left something, and why.
func (p *Provisioner) whatIsLeft(id container.ID) (of container.ID, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for nested := true; nested; id, nested = id.Parent() {
		if err := p.left[id]; err != nil {
			of, why = id, err
		}
	}
	return of, why
}

// clear removes what a Destroy has left of an earlier container of this id, so that
// nobody takes it for a part of the new one.
func (p *Provisioner) clear(ctx context.Context, id container.ID) error {
	of, why := p.whatIsLeft(id)
	if why == nil {
		return nil
	}
	_, err := p.Destroy(ctx, of)
	if err == nil {
		_, err = p.whatIsLeft(id)
	}
	if err != nil {
		return fmt.Errorf("%w: what is left of an earlier container %s cannot be removed: %w", container.ErrFailedPrecondition, of, err)
	}
	return nil
}

// destroyRootfses goes by what is on disk, not by the record: no record can be wrong
// about it.
func (p *Provisioner) destroyRootfses(ctx context.Context, id container.ID) error {
	// Mostly all are of one backend, whose directory is the only one.
	errs := []error{destroyIn(ctx, p.Backends[p.Backend], p.Paths.BackendDir(id, p.Backend))}
	if removed(p.Paths.Backends(id)) {
		return errors.Join(errs...)
	}
	backends, err := readDirectories(p.Paths.Backends(id))
	errs = append(errs, err)
	for _, name := range backends {
		if name == p.Backend {
			continue
		}
		b, ok := p.Backends[name]
		if !ok {
			errs = append(errs, fmt.Errorf("%s: backend %q: %w on this host", p.Paths.BackendDir(id, name), name, container.ErrNotSupported))
			continue
		}
		errs = append(errs, destroyIn(ctx, b, p.Paths.BackendDir(id, name)))
	}
	return errors.Join(errs...)
}

// destroyIn destroys what is in a backend's directory, also what has only scratch, and
// removes the directory if nothing else is in it.
func destroyIn(ctx context.Context, b backend.Backend, dir string) error {
	var errs []error
	destroyed := make(map[string]bool)
	rootfses, scratch := dir+"/rootfses", dir+"/scratch"
	for _, in := range []string{rootfses, scratch} {
		if in == scratch && removed(scratch) { // mostly
			continue
		}
		names, err := readDirectories(in)
		errs = append(errs, err)
		for _, name := range names {
			if destroyed[name] {
				continue
			}
			destroyed[name] = true
			_, err := b.Destroy(ctx, state.Rootfs(dir, name), dir)
			errs = append(errs, err)
		}
	}
	err := errors.Join(errs...)
	if err == nil && removed(rootfses) {
		removed(dir)
	}
	return err
}

// removed removes an empty directory and reports whether there is none any more.
func removed(dir string) bool {
	err := disk.Rmdir(dir)
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

// readDirectories lists the directories in dir, which need not exist. Files there are
// nobody's: they go with the container's directory.
func readDirectories(dir string) ([]string, error) {
	entries, err := disk.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// children lists the containers nested in parent, and of the zero ID the root
// containers.
func (p *Provisioner) children(parent container.ID) ([]container.ID, error) {
	entries, err := disk.ReadDir(p.childrenDir(parent))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var ids []container.ID
	for _, e := range entries {
		if id, ok := child(parent, e); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (p *Provisioner) childrenDir(parent container.ID) string {
	if parent.IsZero() {
		return p.Paths.Containers()
	}
	return filepath.Join(p.Paths.Container(parent), "containers")
}

// child returns the container whose directory an entry is, if it is one's.
func child(parent container.ID, e fs.DirEntry) (container.ID, bool) {
	id, err := state.ChildID(parent, e.Name())
	return id, err == nil && e.IsDir()
}
