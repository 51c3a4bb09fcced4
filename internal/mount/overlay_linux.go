package mount

import (
	"errors"
	"fmt"
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
