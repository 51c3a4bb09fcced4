package copy

import (
	"errors"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

const openDirectory = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// empty removes everything in the directory dir.
func empty(dir int) error {
	names, err := readNames(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := remove(dir, name); err != nil {
			return err
		}
	}
	return nil
}

// remove removes name and, if it is a directory, everything in it; a name that does
// not exist is removed already.
func remove(parent int, name string) error {
	err := disk.Unlinkat(parent, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	dir, err := disk.Openat(parent, name, openDirectory, 0)
	if err != nil {
		return err
	}
	err = empty(dir)
	unix.Close(dir)
	if err != nil {
		return err
	}
	return disk.Unlinkat(parent, name, unix.AT_REMOVEDIR)
}

// readNames lists a directory.
func readNames(dir int) (names []string, err error) {
	if _, err := disk.Seek(dir, 0, unix.SEEK_SET); err != nil {
		return nil, err
	}
	buffer := make([]byte, 32<<10)
	for {
		n, err := disk.ReadDirent(dir, buffer)
		if err != nil || n == 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
}

func readlink(dir int, name string) (string, error) {
	buffer := make([]byte, unix.PathMax)
	n, err := disk.Readlinkat(dir, name, buffer)
	if err != nil {
		return "", err
	}
	return string(buffer[:n]), nil
}
