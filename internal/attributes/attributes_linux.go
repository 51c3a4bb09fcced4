package attributes

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// Node is a file, directory or other node. It is never followed if it is a symbolic link.
type Node struct {
	dir  int
	name string // empty: what dir is open on
}

// Open is the node that fd is open on.
func Open(fd int) Node { return Node{dir: fd} }

// At is an entry of the directory that dir is open on.
func At(dir int, name string) Node { return Node{dir, name} }

// Path is the node at path.
func Path(path string) Node { return Node{unix.AT_FDCWD, path} }

// Attributes are those of one node.
type Attributes struct {
	Stat   unix.Stat_t // what else stat(2) says of the node is there, too
	xattrs []xattr
}

type xattr struct {
	name  string
	value []byte
}

// Of reads the attributes of a node.
func Of(n Node) (a Attributes, err error) {
	if a.Stat, err = n.stat(); err != nil {
		return a, err
	}
	a.xattrs, err = n.xattrs()
	return a, err
}

// Copy gives a node the attributes of another. Extended attributes that it has besides
// stay; see Clear.
func Copy(from, to Node) error {
	a, err := Of(from)
	if err != nil {
		return err
	}
	return a.Give(to)
}

// Give gives a node the attributes.
func (a Attributes) Give(n Node) error {
	// What is right already, as it mostly is, costs no transaction of the file system.
	now, err := n.stat()
	if err != nil {
		return err
	}
	rightOwner := now.Uid == a.Stat.Uid && now.Gid == a.Stat.Gid
	if !rightOwner {
		if err := n.chown(int(a.Stat.Uid), int(a.Stat.Gid)); err != nil {
			return fmt.Errorf("chown: %w", err)
		}
	}
	// chown clears setuid, setgid and file capabilities, so these come after. A symbolic
	// link has no mode.
	if (!rightOwner || now.Mode != a.Stat.Mode) && a.Stat.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := n.chmod(a.Stat.Mode & 0o7777); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	for _, x := range a.xattrs {
		if err := n.setXattr(x.name, x.value); err != nil {
			return fmt.Errorf("set attribute %q: %w", x.name, err)
		}
	}
	times := []unix.Timespec{a.Stat.Atim, a.Stat.Mtim}
	if err := disk.UtimesNanoAt(n.dir, n.name, times, n.flags()); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// Clear removes the extended attributes of a node but those that it has of the host's
// security modules. It may have some from the directory above it, such as an access
// control list.
func Clear(n Node) error {
	names, err := n.list()
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	for _, name := range names {
		if ofHost(name) || ofFileSystem(name) {
			continue
		}
		if err := n.removeXattr(name); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("remove attribute %q: %w", name, err)
		}
	}
	return nil
}

// IsOpaque reports whether a directory hides what lower layers have in it: the mark that
// overlayfs reads.
func IsOpaque(n Node) (bool, error) {
	var value [1]byte
	size, err := n.getXattr("trusted.overlay.opaque", value[:])
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ERANGE):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("get attribute: %w", err)
	}
	return size == 1 && value[0] == 'y', nil
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

// xattrs returns the extended attributes but those of the file system.
func (n Node) xattrs() (xattrs []xattr, err error) {
	names, err := n.list()
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	for _, name := range names {
		if ofFileSystem(name) {
			continue
		}
		value, err := sized(func(buffer []byte) (int, error) { return n.getXattr(name, buffer) })
		if err != nil {
			return nil, fmt.Errorf("get attribute %q: %w", name, err)
		}
		xattrs = append(xattrs, xattr{name, value})
	}
	return xattrs, nil
}

func (n Node) list() ([]string, error) {
	list, err := sized(n.listXattrs)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	return strings.FieldsFunc(string(list), func(r rune) bool { return r == 0 }), err
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

// The system calls, for both kinds of a Node.

func (n Node) flags() int {
	if n.name == "" {
		return unix.AT_EMPTY_PATH
	}
	return unix.AT_SYMLINK_NOFOLLOW
}

func (n Node) stat() (st unix.Stat_t, err error) {
	if err := disk.Fstatat(n.dir, n.name, &st, n.flags()); err != nil {
		return st, fmt.Errorf("stat: %w", err)
	}
	return st, nil
}

func (n Node) chown(uid, gid int) error { return disk.Fchownat(n.dir, n.name, uid, gid, n.flags()) }

// chmod follows links: the caller knows that it is none.
func (n Node) chmod(mode uint32) error {
	if n.name == "" {
		return disk.Fchmod(n.dir, mode)
	}
	return disk.Fchmodat(n.dir, n.name, mode, 0)
}

// path names the node for the calls on extended attributes, which have no variant that
// takes a directory descriptor.
func (n Node) path() string {
	if n.dir == unix.AT_FDCWD {
		return n.name
	}
	return "/proc/self/fd/" + strconv.Itoa(n.dir) + "/" + n.name
}

func (n Node) listXattrs(buffer []byte) (int, error) {
	if n.name == "" {
		return disk.Flistxattr(n.dir, buffer)
	}
	return disk.Llistxattr(n.path(), buffer)
}

func (n Node) getXattr(name string, buffer []byte) (int, error) {
	if n.name == "" {
		return disk.Fgetxattr(n.dir, name, buffer)
	}
	return disk.Lgetxattr(n.path(), name, buffer)
}

func (n Node) setXattr(name string, value []byte) error {
	if n.name == "" {
		return disk.Fsetxattr(n.dir, name, value, 0)
	}
	return disk.Lsetxattr(n.path(), name, value, 0)
}

func (n Node) removeXattr(name string) error {
	if n.name == "" {
		return disk.Fremovexattr(n.dir, name)
	}
	return disk.Lremovexattr(n.path(), name)
}
