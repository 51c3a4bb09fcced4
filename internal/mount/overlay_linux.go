package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// Overlay is what an overlay mount stacks.
type Overlay struct {
	Lowers []string // topmost first; at most 500
	Upper  string   // empty: the mount is read-only
	Work   string   // on the file system of Upper
	// Links is a directory that does not exist: it is made where paths are too long
	// for fsconfig(2), and for kernels before 6.8.
	Links string
}

// Options returns the parameters of the mount for fsconfig(2), in order.
//
// "volatile" leaves out the syncs of the upper layer, which nobody reads after a
// crash: a container's root filesystem dies with the container.
func (o Overlay) Options() []Option {
	var options []Option
	for _, lower := range o.Lowers {
		options = append(options, Option{"lowerdir+", lower})
	}
	if o.Upper != "" {
		// The kernel takes backslashes in these two, but not in lowerdir+, as escapes.
		options = append(options,
			Option{"upperdir", escape(o.Upper)}, Option{"workdir", escape(o.Work)},
			Option{"volatile", ""})
	}
	return options
}

func escape(path string) string { return strings.ReplaceAll(path, `\`, `\\`) }

// maxString is how long a string fsconfig(2) takes.
const maxString = 255

// Attach mounts the overlay at target.
func (o Overlay) Attach(target string) error {
	options := o.Options()
	for _, option := range options {
		if len(option.Value) > maxString {
			return o.AttachByLinks(target)
		}
	}
	err := attachByDescriptor(options, target)
	if errors.Is(err, errNoLowerdirPlus) {
		return o.AttachByLinks(target)
	}
	return err
}

// errNoLowerdirPlus: the kernel is older than 6.8.
var errNoLowerdirPlus = errors.New("the kernel does not know lowerdir+")

func attachByDescriptor(options []Option, target string) (err error) {
	detached, err := New("overlay", "berth", options, 0)
	if errors.Is(err, unix.EINVAL) && strings.Contains(err.Error(), "lowerdir+") && !kernelHasLowerdirPlus() {
		return errNoLowerdirPlus
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, detached.Close()) }()
	return detached.Attach(target)
}

// kernelHasLowerdirPlus probes with a directory that certainly exists.
func kernelHasLowerdirPlus() bool {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fs)
	return unix.FsconfigSetString(fs, "lowerdir+", "/") == nil
}

// AttachByLinks mounts the overlay at target, an absolute path, by mount(2).
func (o Overlay) AttachByLinks(target string) error {
	paths := slices.Clone(o.Lowers)
	if o.Upper != "" {
		paths = append(paths, o.Upper, o.Work)
	}
	err := byLinks(o.Links, paths, func() error {
		return disk.Mount("berth", target, "overlay", 0, o.linkOptions())
	})
	if err != nil {
		return fmt.Errorf("mount overlay at %s with %d layers: %w", target, len(o.Lowers), err)
	}
	return nil
}

// linkOptions are the options of mount(2), relative to Links.
func (o Overlay) linkOptions() string {
	names := make([]string, len(o.Lowers))
	for i := range names {
		names[i] = linkName(i)
	}
	options := "lowerdir=" + strings.Join(names, ":")
	if o.Upper != "" {
		options += ",upperdir=" + linkName(len(names)) + ",workdir=" + linkName(len(names)+1) + ",volatile"
	}
	return options
}

// AttachMapped mounts the overlay at target so that the owners of its files are those that a
// user namespace, given by a descriptor, makes of the owners that the layers have. Overlayfs
// cannot be idmapped, but it takes layers that are. Upper, if there is one, and Work are in
// one directory. The files of the calling thread have an owner that the namespace has, or
// nothing can be written.
//
// ErrCannotMap: a file system of the layers cannot be idmapped. ErrOldKernel.
func (o Overlay) AttachMapped(target string, namespace int) (err error) {
	m := mapped{namespace: namespace}
	defer func() { err = errors.Join(err, m.close()) }()
	var files []fileOption
	for _, lower := range o.Lowers {
		fd, err := m.clone(lower)
		if err != nil {
			return err
		}
		files = append(files, fileOption{"lowerdir+", fd})
	}
	var options []Option
	if o.Upper != "" {
		options = append(options, Option{"volatile", ""})
		// Both of one mount, as the kernel wants them.
		scratch, err := m.clone(filepath.Dir(o.Upper))
		if err != nil {
			return err
		}
		for key, path := range map[string]string{"upperdir": o.Upper, "workdir": o.Work} {
			fd, err := m.open(scratch, filepath.Base(path))
			if err != nil {
				return err
			}
			files = append(files, fileOption{key, fd})
		}
	}
	overlay, err := newOf("overlay", "berth", files, options, 0)
	// Linux 6.13 and later do not know the layers, those before not the descriptors.
	if (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBADF)) && !kernelHasDetachedLayers() {
		return ErrOldKernel
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, overlay.Close()) }()
	return overlay.Attach(target)
}

// ErrOldKernel: overlayfs does not take layers that are mounted nowhere. It takes idmapped
// ones since Linux 5.19, by descriptors since 6.13, and of these what is mounted nowhere, or
// was opened with O_PATH, since 6.15.
var ErrOldKernel = errors.New("overlayfs of this kernel takes no idmapped layers by descriptor; it needs Linux 6.15")

// kernelHasDetachedLayers probes with a file system that certainly is one.
func kernelHasDetachedLayers() bool {
	layer, err := New("tmpfs", "probe", nil, 0)
	if err != nil {
		return false
	}
	defer layer.Close()
	fs, err := newOf("overlay", "probe", []fileOption{{"lowerdir+", layer.fd}}, nil, ReadOnly)
	if err != nil {
		return false
	}
	return fs.Close() == nil
}

// mapped are descriptors in idmapped mounts.
type mapped struct {
	namespace int
	fds       []int
}

// clone returns an idmapped mount of path.
func (m *mapped) clone(path string) (int, error) {
	d, err := Clone(path, false)
	if err != nil {
		return -1, err
	}
	m.fds = append(m.fds, d.fd)
	if err := d.Map(m.namespace, false); err != nil {
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	return d.fd, nil
}

// open opens a directory of one.
func (m *mapped) open(dir int, name string) (int, error) {
	fd, err := disk.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	m.fds = append(m.fds, fd)
	return fd, nil
}

func (m *mapped) close() (err error) {
	for _, fd := range m.fds {
		err = errors.Join(err, unix.Close(fd))
	}
	return err
}
