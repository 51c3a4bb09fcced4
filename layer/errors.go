package layer

import (
	"errors"
	"fmt"
	"syscall"
)

// withRemedy says what to do about a full disk, on which everything in this package
// can fail.
func (s *Store) withRemedy(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: free space on the file system of %s, remove images with `berth rmi`, or choose another --work_dir",
			err, s.dir)
	}
	return err
}

// isFull reports whether an error is that of a full disk or of a quota.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// quote makes a name from an image fit to print.
func quote(name string) string {
	if len(name) > 100 {
		return fmt.Sprintf("%q...", name[:100])
	}
	return fmt.Sprintf("%q", name)
}
