package inroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"berth/container"
)

// Owner returns user and group of what is at path below root; links in the path are
// followed inside root only. It is looked at, not opened, so it may be of any kind.
// ErrNotFound, ErrInvalid: the path leads nowhere, or out of root.
func Owner(root, path string) (uid, gid uint32, err error) {
	place, err := locate(root, path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, fmt.Errorf("%w in the image: %w", container.ErrNotFound, err)
	}
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(place)
	var st unix.Stat_t
	if err := unix.Fstat(place, &st); err != nil {
		return 0, 0, &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	return st.Uid, st.Gid, nil
}
