package layer

import (
	"os"

	"golang.org/x/sys/unix"

	"berth/internal/disk"
)

// exchange swaps two names in one step.
func exchange(a, b string) error {
	if err := disk.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return &os.LinkError{Op: "exchange", Old: a, New: b, Err: err}
	}
	return nil
}
