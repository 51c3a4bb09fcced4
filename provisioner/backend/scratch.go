package backend

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// MakeRootfs makes the directory of a root filesystem, which must not exist, and
// those above it.
func MakeRootfs(rootfs string) error {
	if err := os.MkdirAll(filepath.Dir(rootfs), 0o700); err != nil {
		return err
	}
	return os.Mkdir(rootfs, 0o755)
}

// RemoveAll removes the trees at paths, none of which may have a mount in it, and
// reports whether there was any.
func RemoveAll(paths ...string) (existed bool, err error) {
	var errs []error
	for _, path := range paths {
		switch _, err := os.Lstat(path); {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			errs = append(errs, err)
			continue
		}
		existed = true
		errs = append(errs, os.RemoveAll(path))
	}
	return existed, errors.Join(errs...)
}
