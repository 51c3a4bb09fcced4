package inroot

import (
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Stat tells of what is at path below root, of whatever kind; links in the path are
// followed inside root only. fs.ErrNotExist: there is nothing; ErrInvalid: the path leads
// nowhere.
func Stat(root, path string) (fs.FileInfo, error) {
	place, err := locate(root, path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(place)
	return os.Stat("/proc/self/fd/" + strconv.Itoa(place))
}
