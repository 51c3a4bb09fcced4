package copy

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// copyContent makes to the same as from: shared blocks where the file system can
// (FICLONE), else its data regions, with the holes between them.
func copyContent(from, to int, size int64, buffer []byte) error {
	if size == 0 {
		return nil
	}
	if err := unix.IoctlFileClone(to, from); err == nil {
		return nil
	}
	if err := unix.Ftruncate(to, size); err != nil {
		return err
	}
	for offset := int64(0); offset < size; {
		start, err := unix.Seek(from, offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(from, start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := copyRange(from, to, start, end, buffer); err != nil {
			return err
		}
		offset = end
	}
	return nil
}

// copyRange copies the bytes from start to end inside the kernel, or by hand where the
// file system cannot.
func copyRange(from, to int, start, end int64, buffer []byte) error {
	in, out := start, start
	for in < end {
		n, err := unix.CopyFileRange(from, &in, to, &out, int(min(end-in, 1<<30)), 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || n == 0:
			return copyByHand(from, to, in, end, buffer)
		}
	}
	return nil
}

func copyByHand(from, to int, offset, end int64, buffer []byte) error {
	for offset < end {
		n, err := unix.Pread(from, buffer[:min(end-offset, int64(len(buffer)))], offset)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("the layer's file became shorter while it was copied")
		}
		for data := buffer[:n]; len(data) > 0; {
			m, err := unix.Pwrite(to, data, offset)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return err
			}
			data, offset = data[m:], offset+int64(m)
		}
	}
	return nil
}

// copyAttributes gives an open file or directory owner, mode, attributes and times of
// another.
func copyAttributes(from, to int, st *unix.Stat_t) error {
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	// chown clears setuid, setgid and file capabilities, so these come after.
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	if err := throughLinks.copy(procPath(from), procPath(to)); err != nil {
		return err
	}
	return setTimes(to, "", unix.AT_EMPTY_PATH, st)
}

// copyAttributesAt is copyAttributes for a node that cannot be opened without an
// effect.
func copyAttributesAt(source, target int, name string, st *unix.Stat_t) error {
	if err := unix.Fchownat(target, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(target, name, st.Mode&0o7777, 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	if err := ofLinks.copy(procPath(source)+"/"+name, procPath(target)+"/"+name); err != nil {
		return err
	}
	return setTimes(target, name, unix.AT_SYMLINK_NOFOLLOW, st)
}

func setTimes(dir int, name string, flags int, st *unix.Stat_t) error {
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(dir, name, times, flags); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// procPath names what fd is open on, for calls that only take paths.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// xattrCalls are the system calls on extended attributes.
type xattrCalls struct {
	list func(path string, dest []byte) (int, error)
	get  func(path, name string, dest []byte) (int, error)
	set  func(path, name string, value []byte, flags int) error
}

var (
	throughLinks = xattrCalls{unix.Listxattr, unix.Getxattr, unix.Setxattr}
	ofLinks      = xattrCalls{unix.Llistxattr, unix.Lgetxattr, unix.Lsetxattr}
)

// copy copies the extended attributes but those that overlayfs reads.
func (x xattrCalls) copy(from, to string) error {
	n, err := x.list(from, nil)
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	if n == 0 {
		return nil
	}
	list := make([]byte, n)
	if n, err = x.list(from, list); err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for raw := range bytes.SplitSeq(bytes.TrimSuffix(list[:n], []byte{0}), []byte{0}) {
		name := string(raw)
		if strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		size, err := x.get(from, name, value)
		if err != nil {
			return fmt.Errorf("get attribute %q: %w", name, err)
		}
		if err := x.set(to, name, value[:size], 0); err != nil {
			return fmt.Errorf("set attribute %q: %w", name, err)
		}
	}
	return nil
}
