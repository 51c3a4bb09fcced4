package backend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/disk"
	"berth/internal/mount"
	"berth/layer"
)

// Probe proves that a backend works with root filesystems below root and layers below
// layers, two directories that exist: it writes two layers, provisions a root filesystem
// of them, looks at it, changes it and destroys it. The error says why not.
//
// It leaves nothing behind. Of one that is killed the next Probe removes what is left,
// and so does RecoverProbes.
func Probe(ctx context.Context, b Backend, root, layers string) (err error) {
	return probe(b.Form(), root, layers, func(stack []Layer, dir string) error { return probeStack(ctx, b, stack, dir) })
}

// probedRange is that of no container.
var probedRange = container.IDRange{Start: 1<<32 - 2<<16, Size: 1 << 16}

// ProbeMapped proves in the same way that a backend can make root filesystems for containers
// with user namespaces. ErrNotSupported: why not.
func ProbeMapped(ctx context.Context, b Backend, root, layers string) error {
	if _, ok := b.(Mapper); !ok {
		return fmt.Errorf("%w: it cannot make idmapped root filesystems; use overlay, copy or bind", container.ErrNotSupported)
	}
	return probe(b.Form(), root, layers, func(stack []Layer, dir string) error {
		rootfs := filepath.Join(dir, "rootfses", "probe")
		b := within(b, dir)
		err := b.(Mapper).ProvisionMapped(ctx, stack[:1], rootfs, dir, probedRange)
		if err == nil {
			err = probeOwnerOf(filepath.Join(rootfs, probeFile))
		}
		_, destroyErr := b.Destroy(context.WithoutCancel(ctx), rootfs, dir)
		return errors.Join(err, destroyErr)
	})
}

// within returns the backend as one that shares nothing with root filesystems outside dir: who
// removes what is left of a probe finds all of it there.
func within(b Backend, dir string) Backend {
	if s, ok := b.(Sharer); ok {
		return s.SharedIn(filepath.Join(dir, "shared"))
	}
	return b
}

func probeOwnerOf(file string) error {
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: probeFile, Err: err}
	}
	if want := probedRange.OnHost(probeOwner); st.Uid != want || st.Gid != want {
		return fmt.Errorf("%w: a file that is to be of user and group %d is of %d:%d", container.ErrNotSupported, want, st.Uid, st.Gid)
	}
	return nil
}

// probe writes layers for try, which has a directory of its own.
func probe(form layer.Form, root, layers string, try func(stack []Layer, dir string) error) (err error) {
	if err := RecoverProbes(root, layers); err != nil {
		return err
	}
	layerBench, err := newProbeBench(layers)
	if err != nil {
		return fmt.Errorf("write layers in %s: %w", layers, err)
	}
	defer func() { err = errors.Join(err, layerBench.remove()) }()
	write := writeProbeTrees
	if form == layer.EROFS {
		write = writeProbeErofs
	}
	stack, err := write(layerBench.path)
	if err != nil {
		return fmt.Errorf("write layers in %s: %w", layers, err)
	}
	bench, err := newProbeBench(root)
	if err != nil {
		return fmt.Errorf("make a root filesystem in %s: %w", root, err)
	}
	defer func() { err = errors.Join(err, bench.remove()) }()
	err = try(stack, bench.path)
	if errors.Is(err, container.ErrInvalid) { // it takes a single layer
		err = try(stack[:1], bench.path)
	}
	if err != nil && !errors.Is(err, container.ErrNotSupported) { // which says by itself what does not support it
		err = fmt.Errorf("make a root filesystem in %s of layers in %s: %w", root, layers, err)
	}
	return err
}

// probeStack provisions the layers below dir, looks at what comes of it, and destroys it.
func probeStack(ctx context.Context, b Backend, layers []Layer, dir string) error {
	rootfs := filepath.Join(dir, "rootfses", "probe")
	b = within(b, dir)
	err := b.Provision(ctx, layers, rootfs, dir)
	if err == nil {
		err = inOrder(
			func() error { return probeReading(rootfs, shown(layers)) },
			func() error { return probeWriting(rootfs, shown(layers)) },
		)
	}
	_, destroyErr := b.Destroy(context.WithoutCancel(ctx), rootfs, dir)
	return errors.Join(err, destroyErr)
}

// What the layers of a probe have. The upper one hides probeHidden.
const (
	probeDirectory = "directory"
	probeFile      = "file"
	probeLink      = "hard link"
	probeSymlink   = "symbolic link"
	probeHidden    = "hidden"
	probeContent   = "content"
	probeMode      = 0o4711
	probeOwner     = 1
)

