package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/container"
	"berth/internal/disk"
)

const (
	opaqueXattr     = "trusted.overlay.opaque"
	originXattr     = "trusted.overlay.origin"
	defaultACLXattr = "system.posix_acl_default"
	paxXattr        = "SCHILY.xattr."
)

// node is the place of an entry: the name base below an open directory. The calls
// on it take the name and never follow it.
type node struct {
	parent    int
	dir, base string
}

func (n node) path() string { return join(n.dir, n.base) }

// procPath names the node for the calls on extended attributes, which have no
// variant that takes a directory descriptor.
func (n node) procPath() string {
	return "/proc/self/fd/" + strconv.Itoa(n.parent) + "/" + n.base
}

// setAttributes gives a node owner, mode and extended attributes.
func setAttributes(n node, hdr *tar.Header) error {
	if err := disk.Fchownat(n.parent, n.base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	// chown clears setuid, setgid and file capabilities, so these come after.
	if hdr.Typeflag != tar.TypeSymlink {
		// fchmodat(2) follows links, but this node was made by us and is none.
		if err := disk.Fchmodat(n.parent, n.base, mode(hdr), 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	ambiguous := false
	for name, value := range xattrs(hdr) {
		if err := disk.Lsetxattr(n.procPath(), name, []byte(value), 0); err != nil {
			return xattrError(name, err)
		}
		ambiguous = ambiguous || strings.HasPrefix(name, "system.") || strings.HasPrefix(name, "security.")
	}
	if !ambiguous {
		return nil
	}
	// The kernel understands these and may change them, or the mode, for example when
	// an access control list and the mode contradict each other.
	diffs, err := attributeDifferences(n, hdr)
	if err == nil && len(diffs) > 0 {
		err = fmt.Errorf("%w: the kernel does not keep its attributes as they are: %s", container.ErrInvalid, strings.Join(diffs, ", "))
	}
	return err
}

func xattrError(name string, err error) error {
	err = fmt.Errorf("set attribute %s: %w", quote(name), err)
	switch {
	case errors.Is(err, unix.ENOSPC):
		// A full disk or, on ext4, more than the block that it has for all attributes of a node.
		return fmt.Errorf("%w (ext4 has no room for attributes of more than 4 KiB, xfs and btrfs have)", err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.ERANGE), errors.Is(err, unix.E2BIG):
		// Such as user.* on a link or a default access control list on a file, which no file system can hold.
		return fmt.Errorf("%w: %w", container.ErrInvalid, err)
	}
	return err
}

// mode returns the permission bits, setuid, setgid and sticky included. They are
// in hdr.Mode as in st_mode; the type bits that old tars have there are dropped.
func mode(hdr *tar.Header) uint32 { return uint32(hdr.Mode) & 0o7777 }

// xattrs yields the extended attributes of hdr but those that a file system would
// interpret, and those of other systems: Linux has four name spaces.
func xattrs(hdr *tar.Header) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for key, value := range hdr.PAXRecords {
			name, ok := strings.CutPrefix(key, paxXattr)
			if ok && onLinux(name) && !interpreted(name) && !yield(name, value) {
				return
			}
		}
	}
}

func onLinux(name string) bool {
	space, _, _ := strings.Cut(name, ".")
	return space == "user" || space == "trusted" || space == "security" || space == "system"
}

// interpreted reports whether overlayfs would interpret the attribute, or xfs, which
// keeps access control lists in such.
func interpreted(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") ||
		strings.HasPrefix(name, "trusted.SGI_ACL_")
}

// ofHost reports whether the host gives the attribute to files by itself: labels
// and measurements of its security modules, the form in which xfs keeps access
// control lists, our own marks.
func ofHost(name string) bool {
	switch name {
	case opaqueXattr, originXattr, "security.selinux", "security.ima", "security.evm":
		return true
	}
	return strings.HasPrefix(name, "security.SMACK64") || strings.HasPrefix(name, "trusted.SGI_ACL_")
}

// clearXattrs removes the extended attributes of a node.
func clearXattrs(n node) error {
	names, err := listXattrs(n)
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	for _, name := range names {
		if ofHost(name) {
			continue
		}
		if err := disk.Lremovexattr(n.procPath(), name); err != nil && err != unix.ENODATA {
			return fmt.Errorf("remove attribute %s: %w", quote(name), err)
		}
	}
	return nil
}

const maxXattr = 64 << 10 // of one value, and of the list of names: XATTR_SIZE_MAX, XATTR_LIST_MAX

func listXattrs(n node) ([]string, error) {
	list, err := growing(func(buffer []byte) (int, error) { return disk.Llistxattr(n.procPath(), buffer) })
	if err == unix.EOPNOTSUPP {
		return nil, nil
	}
	return strings.FieldsFunc(list, func(r rune) bool { return r == 0 }), err
}

func getXattr(n node, name string) (string, error) {
	return growing(func(buffer []byte) (int, error) { return disk.Lgetxattr(n.procPath(), name, buffer) })
}

// growing calls get with a small buffer, which is mostly enough, or with a large one.
func growing(get func([]byte) (int, error)) (string, error) {
	buffer := make([]byte, 256)
	size, err := get(buffer)
	if err == unix.ERANGE {
		buffer = make([]byte, maxXattr)
		size, err = get(buffer)
	}
	if err != nil {
		return "", err
	}
	return string(buffer[:size]), nil
}

// attributeDifferences says which of owner, mode and extended attributes are not as
// hdr has them.
func attributeDifferences(n node, hdr *tar.Header) (diffs []string, err error) {
	var st unix.Stat_t
	if err := disk.Fstatat(n.parent, n.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, err
	}
	if uint64(st.Uid) != uint64(hdr.Uid) || uint64(st.Gid) != uint64(hdr.Gid) {
		diffs = append(diffs, fmt.Sprintf("its owner is %d:%d, not %d:%d", st.Uid, st.Gid, hdr.Uid, hdr.Gid))
	}
	if got, want := st.Mode&0o7777, mode(hdr); got != want && hdr.Typeflag != tar.TypeSymlink {
		diffs = append(diffs, fmt.Sprintf("its mode is %04o, not %04o", got, want))
	}
	names, err := listXattrs(n)
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	wanted := make(map[string]bool)
	for name, want := range xattrs(hdr) {
		wanted[name] = true
		got, err := getXattr(n, name)
		if err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP {
			return nil, fmt.Errorf("read attribute %s: %w", quote(name), err)
		}
		if err != nil || got != want {
			diffs = append(diffs, fmt.Sprintf("its attribute %s has changed", quote(name)))
		}
	}
	for _, name := range names {
		if !wanted[name] && !ofHost(name) {
			diffs = append(diffs, fmt.Sprintf("it has an attribute %s of its own", quote(name)))
		}
	}
	return diffs, nil
}

// Times before 1901 and after 2446 do not fit into the inodes of ext4. The kernel
// moves them to these bounds, silently, and so do we, so that Check knows what to
// find on any file system.
const (
	minTime = -1 << 31
	maxTime = 1<<34 - 1<<31 - 1
)

// times returns when a node was accessed and modified.
func times(hdr *tar.Header) [2]unix.Timespec {
	modified := timespec(hdr.ModTime)
	if hdr.AccessTime.IsZero() {
		return [2]unix.Timespec{modified, modified}
	}
	return [2]unix.Timespec{timespec(hdr.AccessTime), modified}
}

func timespec(t time.Time) unix.Timespec {
	switch seconds := t.Unix(); {
	case seconds <= minTime:
		return unix.Timespec{Sec: minTime}
	case seconds >= maxTime:
		return unix.Timespec{Sec: maxTime}
	default:
		return unix.Timespec{Sec: seconds, Nsec: int64(t.Nanosecond())}
	}
}

// setTimes dates the node that path names below dir.
func setTimes(dir int, path string, times [2]unix.Timespec) error {
	if err := disk.UtimesNanoAt(dir, path, times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}
