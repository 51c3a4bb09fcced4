package layout

import (
	"os"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// openBelow opens a file below a directory that a stranger may have filled. Without
// O_NONBLOCK, a FIFO would be waited for.
func openBelow(dir *disk.File, name string) (*os.File, error) {
	fd, err := disk.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
