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
	return r.checkPlace(place, path.Clean(m.Target))
}

// checkLink refuses an open place that is one of the kernel's own or below one, unless
// target names it: a link of the image has led there (CVE-2019-19921).
func (r *root) checkLink(fd int, target string) error {
	place, err := r.place(fd)
	if err != nil {
		return err
	}
	return r.checkPlace(place, target)
}

func (r *root) checkPlace(place, target string) error {
	if place != target && slices.ContainsFunc(r.fixed, func(fixed string) bool { return strings.HasPrefix(place+"/", fixed+"/") }) {
		return fmt.Errorf("a symbolic link leads to %s, which is the kernel's", place)
	}
	return nil
}

// place returns the path in the container of what fd is open on.
func (r *root) place(fd int) (string, error) {
	if r.name == "" { // which stays, as long as this one is not entered
		name, err := nameOf(r.fd)
		if err != nil {
			return "", err
		}
		r.name = name
	}
	name, err := nameOf(fd)
	if err != nil {
		return "", err
	}
	return path.Join("/", strings.TrimPrefix(name, strings.TrimSuffix(r.name, "/"))), nil
}

func nameOf(fd int) (string, error) { return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)) }

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
	if d, err := r.handed.next(m.OfParent); d != nil || err != nil {
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
		if m.Propagation == plan.Private || m.OfParent || p.HandedAll {
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
