package copy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// attributes are the owner, mode, times and extended attributes of a node.
type attributes struct {
	st     unix.Stat_t
	xattrs []xattr
}

type xattr struct {
	name  string
	value []byte
}

// attributesOf reads the attributes of an open file or directory.
func attributesOf(fd int) (a attributes, err error) {
	if err := unix.Fstat(fd, &a.st); err != nil {
		return a, fmt.Errorf("stat: %w", err)
	}
	a.xattrs, err = node{fd: fd}.xattrs()
	return a, err
}

// give gives the attributes to an open file or directory.
func (a attributes) give(fd int) error {
	// What is right already, as it mostly is, costs no transaction of the file system.
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	rightOwner := now.Uid == a.st.Uid && now.Gid == a.st.Gid
	if !rightOwner {
		if err := disk.Fchown(fd, int(a.st.Uid), int(a.st.Gid)); err != nil {
			return fmt.Errorf("chown: %w", err)
		}
	}
	// chown clears setuid, setgid and file capabilities, so these come after.
	if !rightOwner || now.Mode != a.st.Mode {
		if err := disk.Fchmod(fd, a.st.Mode&0o7777); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	if err := (node{fd: fd}).setXattrs(a.xattrs); err != nil {
		return err
	}
	return setTimes(fd, "", unix.AT_EMPTY_PATH, &a.st)
}

// copyAttributesAt copies the attributes of a node that cannot be opened without an
// effect.
func copyAttributesAt(source, target int, name string, st *unix.Stat_t) error {
	if err := disk.Fchownat(target, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := disk.Fchmodat(target, name, st.Mode&0o7777, 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	xattrs, err := nodeAt(source, name).xattrs()
	if err != nil {
		return err
	}
	if err := nodeAt(target, name).setXattrs(xattrs); err != nil {
		return err
	}
	return setTimes(target, name, unix.AT_SYMLINK_NOFOLLOW, st)
}

func setTimes(dir int, name string, flags int, st *unix.Stat_t) error {
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := disk.UtimesNanoAt(dir, name, times, flags); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// node is what extended attributes belong to: what fd is open on or, where that is
// not possible, the node at path, which is not followed.
type node struct {
	fd   int
	path string
}

// nodeAt names an entry of an open directory for calls that only take paths.
func nodeAt(dir int, name string) node {
	return node{path: "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name}
}

// xattrs returns the extended attributes but those that overlayfs or the file system
// itself reads.
func (n node) xattrs() (xattrs []xattr, err error) {
	names, err := n.listXattrs()
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	for _, name := range names {
		if ofFileSystem(name) {
			continue
		}
		value, err := n.getXattr(name)
		if err != nil {
			return nil, fmt.Errorf("get attribute %q: %w", name, err)
		}
		xattrs = append(xattrs, xattr{name, value})
	}
	return xattrs, nil
}

func (n node) setXattrs(xattrs []xattr) error {
	for _, x := range xattrs {
		if err := n.setXattr(x.name, x.value); err != nil {
			return fmt.Errorf("set attribute %q: %w", x.name, err)
		}
	}
	return nil
}

// clearXattrs removes the extended attributes of an open directory but those of the
// host's security modules.
func (n node) clearXattrs() error {
	names, err := n.listXattrs()
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	for _, name := range names {
		if ofHost(name) || ofFileSystem(name) {
			continue
		}
		if err := disk.Fremovexattr(n.fd, name); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("remove attribute %q: %w", name, err)
		}
	}
	return nil
}

func (n node) listXattrs() ([]string, error) {
	list, err := sized(func(buffer []byte) (int, error) {
		if n.path != "" {
			return unix.Llistxattr(n.path, buffer)
		}
		return unix.Flistxattr(n.fd, buffer)
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	return strings.FieldsFunc(string(list), func(r rune) bool { return r == 0 }), err
}

func (n node) getXattr(name string) ([]byte, error) {
	return sized(func(buffer []byte) (int, error) {
		if n.path != "" {
			return unix.Lgetxattr(n.path, name, buffer)
		}
		return unix.Fgetxattr(n.fd, name, buffer)
	})
}

// sized asks first how large the answer is: nothing, mostly.
func sized(get func([]byte) (int, error)) ([]byte, error) {
	size, err := get(nil)
	if size <= 0 || err != nil {
		return nil, err
	}
	buffer := make([]byte, size)
	size, err = get(buffer)
	return buffer[:max(size, 0)], err
}

func (n node) setXattr(name string, value []byte) error {
	if n.path != "" {
		return disk.Lsetxattr(n.path, name, value, 0)
	}
	return disk.Fsetxattr(n.fd, name, value, 0)
}

// ofHost reports whether the host's security modules give the attribute to every node.
func ofHost(name string) bool {
	switch name {
	case "security.selinux", "security.ima", "security.evm":
		return true
	}
	return strings.HasPrefix(name, "security.SMACK64")
}

// ofFileSystem reports whether the attribute means something to overlayfs, or is the
// form in which xfs keeps an access control list, which has another name, too.
func ofFileSystem(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "trusted.SGI_ACL_")
}
