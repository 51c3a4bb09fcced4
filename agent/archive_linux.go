package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/containerizer"
	"berth/internal/archive"
	"berth/internal/idmap"
	"berth/internal/inroot"
)

// files implements operator.Files: those that the processes of containers see.
type files agent

// Read implements operator.Files.
func (f *files) Read(ctx context.Context, id container.ID, name string, w io.Writer) error {
	return f.in(ctx, id, name, func(root string, _ container.IDRange) error {
		parent, base := split(name)
		dir, err := inroot.Dir(root, parent)
		if err != nil {
			return err
		}
		defer dir.Close()
		return archive.Pack(ctx, w, dir, base, calledAs(name))
	})
}

// Write implements operator.Files.
func (f *files) Write(ctx context.Context, id container.ID, name string, r io.Reader) error {
	return f.in(ctx, id, name, func(root string, ids container.IDRange) error {
		dir, err := inroot.Dir(root, name)
		as := ""
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, container.ErrInvalid) {
			var parent string
			parent, as = split(name)
			dir, err = inroot.Dir(root, parent)
		}
		if err != nil {
			return err
		}
		defer dir.Close()
		if ids.IsHost() {
			return archive.Unpack(ctx, r, dir, as)
		}
		// Nothing that the container sees can be the host's root's.
		return idmap.AsOwner(ids, func() error { return archive.Unpack(ctx, r, dir, as) })
	})
}

// split returns the directory that a path is in, and its name there.
func split(name string) (parent, base string) {
	parent, base = path.Split(path.Clean("/" + name))
	return parent, cmp.Or(base, ".")
}

// calledAs is what a file is called in an archive.
func calledAs(name string) string {
	if base := path.Base(path.Clean("/" + name)); base != "/" {
		return base
	}
	return "root"
}

// in does something in the root directory of a container with these ids. Links are followed in
// there.
func (f *files) in(ctx context.Context, id container.ID, name string, do func(root string, ids container.IDRange) error) error {
	root, ids, err := f.root(ctx, id)
	if err == nil {
		defer root.Close()
		err = do("/proc/self/fd/"+strconv.Itoa(int(root.Fd())), ids)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", container.ErrNotFound, err)
	}
	if err != nil {
		return fmt.Errorf("%s of container %s: %w", name, id, err)
	}
	return nil
}

// root opens the root directory of a container, with all that is mounted there. The id of
// its process may become another's at any time: so the directory of the process is opened
// first, which stays that of this one, and then the container is asked whether it is its.
func (f *files) root(ctx context.Context, id container.ID) (root *os.File, ids container.IDRange, err error) {
	found, err := f.engine.Inspect(ctx, id)
	if err != nil {
		return nil, ids, err
	}
	process, err := os.Open("/proc/" + strconv.Itoa(found.Pid))
	if err != nil || found.Pid == 0 {
		return nil, ids, fmt.Errorf("%w: it does not run", container.ErrFailedPrecondition)
	}
	defer process.Close()
	all, err := f.engine.Processes(ctx, id)
	if err != nil {
		return nil, ids, err
	}
	if !slices.ContainsFunc(all, func(p containerizer.Process) bool { return p.Pid == found.Pid }) {
		return nil, ids, fmt.Errorf("%w: it does not run", container.ErrFailedPrecondition)
	}
	fd, err := unix.Openat(int(process.Fd()), "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, ids, fmt.Errorf("%w: it does not run: %w", container.ErrFailedPrecondition, err)
	}
	return os.NewFile(uintptr(fd), "root"), found.IDs, nil
}
