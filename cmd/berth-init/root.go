//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth/internal/mount"
	"berth/launcher/plan"
)

// root is the container's root while it is made. Paths of the container are resolved
// below it by the kernel (openat2(2)), so that a link of the image leads nowhere else.
type root struct {
	fd    int
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
		return &root{fd: fd}, step("open /", err)
	}
	place := rootfs
	tree, err := handed.next()
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

var mountAttrs = map[plan.Flags]mount.Attr{
	plan.ReadOnly: mount.ReadOnly,
	plan.NoSuid:   mount.NoSuid,
	plan.NoDev:    mount.NoDev,
	plan.NoExec:   mount.NoExec,
}

func attributes(flags plan.Flags) (attr mount.Attr) {
	for flag, a := range mountAttrs {
		if flags&flag != 0 {
			attr |= a
		}
	}
	return attr
}

// mount carries out one mount.
func (r *root) mount(m plan.Mount) error {
	source, directory, err := r.openSource(m)
	if err != nil {
		return err
	}
	defer source.Close()
	if m.Replace {
		if err := r.removeLink(m.Target); err != nil {
			return step("remove the image's symbolic link", err)
		}
	}
	target, err := r.make(m.Target, directory, m.Fixed)
	if m.Replace && errors.Is(err, unix.EROFS) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if err := r.check(target, m, directory); err != nil {
		return err
	}
	if m.Fixed {
		r.fixed = append(r.fixed, m.Target)
	}
	return source.AttachAt(target)
}

// check refuses places on which the kernel would not put the mount, with more words
// than it has, and those to which a link of the image must not have led.
func (r *root) check(target int, m plan.Mount, directory bool) error {
	isDir, err := isDirectory(target)
	switch {
	case err != nil:
		return err
	case isDir != directory:
		return errors.New("one of the mount and of what the image has there is a directory, the other is a file")
	case m.Fixed:
		return nil
	}
	place, err := r.place(target)
	if err != nil {
		return err
	}
	if place == "/" {
		return errors.New("a symbolic link of the image leads to the root itself")
	}
	return r.checkLink(target, path.Clean(m.Target))
}

// checkLink refuses an open place that is one of the kernel's own or below one, unless
// target names it: a link of the image has led there (CVE-2019-19921).
func (r *root) checkLink(fd int, target string) error {
	place, err := r.place(fd)
	if err != nil || place == target {
		return err
	}
	if slices.ContainsFunc(r.fixed, func(fixed string) bool { return strings.HasPrefix(place+"/", fixed+"/") }) {
		return fmt.Errorf("a symbolic link leads to %s, which is the kernel's", place)
	}
	return nil
}

// place returns the path in the container of what fd is open on.
func (r *root) place(fd int) (string, error) {
	names := [2]string{}
	for i, fd := range []int{r.fd, fd} {
		var err error
		if names[i], err = os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)); err != nil {
			return "", err
		}
	}
	return path.Join("/", strings.TrimPrefix(names[1], strings.TrimSuffix(names[0], "/"))), nil
}

// openSource makes the mount, with its flags, before anybody can see it, and says
// whether it is of a directory.
func (r *root) openSource(m plan.Mount) (*mount.Detached, bool, error) {
	if m.Type != "" {
		if m.File {
			d, err := r.newFile(m)
			return d, false, err
		}
		d, err := newFileSystem(m, attributes(m.Flags))
		return d, true, err
	}
	d, err := r.openBind(m)
	if err != nil {
		return nil, false, err
	}
	attr := attributes(m.Flags)
	directory, err := isDirectory(d.FD())
	if err == nil && attr != 0 {
		err = d.Set(attr, true)
	}
	if err != nil {
		return nil, false, errors.Join(err, d.Close())
	}
	return d, directory, nil
}

// openBind returns a bind mount, which is opened already if it is to propagate.
func (r *root) openBind(m plan.Mount) (*mount.Detached, error) {
	if d, ok := r.propagating[m.Target]; ok {
		delete(r.propagating, m.Target)
		return d, nil
	}
	if d, err := r.handed.next(); d != nil || err != nil {
		return d, err
	}
	return mount.CloneBelow(m.Source, m.SubPath)
}

func newFileSystem(m plan.Mount, attr mount.Attr) (*mount.Detached, error) {
	var options []mount.Option
	for _, o := range m.Options {
		options = append(options, mount.Option{Key: o.Key, Value: o.Value})
	}
	return mount.New(m.Type, m.Source, options, attr)
}

// propagating are bind mounts of the host by their targets in the container.
type propagating map[string]*mount.Detached

// openPropagating opens the mounts that take part in what the host mounts later.
func openPropagating(p plan.Plan) (_ propagating, err error) {
	all := make(propagating)
	defer func() {
		if err != nil {
			err = errors.Join(err, all.close())
		}
	}()
	for _, m := range p.Volumes {
		if m.Propagation == plan.Private || p.Handed > 0 {
			continue
		}
		d, err := mount.CloneBelow(m.Source, m.SubPath)
		if err != nil {
			return all, step("mount volume "+m.Target, err)
		}
		all[m.Target] = d
		if m.Propagation == plan.BothWays {
			continue
		}
		if err := d.MakeSlave(); err != nil {
			return all, step("mount volume "+m.Target, err)
		}
	}
	return all, nil
}

