package initproc

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// unnamed returns a file without a name, in memory.
func unnamed() (*os.File, error) {
	fd, err := unix.MemfdCreate("plan", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	return os.NewFile(uintptr(fd), "plan"), nil
}
