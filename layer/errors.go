package layer

import (
	"errors"
	"fmt"
	"syscall"
)

// withRemedy says what to do about a full disk, on which everything in this package
// can fail.
func (s *Store) withRemedy(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: free space on the file system of %s, remove images with `berth rmi`, or choose another --work_dir",
			err, s.dir)
	}
	return err
}

// quote makes a name from an image fit to print.
func quote(name string) string {
	if len(name) > 100 {
		return fmt.Sprintf("%q...", name[:100])
	}
	return fmt.Sprintf("%q", name)
}