// writeProbeTrees writes what file systems differ in. Where whiteouts cannot be made,
// as on an overlay, layers do not have any, and one layer will do.
func writeProbeTrees(dir string) ([]Layer, error) {
	base, top := filepath.Join(dir, "base"), filepath.Join(dir, "top")
	file := filepath.Join(base, probeFile)
	err := inOrder(
		func() error { return disk.MkdirAll(filepath.Join(base, probeDirectory, probeDirectory), 0o755) },
		func() error { return disk.WriteFile(file, []byte(probeContent), 0o600) },
		func() error { return disk.Chown(file, probeOwner, probeOwner) },
		func() error { return disk.Chmod(file, probeMode) },
		func() error {
			return disk.Linkat(unix.AT_FDCWD, file, unix.AT_FDCWD, filepath.Join(base, probeLink), 0)
		},
		func() error { return disk.Symlink("target", filepath.Join(base, probeSymlink)) },
		func() error { return disk.WriteFile(filepath.Join(base, probeHidden), nil, 0o600) },
		func() error { return disk.Mkdir(top, 0o755) },
	)
	if err != nil {
		return nil, err
	}
	layers := []Layer{{Path: base}, {Path: top, Whiteouts: true}}
	err = inOrder(
		func() error {
			return disk.Mknodat(unix.AT_FDCWD, filepath.Join(top, probeHidden), unix.S_IFCHR, 0)
		},
		func() error { return disk.Setxattr(top, "trusted.overlay.origin", nil, 0) },
	)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
		return layers[:1], nil
	}
	return layers, err
}

func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// shown returns the names that the root filesystem of the layers has.
func shown(layers []Layer) []string {
	names := []string{probeDirectory, probeFile, probeLink, probeSymlink}
	if len(layers) == 1 {
		names = append(names, probeHidden)
	}
	return names
}

// probeReading checks that the root filesystem shows what the layers say.
func probeReading(rootfs string, want []string) error {
	if err := lists(rootfs, want...); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(rootfs, probeLink), &st); err != nil {
		return &os.PathError{Op: "lstat", Path: probeLink, Err: err}
	}
	got := fmt.Sprintf("mode %04o, owner %d:%d, %d names", st.Mode&0o7777, st.Uid, st.Gid, st.Nlink)
	if want := fmt.Sprintf("mode %04o, owner %d:%d, 2 names", probeMode, probeOwner, probeOwner); got != want {
		return fmt.Errorf("it does not keep what images say of their files: one has %s, not %s", got, want)
	}
	return nil
}

// probeWriting tries what an overlay needs of the file system below it. On one that is
// not fit an overlay may be mounted nevertheless, and what was removed stays, or comes
// back. before are the names that the root filesystem has.
func probeWriting(rootfs string, before []string) error {
	dir := filepath.Join(rootfs, probeDirectory)
	err := os.RemoveAll(dir)
	if errors.Is(err, unix.EROFS) {
		return nil // nothing can ever be removed
	}
	rest := slices.DeleteFunc(slices.Clone(before), func(name string) bool { return name == probeDirectory })
	return inOrder(
		func() error { return err },
		func() error { return lists(rootfs, rest...) },
		func() error { return os.Mkdir(dir, 0o755) },
		func() error { return lists(rootfs, before...) },
		func() error { return lists(dir) },
	)
}

// lists checks which names a directory has.
func lists(dir string, want ...string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	// os.ReadDir would leave out what is listed but does not exist.
	got, err := f.Readdirnames(-1)
	slices.Sort(got)
	slices.Sort(want)
	if err == nil && !slices.Equal(got, want) {
		err = fmt.Errorf("names that were removed are there, or others are not: %s has %q, and should have %q", dir, got, want)
	}
	return err
}

// probeBench is a directory that one Probe works in. The Probe holds a lock on it, which
// the kernel frees however its process ends.
type probeBench struct {
	path string
	lock *disk.File
}

const probePrefix = ".probe-"

func newProbeBench(dir string) (*probeBench, error) {
	for {
		path := filepath.Join(dir, probePrefix+rand.Text())
		if err := disk.Mkdir(path, 0o700); err != nil {
			return nil, err
		}
		lock, err := lockProbe(path)
		switch {
		case err == nil:
			return &probeBench{path, lock}, nil
		// Somebody's RecoverProbes saw it before it was locked, and takes it for a left-over.
		case errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, os.ErrNotExist):
		default:
			return nil, errors.Join(err, disk.Remove(path))
		}
	}
}

func (p *probeBench) remove() error {
	_, err := mount.RemoveAll(p.path)
	return errors.Join(err, p.lock.Close())
}

// lockProbe locks what is at path. EWOULDBLOCK: another one has.
func lockProbe(path string) (*disk.File, error) {
	lock, err := disk.Open(path)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		_, err = os.Lstat(path)
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return lock, nil
}

// RecoverProbes removes what killed Probes have left in the directories, mounts too.
// Those that are under way are left alone.
func RecoverProbes(dirs ...string) error {
	var errs []error
	for _, dir := range dirs {
		entries, err := disk.ReadDir(dir)
		errs = append(errs, err)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), probePrefix) {
				errs = append(errs, recoverProbe(filepath.Join(dir, e.Name())))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove what a probe of a backend has left: %w", err)
	}
	return nil
}

func recoverProbe(path string) error {
	lock, err := lockProbe(path)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return (&probeBench{path, lock}).remove()
}
