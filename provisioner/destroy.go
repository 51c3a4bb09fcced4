package provisioner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"berth/container"
	"berth/internal/disk"
	"berth/state"
)

// Destroy removes the root filesystems of a container and of the containers nested
// in it, and reports whether there was anything. It cancels a provisioning that is
// under way and waits for it. It may be repeated; open files and busy mounts do not
// stop it.
//
// After an error the record is still there, so that another Destroy takes up what is
// left. ErrNotSupported: a root filesystem of a backend that this host does not have.
func (p *Provisioner) Destroy(ctx context.Context, id container.ID) (bool, error) {
	end, err := p.takeOver(ctx, id)
	if err != nil {
		return false, fmt.Errorf("destroy the root filesystems of %s: %w", id, err)
	}
	defer end()
	return p.destroyTree(ctx, id)
}

// destroyTree destroys a claimed container, its children first. A failure of one child
// does not spare the others, but it does spare the parent.
func (p *Provisioner) destroyTree(ctx context.Context, id container.ID) (bool, error) {
	dir := p.Paths.Container(id)
	children, err := p.children(id)
	if err != nil {
		return false, fmt.Errorf("destroy the root filesystems of %s: %w", id, err)
	}
	var errs []error
	for _, child := range children {
		_, err := p.destroyTree(ctx, child)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return true, err
	}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err := p.destroyRootfses(ctx, id); err != nil {
		return true, fmt.Errorf("destroy the root filesystems of %s: %w", id, err)
	}
	// The record goes with the directory, after all that it speaks of.
	if err := removeUnmounted(dir); err != nil {
		return true, fmt.Errorf("destroy the root filesystems of %s: %w", id, err)
	}
	return true, nil
}

// destroyRootfses goes by what is on disk, not by the record: no record can be wrong
// about it.
func (p *Provisioner) destroyRootfses(ctx context.Context, id container.ID) error {
	backends, err := readDirectories(p.Paths.Backends(id))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range backends {
		b, ok := p.Backends[name]
		if !ok {
			errs = append(errs, fmt.Errorf("%s: backend %q: %w on this host", p.Paths.BackendDir(id, name), name, container.ErrNotSupported))
			continue
		}
		dir := p.Paths.BackendDir(id, name)
		rootfses, err := rootfsIDs(dir)
		errs = append(errs, err)
		for _, rootfs := range rootfses {
			_, err := b.Destroy(ctx, state.Rootfs(dir, rootfs), dir)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// rootfsIDs lists what is in a backend's directory, also what has only scratch.
func rootfsIDs(backendDir string) ([]string, error) {
	rootfses, err := readDirectories(filepath.Join(backendDir, "rootfses"))
	if err != nil {
		return nil, err
	}
	scratches, err := readDirectories(filepath.Join(backendDir, "scratch"))
	ids := append(rootfses, scratches...)
	slices.Sort(ids)
	return slices.Compact(ids), err
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

// Recover destroys what containers left that known does not know, also after a
// reboot or a kill at any instruction. known is asked after the containers on disk
// were listed, so that one admitted meanwhile is never taken for a left-over. A
// container that holds a known one stays with that one. A failure for one container
// does not keep the others from being recovered.
func (p *Provisioner) Recover(ctx context.Context, known func(container.ID) bool) error {
	err := errors.Join(p.Layers.Recover(ctx), p.recoverBelow(ctx, container.ID{}, known))
	if err != nil {
		return fmt.Errorf("recover provisioner: %w", err)
	}
	return nil
}

func (p *Provisioner) recoverBelow(ctx context.Context, parent container.ID, known func(container.ID) bool) error {
	children, err := p.children(parent)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range children {
		stays, err := p.anyKnown(id, known)
		switch {
		case err != nil:
		case stays:
			err = p.recoverBelow(ctx, id, known)
		default:
			_, err = p.Destroy(ctx, id)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// anyKnown reports whether the container or one nested in it is known.
func (p *Provisioner) anyKnown(id container.ID, known func(container.ID) bool) (bool, error) {
	if known(id) {
		return true, nil
	}
	children, err := p.children(id)
	for _, child := range children {
		if yes, err := p.anyKnown(child, known); yes || err != nil {
			return yes, err
		}
	}
	return false, err
}

// children lists the containers nested in parent, and of the zero ID the root
// containers.
func (p *Provisioner) children(parent container.ID) ([]container.ID, error) {
	dir := p.Paths.Root()
	if !parent.IsZero() {
		dir = p.Paths.Container(parent)
	}
	return state.Children(dir, parent)
}
