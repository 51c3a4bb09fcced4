// Package inroot opens files of a root filesystem that a stranger has filled, from
// outside of it.
package inroot

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/container"
)

// Open opens the regular file path below root for reading; links in the path are
// followed inside root only (openat2(2)). What could block or be endless (a FIFO, a
// device), a file of more than max bytes and a path that leads nowhere are errors of
// class ErrInvalid.
func Open(root, path string, max int64) (*os.File, error) {
	place, err := locate(root, path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(place)
	var st unix.Stat_t
	if err := unix.Fstat(place, &st); err != nil {
		return nil, &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > max {
		return nil, fmt.Errorf("%s: %w: it is not a regular file of at most %d bytes", path, container.ErrInvalid, max)
	}
	return os.Open("/proc/self/fd/" + strconv.Itoa(place))
}

// locate returns the place of path below root as a descriptor that opens nothing: opening a
// device can have an effect, and a FIFO can block.
func locate(root, path string) (int, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	how := &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	place, err := unix.Openat2(dir, path, how)
	for errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
		place, err = unix.Openat2(dir, path, how)
	}
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return -1, fmt.Errorf("%s: %w: its links are a circle, lead to the kernel's own, or what it lies in is no directory: %w", path, container.ErrInvalid, err)
	case err != nil:
		return -1, &os.PathError{Op: "openat2", Path: path, Err: err}
	}
	return place, nil
}
