package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
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
	for _, option := range o.Options() {
		if len(option.Value) > maxString {
			return o.AttachByLinks(target)
		}
	}
	err := o.attachByDescriptor(target)
	if errors.Is(err, errNoLowerdirPlus) {
		return o.AttachByLinks(target)
	}
	return err
}

// errNoLowerdirPlus: the kernel is older than 6.8.
var errNoLowerdirPlus = errors.New("the kernel does not know lowerdir+")

func (o Overlay) attachByDescriptor(target string) (err error) {
	detached, err := New("overlay", "berth", o.Options(), 0)
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

// AttachByLinks mounts the overlay at target, an absolute path, by mount(2), whose
// options must fit in one page: the layers are named by short links in o.Links, and
// the mounting thread works from there.
func (o Overlay) AttachByLinks(target string) error {
	if err := o.makeLinks(); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	done := make(chan error)
	go func() {
		// Never unlocked: the thread, whose working directory is its own from here
		// on, ends with the goroutine.
		runtime.LockOSThread()
		done <- o.mountFromLinks(target)
	}()
	return <-done
}

func (o Overlay) makeLinks() error {
	if err := disk.Mkdir(o.Links, 0o700); err != nil {
		return err
	}
	links := map[string]string{}
	for i, lower := range o.Lowers {
		links[strconv.Itoa(i)] = lower
	}
	if o.Upper != "" {
		links["u"], links["w"] = o.Upper, o.Work
	}
	for name, target := range links {
		if err := disk.Symlink(target, filepath.Join(o.Links, name)); err != nil {
			return err
		}
	}
	return nil
}

func (o Overlay) mountFromLinks(target string) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("overlay: unshare: %w", err)
	}
	if err := unix.Chdir(o.Links); err != nil {
		return fmt.Errorf("overlay: %w", &os.PathError{Op: "chdir", Path: o.Links, Err: err})
	}
	// Should this be the main thread, it cannot end, and would keep the file system
	// of Links busy for ever.
	defer unix.Chdir("/")
	options := o.linkOptions()
	if err := disk.Mount("berth", target, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay at %s with %d layers: %w", target, len(o.Lowers), err)
	}
	return nil
}

// linkOptions are the options of mount(2), relative to Links.
func (o Overlay) linkOptions() string {
	numbers := make([]string, len(o.Lowers))
	for i := range numbers {
		numbers[i] = strconv.Itoa(i)
	}
	options := "lowerdir=" + strings.Join(numbers, ":")
	if o.Upper != "" {
		options += ",upperdir=u,workdir=w,volatile"
	}
	return options
}