func (p propagating) close() (err error) {
	for _, d := range p {
		err = errors.Join(err, d.Close())
	}
	clear(p)
	return err
}

// newFile makes a file on a file system of its own, and the mount of it alone.
func (r *root) newFile(m plan.Mount) (_ *mount.Detached, err error) {
	fs, err := newFileSystem(m, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, fs.Close()) }()
	fd, err := unix.Openat(fs.FD(), "content", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o400)
	if err != nil {
		return nil, step("make the file", err)
	}
	file := os.NewFile(uintptr(fd), "content")
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.Write(m.Content); err != nil {
		return nil, err
	}
	mode := os.FileMode(0o600)
	if m.Flags&plan.ReadOnly != 0 {
		mode = 0o400
	}
	if err := errors.Join(file.Chown(int(r.uid), int(r.gid)), file.Chmod(mode)); err != nil {
		return nil, err
	}
	clone, err := cloneOf(fs, fd)
	if err != nil {
		return nil, err
	}
	if err := clone.Set(attributes(m.Flags), false); err != nil {
		return nil, errors.Join(err, clone.Close())
	}
	return clone, nil
}

// cloneOf makes a bind mount of a file of a file system that is mounted nowhere. Before
// Linux 6.15 only what is in the mount table can be cloned, so it is there meanwhile.
func cloneOf(fs *mount.Detached, file int) (_ *mount.Detached, err error) {
	if clone, err := mount.CloneFD(file, false); !errors.Is(err, unix.EINVAL) {
		return clone, err
	}
	return cloneMounted(fs, file)
}

func cloneMounted(fs *mount.Detached, file int) (_ *mount.Detached, err error) {
	const place = "/dev" // of the host, as this namespace still sees it
	if err := fs.Attach(place); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unix.Unmount(place, unix.MNT_DETACH)) }()
	return mount.CloneFD(file, false)
}

func (r *root) node(n plan.Node) error {
	parent, err := r.make(path.Dir(n.Path), true, true)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	base := path.Base(n.Path)
	if err := unix.Mknodat(parent, base, n.Mode, int(unix.Mkdev(n.Major, n.Minor))); err != nil {
		return err
	}
	return unix.Fchmodat(parent, base, n.Mode&0o7777, 0) // whatever the umask is
}

func (r *root) link(l plan.Link) error {
	parent, err := r.open(path.Dir(l.Path), true)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	return unix.Symlinkat(l.Target, parent, path.Base(l.Path))
}

// mask covers files with the container's /dev/null and directories with an empty
// file system, one for all. A path that does not exist needs no mask; every other
// failure is one, because a mask that is missing shows the host.
func (r *root) mask(paths []string) error {
	var empty emptyDirectory
	defer empty.close()
	for _, p := range paths {
		target, isDir, err := r.openMaskable(p)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return step("mask "+p, err)
		}
		if isDir {
			err = empty.cover(target)
		} else {
			err = r.coverFile(target)
		}
		unix.Close(target)
		if err != nil {
			return step("mask "+p, err)
		}
	}
	return nil
}

func (r *root) openMaskable(p string) (fd int, isDir bool, err error) {
	if fd, err = r.open(p, true); err != nil {
		return -1, false, err
	}
	if isDir, err = isDirectory(fd); err != nil {
		return -1, false, errors.Join(err, unix.Close(fd))
	}
	return fd, isDir, nil
}

func isDirectory(fd int) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

// emptyDirectory is a file system with nothing in it, made when it is first needed.
type emptyDirectory struct{ fs *mount.Detached }

// cover mounts it on a directory. It lies itself on the first one and is cloned for the
// others: before Linux 6.15 only what is in the mount table can be cloned.
func (e *emptyDirectory) cover(target int) (err error) {
	if e.fs == nil {
		if e.fs, err = mount.New("tmpfs", "masked", []mount.Option{{Key: "mode", Value: "555"}}, mount.ReadOnly); err != nil {
			return err
		}
		return e.fs.AttachAt(target)
	}
	clone, err := mount.CloneFD(e.fs.FD(), false)
	if err != nil {
		return err
	}
	defer clone.Close()
	return clone.AttachAt(target)
}

func (e *emptyDirectory) close() {
	if e.fs != nil {
		e.fs.Close()
	}
}

func (r *root) coverFile(target int) error {
	null, err := r.openNull()
	if err != nil {
		return err
	}
	defer unix.Close(null)
	clone, err := mount.CloneFD(null, false)
	if err != nil {
		return err
	}
	defer clone.Close()
	if err := clone.Set(mount.ReadOnly, false); err != nil {
		return err
	}
	return clone.AttachAt(target)
}

// openNull opens /dev/null and makes sure that it is it.
func (r *root) openNull() (int, error) {
	fd, err := r.open("/dev/null", true)
	if err != nil {
		return -1, step("open /dev/null", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		return -1, errors.Join(errors.New("/dev/null is not the null device"), unix.Close(fd))
	}
	return fd, nil
}

// readOnly covers a path with a read-only mount of itself.
func (r *root) readOnly(p string) error {
	target, err := r.open(p, true)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	clone, err := mount.CloneFD(target, false)
	if err != nil {
		return err
	}
	defer clone.Close()
	if err := clone.Set(mount.ReadOnly|mount.NoSuid|mount.NoDev|mount.NoExec, false); err != nil {
		return err
	}
	return clone.AttachAt(target)
}
