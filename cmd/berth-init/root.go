//go:build linux

package main

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"berth/internal/mount"
)

// root is the container's root while it is made. Paths of the container are resolved
// below it by the kernel (openat2(2)), so that a link of the image leads nowhere else.
type root struct {
	fd    int
	name  string          // of fd, as the host sees it; empty: nobody has asked yet
	tree  *mount.Detached // nil for the host's file system
	fixed []string        // targets of the mounts made so far that are the kernel's own places
	// propagating are the sources that were opened already.
	propagating propagating
	handed      *handed
	uid, gid    uint32 // of the command
}

// openRoot makes a mount of the root filesystem, which becomes the root of the
// container. Device nodes of the image do nothing in it: the container's are in /dev.
func openRoot(rootfs string, handed *handed) (*root, error) {
	if rootfs == "" {
		fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return &root{fd: fd, handed: handed}, step("open /", err)
	}
	place := rootfs
	tree, err := handed.next(false)
	switch {
	case err != nil:
		return nil, err
	case tree != nil:
		// Its own path is out of reach. This one exists, and its mount stays seen as the
		// kernel wants it for a new /proc (user_namespaces(7)).
		place = "/dev"
	default:
		if tree, err = mount.Clone(rootfs, false); err != nil {
			return nil, err
		}
	}
	if err := tree.Set(mount.NoDev, false); err != nil {
		return nil, err
	}
	if err := tree.Attach(place); err != nil {
		return nil, err
	}
	return &root{fd: tree.FD(), tree: tree, handed: handed}, nil
}

func (r *root) close() error {
	if r.tree == nil {
		return unix.Close(r.fd)
	}
	return r.tree.Close()
}

// makeReadOnly concerns the root mount alone, not what is mounted in it.
func (r *root) makeReadOnly() error {
	if r.tree == nil {
		return errors.New("the host's file system cannot be made read-only; run an image")
	}
	return r.tree.Set(mount.ReadOnly, false)
}

// open opens a path of the container as a place (O_PATH). With fixed, a link in it is
// an error; otherwise links are followed inside the root.
func (r *root) open(path string, fixed bool) (int, error) {
	if !fixed {
		return mount.OpenBelow(r.fd, path, 0)
	}
	// Without O_NOFOLLOW, with which O_PATH would open a link at the end itself.
	fd, err := mount.OpenBelow(r.fd, path, unix.RESOLVE_NO_SYMLINKS)
	if errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%w: the image has a symbolic link there, which could lead the kernel's own files elsewhere", err)
	}
	return fd, err
}

// make opens a path and makes what is missing of it: directories, and in the end a
// directory or an empty file.
func (r *root) make(target string, directory, fixed bool) (int, error) {
	target = path.Clean(target)
	fd, err := r.open(target, fixed)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	dir, base := path.Split(target)
	parent, err := r.make(dir, true, fixed)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	if !fixed {
		if err := r.checkLink(parent, path.Clean(dir)); err != nil {
			return -1, err
		}
	}
	if err := makeNode(parent, base, directory); err != nil {
		switch {
		case errors.Is(err, unix.EROFS):
			err = fmt.Errorf("%w: what it is made in is read-only and does not have %s: use an image or a volume that has it, or another --image_provisioner_backend", err, target)
		case errors.Is(err, unix.EEXIST):
			err = fmt.Errorf("%w: the image has a symbolic link at %s that leads to nothing", err, target)
		}
		return -1, err
	}
	return r.open(target, fixed)
}

// makeDirectory makes what is missing of a directory, of owner root.
func (r *root) makeDirectory(dir string) error {
	fd, err := r.make(dir, true, false)
	if err != nil {
		return explainDirectory(err)
	}
	return unix.Close(fd)
}

// openDirectory opens a directory as a place, following links inside the root.
func (r *root) openDirectory(dir string) (int, error) {
	fd, err := r.open(dir, false)
	if err != nil {
		return -1, explainDirectory(err)
	}
	isDir, err := isDirectory(fd)
	if err == nil && !isDir {
		err = explainDirectory(unix.ENOTDIR)
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// explainDirectory says in words what keeps a directory from being one.
func explainDirectory(err error) error {
	switch {
	case errors.Is(err, unix.ELOOP):
		return fmt.Errorf("%w: its symbolic links are a circle, or one is the kernel's own and leads out of the container", err)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: the container has a file in its place or in its path; name another with --workdir", err)
	}
	return err
}

// removeLink removes a symbolic link. What is anything else, or cannot be removed, stays.
func (r *root) removeLink(target string) error {
	parent, err := r.open(path.Dir(target), false)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := r.checkLink(parent, path.Dir(target)); err != nil {
		return err
	}
	var st unix.Stat_t
	base := path.Base(target)
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return nil
	}
	if err := unix.Unlinkat(parent, base, 0); !errors.Is(err, unix.EROFS) {
		return err
	}
	return nil
}

func makeNode(parent int, name string, directory bool) error {
	if directory {
		return unix.Mkdirat(parent, name, 0o755)
	}
	fd, err := unix.Openat(parent, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
