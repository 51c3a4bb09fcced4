package mount

import (
	"fmt"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// Aufs is what an aufs mount stacks, see aufs(5).
type Aufs struct {
	Writable string
	Lowers   []string // topmost first; none twice, none in another
	Links    string   // a directory that does not exist: it is made
}

// branchesAtOnce is how many branches one call names: the kernel keeps the parsed
// options of a call in one page, too.
const branchesAtOnce = 64

// Options returns the options of mount(2), relative to Links: those of the mount, then
// those of each remount that appends what one call cannot name.
//
// "wh" has the whiteouts of read-only branches honoured; "dirperm1" lets the topmost
// branch alone say who may enter a directory; "acl" lets access control lists count.
func (a Aufs) Options() []string {
	calls := []string{"dirperm1,acl,br=" + linkName(0) + "=rw"}
	for i := range a.Lowers {
		branch := linkName(i+1) + "=ro+wh"
		last := len(calls) - 1
		switch {
		case i+1 < branchesAtOnce:
			calls[last] += ":" + branch
		case (i+1)%branchesAtOnce == 0:
			calls = append(calls, "append="+branch)
		default:
			calls[last] += ",append=" + branch
		}
	}
	return calls
}

// Attach mounts the file system at target, an absolute path. ENODEV: the kernel has no
// aufs; ENOSPC, also: it stacks fewer branches.
func (a Aufs) Attach(target string) error {
	err := byLinks(a.Links, append([]string{a.Writable}, a.Lowers...), func() error {
		for i, options := range a.Options() {
			var flags uintptr
			if i > 0 {
				flags = unix.MS_REMOUNT
			}
			if err := disk.Mount("berth", target, "aufs", flags, options); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("mount aufs at %s with %d branches: %w", target, len(a.Lowers)+1, err)
	}
	return nil
}

// Knows reports whether the kernel has the file system type, loading its module if need
// be. ENODEV: it has not.
func Knows(fstype string) error {
	fs, err := disk.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open file system type %s: %w", fstype, err)
	}
	return unix.Close(fs)
}
