package layer

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncFilesystem writes all that the file system of dir has in memory, and returns
// every write-back error since dir was opened (syncfs(2), Linux 5.8).
func syncFilesystem(dir *os.File) error { return unix.Syncfs(int(dir.Fd())) }
