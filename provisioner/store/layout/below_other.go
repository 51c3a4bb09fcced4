//go:build !linux

package layout

import (
	"os"
	"path/filepath"
	"syscall"

	"berth/internal/disk"
)

// openBelow looks at the last part of the name only: layers are unpacked on Linux alone.
func openBelow(dir *disk.File, name string) (*os.File, error) {
	f, err := disk.OpenFile(filepath.Join(dir.Name(), name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return f.File, nil
}
