package overlay

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// copyAttributes gives the directory to the owner, mode, extended attributes and
// times of the directory from.
func copyAttributes(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return &os.PathError{Op: "stat", Path: from, Err: err}
	}
	if err := os.Chown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	// chown clears setgid, so the mode comes after.
	if err := disk.Chmod(to, st.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: to, Err: err}
	}
	if err := copyXattrs(from, to); err != nil {
		return fmt.Errorf("copy the attributes of %s: %w", from, err)
	}
	return os.Chtimes(to, time.Unix(st.Atim.Unix()), time.Unix(st.Mtim.Unix()))
}

// copyXattrs gives to the extended attributes of from and no others: it may have some of
// its own, such as an access control list from the directory above it. Those that
// overlayfs reads stay as they are, and so does the form in which xfs keeps access
// control lists, which have another name, too.
func copyXattrs(from, to string) error {
	present, err := xattrs(to)
	if err != nil {
		return err
	}
	for _, name := range present {
		if err := disk.Removexattr(to, name); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	wanted, err := xattrs(from)
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for _, name := range wanted {
		n, err := unix.Getxattr(from, name, value)
		if err != nil {
			return fmt.Errorf("get %s: %w", name, err)
		}
		if err := disk.Setxattr(to, name, value[:n], 0); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// xattrs lists the attributes that copyXattrs is about.
func xattrs(path string) ([]string, error) {
	buffer := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Listxattr(path, buffer)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("list: %w", err)
	}
	names := strings.FieldsFunc(string(buffer[:max(n, 0)]), func(r rune) bool { return r == 0 })
	return slices.DeleteFunc(names, func(name string) bool {
		return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "trusted.SGI_ACL_")
	}), nil
}
