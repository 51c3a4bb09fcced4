package inroot

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"berth/container"
)

// Dir opens the directory path below root; links in the path are followed inside root only,
// and what is below the result is reached through it alone. ErrInvalid: it is none, or the
// path leads nowhere. fs.ErrNotExist: there is nothing.
func Dir(root, path string) (*os.Root, error) {
	place, err := locate(root, path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(place)
	var st unix.Stat_t
	if err := unix.Fstat(place, &st); err != nil {
		return nil, &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, fmt.Errorf("%s: %w: it is no directory", path, container.ErrInvalid)
	}
	return os.OpenRoot("/proc/self/fd/" + strconv.Itoa(place))
}
