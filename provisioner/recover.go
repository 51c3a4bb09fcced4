package provisioner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"berth/container"
	"berth/internal/disk"
)

// Recover destroys what containers left that known does not know, also after a
// reboot or a kill at any instruction. known is asked after the containers on disk
// were listed, so that one admitted meanwhile is never taken for a left-over. A
// container that holds a known one stays with that one.
//
// What it cannot recover, a root filesystem of a backend that this host does not have
// for example, keeps neither it nor its caller from going on: it is logged and counted,
// and nothing is provisioned in its place until it is gone. An error says that nothing
// could be recovered, or that the context ended.
func (p *Provisioner) Recover(ctx context.Context, known func(container.ID) bool) error {
	gone, kept, err := p.judge(container.ID{}, known)
	if err != nil {
		return fmt.Errorf("recover provisioner: %w", err)
	}
	p.destroyAll(ctx, gone)
	if err := p.Layers.Recover(ctx); err != nil {
		p.notRecovered(ctx, err)
	}
	if err := recoverProbes(p.Paths.Root(), p.Layers.Dir()); err != nil {
		p.notRecovered(ctx, err)
	}
	unknown, err := p.unknown(kept)
	if err != nil {
		p.notRecovered(ctx, err)
	}
	for _, path := range unknown {
		p.Log.Warn("left alone: a file that is not berth's", slog.String("path", path))
	}
	if ctx.Err() != nil {
		return fmt.Errorf("recover provisioner: %w", context.Cause(ctx))
	}
	return nil
}

// judge divides the containers below parent into those that go, without what is nested
// in them, and those that stay.
func (p *Provisioner) judge(parent container.ID, known func(container.ID) bool) (gone, kept []container.ID, err error) {
	children, err := p.children(parent)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range children {
		goneBelow, keptBelow, err := p.judge(id, known)
		if err != nil {
			// It may hold a known one, so it stays, too.
			p.notRecovered(context.Background(), err, slog.String("container", id.String()))
			kept = append(kept, id)
			continue
		}
		if len(keptBelow) == 0 && !known(id) {
			gone = append(gone, id)
			continue
		}
		gone = append(gone, goneBelow...)
		kept = append(append(kept, id), keptBelow...)
	}
	return gone, kept, nil
}

// destroyers bounds how many containers are recovered at a time. Most of a destroy is a
// wait for the kernel, which ends many mounts together in hardly more time than one.
const destroyers = 16

func (p *Provisioner) destroyAll(ctx context.Context, ids []container.ID) {
	var group errgroup.Group
	group.SetLimit(destroyers)
	for _, id := range ids {
		group.Go(func() error {
			if _, err := p.Destroy(ctx, id); err != nil {
				p.notRecovered(ctx, err, slog.String("container", id.String()))
			}
			return nil
		})
	}
	_ = group.Wait() // nobody returns any
}

// notRecovered tells what Recover was not able to do, unless that is because it was
// cancelled.
func (p *Provisioner) notRecovered(ctx context.Context, err error, of ...any) {
	if ctx.Err() != nil {
		return
	}
	p.count.recoverErrors.Add(1)
	p.Log.Error("not recovered", append(of, slog.Any("error", err))...)
}

// unknown returns the files in the provisioner's tree that are nobody's. What lies in
// the directory of a container goes with that one.
func (p *Provisioner) unknown(containers []container.ID) (paths []string, err error) {
	var errs []error
	look := func(dir string, ours func(fs.DirEntry) bool) {
		entries, err := disk.ReadDir(dir)
		if !errors.Is(err, fs.ErrNotExist) { // of one that is destroyed meanwhile
			errs = append(errs, err)
		}
		for _, e := range entries {
			if !ours(e) {
				paths = append(paths, filepath.Join(dir, e.Name()))
			}
		}
	}
	look(p.Paths.Root(), func(e fs.DirEntry) bool { return e.Name() == "containers" || isTemporary(e) })
	for _, id := range containers {
		look(p.Paths.Container(id), isOfContainer)
	}
	for _, parent := range append(containers, container.ID{}) {
		look(p.childrenDir(parent), func(e fs.DirEntry) bool { _, ok := child(parent, e); return ok })
	}
	slices.Sort(paths)
	return paths, errors.Join(errs...)
}

// isOfContainer reports whether an entry of a container's directory is berth's.
func isOfContainer(e fs.DirEntry) bool {
	return slices.Contains([]string{"layers", "backends", "containers"}, e.Name()) || isTemporary(e)
}

// isTemporary reports whether an entry is something that berth is just making, such as a
// record that is not renamed yet: it has a leading dot.
func isTemporary(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") }
